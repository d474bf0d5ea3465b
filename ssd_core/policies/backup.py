"""What a session does when its outcome was not prepared for: go on at once with what prompt look-up says, or wait for its draft to grow
some levels. Only the session that missed is concerned; hits in the same batch never wait for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

from ssd_core import theory
from ssd_core.average import Average
from ssd_core.config import BackupName, PresetName, SpeculationConfig

PRESET_BACKUPS: dict[PresetName, BackupName] = {"ssd": "none", "saguaro": "by-batch", "ssd-tree": "by-gain"}
TRIAL_EVERY = 32
"""One miss in so many does what seems the worse, or its figures would never change."""


@dataclass(slots=True)
class MissEstimates:
    """Learned on line from the rounds of one preset, at one level of load."""

    hit_rate: Average = field(default_factory=lambda: Average(0.8))
    tokens_after_hit: Average = field(default_factory=lambda: Average(3.0))
    tokens_after_wait: Average = field(default_factory=lambda: Average(2.5))
    tokens_alone: Average = field(default_factory=lambda: Average(1.0))
    """Of rounds that went on at once after a miss."""
    wait_s: Average = field(default_factory=lambda: Average(0.0))
    """From a miss to the launch of the session's next round, when it waited."""
    num_misses: int = 0

    def observe_round(self, is_after_hit: bool, has_waited: bool, num_tokens: int) -> None:
        after = self.tokens_after_hit if is_after_hit else self.tokens_after_wait if has_waited else self.tokens_alone
        after.add(num_tokens)

    @property
    def tokens_per_round(self) -> float:
        hits = self.hit_rate.value
        return hits * self.tokens_after_hit.value + (1.0 - hits) * self.tokens_alone.value


@dataclass(frozen=True, slots=True)
class Miss:
    """One session's miss."""

    num_sessions: int
    """Running now."""
    tokens_alone: float
    """What its next round yields if it begins at once: the bonus token, and what is expected of guesses by prompt look-up."""
    round_s: float
    """From a launch to the next, lately."""
    learned: MissEstimates


@dataclass(frozen=True, slots=True)
class Pause:
    """A session's next round begins when its draft has grown so many levels below the new root, or after so long."""

    num_levels: int
    limit_s: float


class Backup(Protocol):
    @property
    def num_guesses(self) -> int:
        """Most tokens guessed by prompt look-up."""

    def pause(self, miss: Miss) -> Pause | None:
        """None: the next round begins at once."""


@dataclass(frozen=True, slots=True)
class GoOn:
    """`none` and `ngram`."""

    num_guesses: int

    def pause(self, miss: Miss) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Wait:
    """`wait`: the neural backup."""

    num_levels: int
    num_guesses = 0

    def pause(self, miss: Miss) -> Pause:
        return Pause(self.num_levels, math.inf)


@dataclass(frozen=True, slots=True)
class ByBatch:
    """`by-batch`, as published: below the critical batch size b* the neural backup, above it the fast one (Theorem 17)."""

    num_levels: int
    num_guesses: int

    def pause(self, miss: Miss) -> Pause | None:
        learned = miss.learned
        slow = theory.Backup(learned.tokens_after_wait.value, learned.wait_s.value / miss.round_s)
        fast = theory.Backup(miss.tokens_alone, 0.0)
        hidden_growth = 1.0  # it goes on until the verdict falls, and no longer
        size = theory.critical_batch(learned.hit_rate.value, learned.tokens_after_hit.value, hidden_growth, fast, slow)
        return Pause(self.num_levels, math.inf) if miss.num_sessions < size else None


@dataclass(frozen=True, slots=True)
class ByGain:
    """`by-gain`: wait where the tokens it gains are worth the time, at the rate at which such a session yields tokens otherwise; but no
    longer than they are, or than a round takes."""

    num_levels: int
    num_guesses: int

    def pause(self, miss: Miss) -> Pause | None:
        learned = miss.learned
        learned.num_misses += 1
        gained_tokens = learned.tokens_after_wait.value - miss.tokens_alone
        worth_s = gained_tokens * miss.round_s / learned.tokens_per_round
        is_trial = learned.num_misses % TRIAL_EVERY == 0
        if (worth_s > learned.wait_s.value) == is_trial:
            return None
        return Pause(self.num_levels, max(worth_s, miss.round_s))


def build_backup(speculation: SpeculationConfig) -> Backup:
    if speculation.preset in ("ar", "sd", "tree"):
        return GoOn(0)  # they have no misses
    match speculation.backup or PRESET_BACKUPS[speculation.preset]:
        case "none":
            return GoOn(0)
        case "ngram":
            return GoOn(speculation.backup_tokens)
        case "wait":
            return Wait(speculation.backup_levels)
        case "by-batch":
            return ByBatch(speculation.backup_levels, speculation.backup_tokens)
        case "by-gain":
            return ByGain(speculation.backup_levels, speculation.backup_tokens)

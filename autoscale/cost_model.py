"""What targets and drafts of some size do in a second, for the simulator: from measured passes and steps, and the theory.

A target pass verifies the chains of its sessions; meanwhile each draft steps through the sessions that lease it. How many levels a window
gets varies around its mean (Poisson: best-first growth serves the likeliest first). The target submits chains as long as pays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

from ssd_core.theory import Backup, Scheme, accepted_tokens
from ssd_core.types import StepTimes

LOOKAHEADS = (1, 2, 3, 4, 6, 8, 12, 16)
PER_DOUBLING = 16
"""Loads are rounded to so many steps, 4 % each, of a doubling: what has been computed once is looked up."""

H100_GROWTH_STEP = StepTimes((8, 16, 64, 90), (0.0020, 0.0022, 0.0036, 0.0065))
"""0.6B on an H100, everything included (tests/bench/NOTES.md)."""
H100_TARGET_PASS = StepTimes(
    (1, 8, 16, 32, 48, 64, 96, 128, 192, 256), (0.0242, 0.0243, 0.0244, 0.0249, 0.0263, 0.0266, 0.0306, 0.0310, 0.0575, 0.0619)
)
"""32B on an H100, several sessions (tests/bench/NOTES.md)."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one target with its share of the drafts."""

    tokens_per_s: float
    plain_tokens_per_s: float
    """Without speculation."""
    windows_per_s: float = 0.0
    """Of all its sessions; so is the next."""
    starved_per_s: float = 0.0
    steps_per_s: float = 0.0
    """Of each draft, which never rests."""
    step_nodes: float = 0.0

    def scaled(self, share: float) -> Speed:
        """Of so many times the sessions, each as quick."""
        return replace(
            self,
            tokens_per_s=self.tokens_per_s * share,
            plain_tokens_per_s=self.plain_tokens_per_s * share,
            windows_per_s=self.windows_per_s * share,
            starved_per_s=self.starved_per_s * share,
        )


@dataclass(frozen=True, slots=True)
class CostModel:
    """A pair of models on its devices."""

    name: str = "pair"
    target_pass: StepTimes = H100_TARGET_PASS
    growth_step: StepTimes = H100_GROWTH_STEP
    pass_stretch: float = 1.0
    """A pass takes so many times what `target_pass` says."""
    acceptance: float = 0.93
    """Of a token whose predecessors were accepted. With the next two it gives the 5.6 tokens a round measured at batch 8 within a tenth."""
    hit_rate: float = 0.72
    """Of outcomes whose window had growth enough. Measured at batch 8."""
    growth_nodes: float = 8.0
    """Of a session in a step: 59 nodes for eight sessions."""
    max_sessions: int = 8
    """Of a target: what 6.5 GiB of KV cells hold at 3,300 tokens of context."""
    target_devices: float = 1.0
    draft_devices: float = 1.0
    target_start_s: float = 60.0
    """From the decision to the first session; so is the next."""
    draft_start_s: float = 20.0

    def speed(self, sessions: float, drafts: float) -> Speed:
        """Of a target with so many sessions and drafts, on average."""
        rounded = _rounded(max(sessions, 1.0))
        return _speed(self, rounded, _rounded(drafts) if drafts else 0.0).scaled(sessions / rounded)

    def cost(self, targets: float, drafts: float) -> float:
        """Devices."""
        return targets * self.target_devices + drafts * self.draft_devices


PAIR = CostModel()
FOUR_AND_ONE = CostModel("four-and-one", pass_stretch=11.5 / 24.2, max_sessions=32, target_devices=4.0)
"""To try more drafts than targets: a target on four devices, a draft on one, a window of 11.5 ms instead of the pair's 24.2, and room for
more sessions. Assumed, not measured."""
MODELS = {model.name: model for model in (PAIR, FOUR_AND_ONE)}


def _rounded(value: float) -> float:
    return float(2.0 ** (round(math.log2(value) * PER_DOUBLING) / PER_DOUBLING))


@cache
def _speed(model: CostModel, sessions: float, drafts: float) -> Speed:
    plain = sessions / (model.pass_stretch * model.target_pass.at(sessions))
    if not drafts:
        return Speed(plain, plain)
    step_nodes = model.growth_nodes * max(sessions / drafts, 1.0)
    best = max((_speculating(model, sessions, step_nodes, lookahead) for lookahead in LOOKAHEADS), key=lambda speed: speed.tokens_per_s)
    return replace(best, plain_tokens_per_s=plain)


def _speculating(model: CostModel, sessions: float, step_nodes: float, lookahead: int) -> Speed:
    window_s = model.pass_stretch * model.target_pass.at(sessions * (1 + model.hit_rate * lookahead))
    levels = window_s / model.growth_step.at(step_nodes)
    got = [math.exp(-levels)]
    """[j]: share of windows with j levels; those with `lookahead` or more are left out."""
    for level in range(1, lookahead):
        got.append(got[-1] * levels / level)
    at_least = [1 - sum(got[:level]) for level in range(1, lookahead + 1)]
    hit_tokens = accepted_tokens([model.acceptance**level * share for level, share in enumerate(at_least, 1)])
    scheme = Scheme(model.hit_rate, hit_tokens, 1.0, Backup(1.0, 0.0))
    starved = model.hit_rate * sum(model.acceptance**level * share for level, share in enumerate(got))
    windows_per_s = sessions / window_s
    return Speed(
        tokens_per_s=windows_per_s * scheme.tokens_per_round,
        plain_tokens_per_s=0.0,
        windows_per_s=windows_per_s,
        starved_per_s=windows_per_s * starved,
        steps_per_s=levels / window_s,
        step_nodes=step_nodes,
    )

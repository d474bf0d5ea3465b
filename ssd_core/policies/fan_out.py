"""How many bonus tokens to guess at each place where a submitted chain may end: F_k after exactly k acceptances, K the chain's length.

Guessed bonus tokens never include the token that was itself submitted there: it would have been accepted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from math import log
from typing import Protocol

from ssd_core.samples import learns
from ssd_core.tree import Node, by_reach

MAX_FAN_OUT = 11
"""A draft keeps a dozen candidates after a node, and one of them may be the submitted token."""


class FanOut(Protocol):
    @property
    def num_children(self) -> int:
        """Children that must be proposed below an evaluated node."""

    def bonuses(self, ends: Sequence[Node], followers: Sequence[Node | None], is_after_hit: bool) -> list[Node]:
        """Children to prepare for. `ends[k]` is where k tokens were accepted, `followers[k]` the submitted child there; all evaluated.
        `is_after_hit`: the chain itself had been prepared."""


@dataclass(frozen=True, slots=True)
class Uniform:
    """F everywhere."""

    fan_out: int

    @property
    def num_children(self) -> int:
        return self.fan_out + 1

    def bonuses(self, ends: Sequence[Node], followers: Sequence[Node | None], is_after_hit: bool) -> list[Node]:
        return [child for end, follower in zip(ends, followers, strict=True) for child in _likeliest(end, follower, self.fan_out)]


@dataclass(frozen=True, slots=True)
class BestFirst:
    """The likeliest outcomes of this very chain, as many as uniform fan-out would prepare for."""

    fan_out: int
    num_children = MAX_FAN_OUT

    def bonuses(self, ends: Sequence[Node], followers: Sequence[Node | None], is_after_hit: bool) -> list[Node]:
        outcomes = [child for end, follower in zip(ends, followers, strict=True) for child in _likeliest(end, follower, MAX_FAN_OUT)]
        return sorted(outcomes, key=by_reach, reverse=True)[: self.fan_out * len(ends)]


class Geometric:
    """The capped geometric series, with what was learned of sessions of this kind, after hits and after misses."""

    num_children = MAX_FAN_OUT

    def __init__(self, fan_out: int, estimates: Estimates) -> None:
        self._fan_out = fan_out
        self._estimates = estimates

    def bonuses(self, ends: Sequence[Node], followers: Sequence[Node | None], is_after_hit: bool) -> list[Node]:
        budget = self._fan_out * len(ends)
        learned = self._estimates[is_after_hit]
        fan_outs = geometric(len(ends) - 1, budget, learned.acceptance, learned.exponent)
        return [child for end, follower, f in zip(ends, followers, fan_outs, strict=True) for child in _likeliest(end, follower, f)]


def _likeliest(end: Node, follower: Node | None, count: int) -> list[Node]:
    others = [child for child in end.children.values() if child is not follower]
    return sorted(others, key=by_reach, reverse=True)[:count]


def geometric_shares(lookahead: int, budget: float, acceptance: float, exponent: float) -> list[float]:
    """Theorem 12 (Kumar, Dao, May 2026): F_k = F_0 a^(k / (1 + r)) for k < K, F_K = F_0 a^(K / (1 + r)) (1 - a)^(-1 / (1 + r)), with
    sum F_k = `budget`. A token is accepted with probability a, and F guesses miss a bonus with probability F^-r. After the last token there
    is no rejection: its outcome lacks the factor (1 - a), so F_K is larger."""
    power = 1.0 / (1.0 + exponent)
    weights = [acceptance ** (k * power) for k in range(lookahead)]
    weights.append(acceptance ** (lookahead * power) * (1.0 - acceptance) ** -power)
    return [budget * weight / sum(weights) for weight in weights]


def geometric(lookahead: int, budget: int, acceptance: float, exponent: float) -> list[int]:
    """The same in whole numbers of at most MAX_FAN_OUT, by largest remainders; what the cap cuts off goes to the others."""
    places = range(lookahead + 1)
    budget = min(budget, MAX_FAN_OUT * len(places))
    shares = geometric_shares(lookahead, budget, acceptance, exponent)
    fan_outs = [min(int(share), MAX_FAN_OUT) for share in shares]
    for _ in range(budget - sum(fan_outs)):
        k = max((k for k in places if fan_outs[k] < MAX_FAN_OUT), key=lambda k: shares[k] - fan_outs[k])
        fan_outs[k] += 1
    return fan_outs


_DECAY = 0.998  # remembers some five hundred rounds
_PRIOR_ACCEPTED, _PRIOR_REJECTED = 8.0, 2.0
_PRIOR_EXPONENT = 1.0


class OutcomeEstimates:
    """Acceptance a and miss exponent r, learned on line from the outcomes of rounds."""

    def __init__(self) -> None:
        self._accepted, self._rejected = _PRIOR_ACCEPTED, _PRIOR_REJECTED
        self._num_bonuses = 0.0
        self._missed = [0.0] * MAX_FAN_OUT
        """[F - 1] = bonus tokens that were not among the F likeliest guesses."""

    @learns
    def observe(self, num_accepted: int, is_rejected: bool, bonus_rank: int) -> None:
        """A round accepted so many tokens of its chain, then rejected one or came to its end; its bonus token stood at `bonus_rank` (0 =
        likeliest) among the guesses there, or beyond."""
        self._accepted = _DECAY * self._accepted + num_accepted
        self._rejected = _DECAY * self._rejected + is_rejected
        self._num_bonuses = _DECAY * self._num_bonuses + 1.0
        self._missed = [_DECAY * missed + (bonus_rank >= f) for f, missed in zip(count(1), self._missed)]

    @property
    def acceptance(self) -> float:
        """Of one token, strictly between 0 and 1."""
        return min(max(self._accepted / (self._accepted + self._rejected), 0.02), 0.98)

    def miss_rates(self) -> list[float]:
        """[F - 1] = probability that F guesses miss the bonus token, half an observation added to each side."""
        return [(missed + 0.5) / (self._num_bonuses + 1.0) for missed in self._missed]

    @property
    def exponent(self) -> float:
        """r of the power law miss(F) ~ F^-r: least squares of log miss on log F."""
        if self._num_bonuses < 20.0:
            return _PRIOR_EXPONENT
        return fitted_exponent(self.miss_rates())


Estimates = Mapping[bool, OutcomeEstimates]
"""After hits (True) and after misses."""


def fitted_exponent(miss_rates: Sequence[float]) -> float:
    """-slope of log(miss_rates[F - 1]) against log F, at least 0.05."""
    x = [log(f) for f in range(1, len(miss_rates) + 1)]
    y = [log(rate) for rate in miss_rates]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)
    return max(-slope, 0.05)

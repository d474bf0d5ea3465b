"""How many draft actors. Pure: the clock and the sample are arguments, the state goes in and out.

What drives it is the share of verify windows that ended with too little growth: with one more level of growth, each of those would have
emitted one token more. The sessions of D drafts spread over d make growth steps shorter, and a window has more of them, by the times of a
step. So, with E tokens of a window and starved share s now,

    E(d) = E + s (levels(d) - levels(D))        cost(d) = targets x target_cost + d x draft_cost

and the best d near D has the most tokens per cost. It sets the ratio of drafts to demand: the geometric mean of sessions and targets, with
what starting targets will take from the queue. Sessions alone fall by a quarter when targets get a fifth of room (fewer are each quicker),
and drafts that follow them make targets slow again. Where speculation does not pay, the pool is halved until it does, or is empty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from autoscale.config import DraftPolicyConfig
from autoscale.guard import GuardState, is_usable, resized
from autoscale.load import LoadSample

SETTLED = 0.1
"""While more than this share of a pool is starting, its sessions do not yet meet the drafts that are meant for them."""
FACTORS = (0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.5)
"""By one of these a sample changes the ratio. Farther off, the starved share would not stay as it is."""
SMOOTHING = 0.1
"""The ratio falls by so much of the way, in logarithms: sessions come and go by chance, and too few drafts make all targets slow."""
SMALL = 6
"""A pool of fewer drafts changes by one, and at once: there is nothing between."""


@dataclass(frozen=True, slots=True)
class DraftState:
    guard: GuardState
    ratio: float = 0.0
    """Of drafts to demand that paid lately; 0: not known, one draft finds out. Kept while nothing runs."""
    unpaid_s: float = -math.inf
    """When speculation last did not pay."""


def decide_drafts(config: DraftPolicyConfig, state: DraftState, sample: LoadSample | None, now: float) -> DraftState:
    """The wanted number is `guard.size` of what is returned. Whoever acts drains before stopping."""
    if sample is None or not is_usable(config.guard, state.guard, sample, now):
        return state
    judged = _judge(config, state, sample, now)
    guard = resized(config.guard, judged.guard, _wanted(config, judged, sample, now), now)
    return replace(judged, guard=replace(guard, sampled_s=sample.time_s))


def _judge(config: DraftPolicyConfig, state: DraftState, sample: LoadSample, now: float) -> DraftState:
    """What the sample says about speculation, once the drafts that were asked for are there."""
    if not sample.running or not sample.pool.num_drafts or not _is_settled(sample):
        return state
    factor = best_factor(config, sample)
    present = sample.pool.num_drafts / _demand(sample)
    seen = factor * present
    if factor <= 1 and not _pays(config, sample):
        if sample.pool.num_drafts == 1:
            return replace(state, ratio=0.0, unpaid_s=now)
        return replace(state, ratio=present / 2)  # half as many may still pay
    # A sample sees no farther than its factor. What paid lately may lie beyond it: sessions came or went faster than drafts.
    paid = state.ratio or seen
    if factor > 1:
        seen = max(paid, seen)
    elif factor < 1:
        seen = paid * min(1.0, seen / paid) ** (SMOOTHING if sample.pool.num_drafts >= SMALL else 1.0)
    return replace(state, ratio=seen)


def _wanted(config: DraftPolicyConfig, state: DraftState, sample: LoadSample, now: float) -> float:
    if sample.is_idle or now - state.unpaid_s < config.retry_s:
        return 0
    coming = 1 + sample.num_starting_targets / max(sample.num_targets, 1) if sample.queued else 1.0
    return max(1.0, state.ratio * _demand(sample) * coming)


def _sessions(sample: LoadSample) -> float:
    """Of all targets: those that did not report have as many as the rest."""
    return sample.running / sample.reported_share


def _demand(sample: LoadSample) -> float:
    return math.sqrt(_sessions(sample) * sample.num_targets)


def _is_settled(sample: LoadSample) -> bool:
    return sample.pool.num_starting <= SETTLED * sample.pool.num_drafts and sample.num_starting_targets <= SETTLED * sample.num_targets


def _pays(config: DraftPolicyConfig, sample: LoadSample) -> bool:
    """Against the same targets alone. Where they have seen for themselves that it does not, no windows are looked up."""
    targets_alone = _cost(config, sample, 0.0)
    return sample.windows > 0 and sample.tokens / _cost(config, sample, 1.0) > sample.plain_tokens / targets_alone


def best_factor(config: DraftPolicyConfig, sample: LoadSample) -> float:
    """By how much the serving drafts should be multiplied; 1 where a change would bring too little. The sample has sessions and drafts."""
    best = max(_factors(sample.pool.num_drafts), key=lambda factor: _tokens(sample, factor) / _cost(config, sample, factor))
    if best == 1:
        return 1.0
    gain = (_tokens(sample, best) - _tokens(sample, 1.0)) / max(sample.tokens, 1.0)
    price = (_cost(config, sample, best) - _cost(config, sample, 1.0)) / _cost(config, sample, 1.0)
    return best if abs(gain / price - 1) > config.threshold else 1.0


def _factors(num_drafts: int) -> tuple[float, ...]:
    if num_drafts >= SMALL:
        return FACTORS
    return tuple(size / num_drafts for size in (num_drafts - 1, num_drafts, num_drafts + 1) if size)


def _tokens(sample: LoadSample, factor: float) -> float:
    """E(d), of all windows together."""
    pool = sample.pool
    if not pool.draft_steps or not sample.windows:
        return sample.tokens
    levels = pool.draft_steps / pool.num_drafts * sample.running / sample.windows
    nodes = pool.draft_nodes / pool.draft_steps
    spread = min(factor, max(1.0, _sessions(sample) / pool.num_drafts))  # a session is not shared
    steps_more = pool.growth_step.at(nodes) / pool.growth_step.at(nodes / spread) - 1
    return sample.tokens + sample.starved_windows * levels * steps_more


def _cost(config: DraftPolicyConfig, sample: LoadSample, factor: float) -> float:
    return sample.num_targets * config.target_cost + factor * sample.pool.num_drafts * config.draft_cost

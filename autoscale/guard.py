"""What both policies share: when a sample may be believed, and how far and how often it may change a size."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from heapq import nlargest
from typing import NamedTuple

from autoscale.config import GuardConfig
from autoscale.load import LoadSample


class Wish(NamedTuple):
    time_s: float
    size: float


@dataclass(frozen=True, slots=True)
class GuardState:
    size: int
    """Asked for: serving, or on their way."""
    sampled_s: float = -math.inf
    """Time of the last sample that was used: the same one again is no news."""
    recent: tuple[Wish, ...] = ()
    """What was wanted within the last cool-down."""

    @classmethod
    def begun(cls, size: int, now: float) -> GuardState:
        """Whoever asked for `size` wanted it, and not by chance."""
        return cls(size, recent=(Wish(now, size),) * 2)


def is_usable(config: GuardConfig, state: GuardState, sample: LoadSample | None, now: float) -> bool:
    """False: it is missing, seen before, stale, or has too few reports in it. The size is kept then."""
    return (
        sample is not None
        and sample.time_s > state.sampled_s
        and now - sample.time_s <= config.max_age_s
        and sample.reported_share >= config.min_reported
    )


def resized(config: GuardConfig, state: GuardState, wanted: float, now: float) -> GuardState:
    """As near to `wanted` as bounds, band, cool-down and the largest step allow."""
    recent = (*(wish for wish in state.recent if now - wish.time_s < config.cooldown_s), Wish(now, wanted))
    wanted_twice = nlargest(2, (wish.size for wish in recent))[-1]
    size = _stepped(config, state.size, wanted, max(wanted, wanted_twice))
    return replace(state, size=min(max(size, config.min_size), config.max_size), recent=recent)


def _stepped(config: GuardConfig, size: int, wanted: float, kept: float) -> int:
    if wanted > size * (1 + config.band):
        return math.ceil(min(wanted, max(size, 1) * config.growth_factor))
    if kept < size * (1 - 2 * config.band):
        return max(math.ceil(kept), size - max(1, math.floor(config.shrink_share * size)))
    return size

"""What a loop has done lately: one activity after the other, on the host's clock.

`time.perf_counter` counts the same in all processes of a host, so the timelines of a target and its drafts lie beside each other there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

CAPACITY = 1 << 14
"""Turns that are remembered: some seconds of the fastest loop's work."""


class Activity(StrEnum):
    HOST = "host"
    """Python between two passes: reading messages, choosing, committing, writing messages."""
    LAUNCH = "launch"
    """Preparing a pass and giving it to the device. Where the device is this host's CPU, the pass itself."""
    DEVICE = "device"
    """A pass is under way; the host waits for its tokens, or does what would have to be done after it."""
    WAIT = "wait"
    """For a request, a draft, or an outcome: there is nothing to do."""


@dataclass(frozen=True, slots=True)
class Span:
    activity: Activity
    began: float
    ended: float
    """Seconds of the loop's clock."""


class Timeline:
    """Written by one thread, read by any."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._turns: deque[tuple[Activity, float]] = deque(maxlen=CAPACITY)

    def turn(self, activity: Activity) -> None:
        """From now on it is this. Repeating what it already is changes nothing."""
        if not self._turns or self._turns[-1][0] is not activity:
            self._turns.append((activity, self._clock()))

    def spans(self) -> tuple[Span, ...]:
        """What is remembered, without gaps; what is still going on is left out."""
        return tuple(Span(activity, began, ended) for (activity, began), (_, ended) in pairwise(self._turns.copy()))

"""The simulated service: actors that take time to start, and sessions as a fluid."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from autoscale.cost_model import CostModel
from autoscale.load import LoadSample, PoolReport
from autoscale.shapes import Load

STEP_S = 1.0
"""Speeds are kept for so long: about as long as a session lives, and far less than it takes to start anything."""
MIN_PRESENT = 1e-3
"""Sessions: nobody there is next to nobody."""
MAX_TARGETS, MAX_DRAFTS = 1000, 4000
NAMES = tuple(f"target-{i}" for i in range(MAX_TARGETS))


@dataclass
class Fleet:
    """Actors of one kind."""

    size: int
    start_periods: int
    starting: deque[tuple[int, int]] = field(default_factory=deque)
    """(period in which they serve, how many), in this order."""

    @property
    def num_starting(self) -> int:
        return sum(count for _, count in self.starting)

    @property
    def num_serving(self) -> int:
        return self.size - self.num_starting

    def begin(self, period: int) -> None:
        while self.starting and self.starting[0][0] <= period:
            self.starting.popleft()

    def resize(self, size: int, period: int) -> None:
        """`period`: the one that follows. What starts is given up before what serves, the latest first."""
        if size > self.size:
            self.starting.append((period + self.start_periods, size - self.size))
        surplus = self.size - size
        while surplus > 0 and self.starting:
            at, count = self.starting.pop()
            if count > surplus:
                self.starting.append((at, count - surplus))
            surplus -= count
        self.size = size


class Sessions:
    """The requests that are there, as a fluid: all alike, each as quick as the others, those beyond the slots waiting."""

    def __init__(self, model: CostModel) -> None:
        self._model = model
        self._present = self._outstanding_tokens = 0.0
        self.mean_present = 0.0

    def live(self, period: int, load: Load, targets: Fleet, drafts: Fleet) -> LoadSample:
        """One period, in which requests come evenly."""
        num_targets, slots = targets.num_serving, targets.num_serving * self._model.max_sessions
        arrivals, tokens = load.arrivals[period] / load.period_s, load.tokens[period] / load.period_s
        present_s = running_s = emitted = plain = windows = starved = steps = nodes = 0.0
        for _ in range(round(load.period_s / STEP_S)):
            running = min(max(self._present, MIN_PRESENT), slots)
            speed = self._model.speed(running / num_targets, drafts.num_serving / num_targets).scaled(num_targets)
            before = self._present
            emitted += self._step(speed.tokens_per_s / running, slots, arrivals, tokens)
            mean = (before + self._present) / 2
            share = min(mean, slots) / running * STEP_S
            present_s += mean * STEP_S
            running_s += min(mean, slots) * STEP_S
            plain += speed.plain_tokens_per_s * share
            windows += speed.windows_per_s * share
            starved += speed.starved_per_s * share
            steps += speed.steps_per_s * drafts.num_serving * STEP_S
            nodes += speed.steps_per_s * speed.step_nodes * drafts.num_serving * STEP_S
        self.mean_present = present_s / load.period_s
        return LoadSample(
            time_s=(period + 1) * load.period_s,
            period_s=load.period_s,
            sources=NAMES[:num_targets],
            num_targets=num_targets,
            num_starting_targets=targets.num_starting,
            pool=PoolReport(drafts.num_serving, drafts.num_starting, steps, nodes, self._model.growth_step),
            running=running_s / load.period_s,
            queued=max(0.0, self._present - slots),
            outstanding_tokens=self._outstanding_tokens,
            refused_tokens=0.0,
            used_share=running_s / load.period_s / slots,
            windows=windows,
            starved_windows=starved,
            tokens=emitted,
            plain_tokens=plain,
        )

    def _step(self, speed: float, slots: float, arrivals: float, tokens: float) -> float:
        """STEP_S: so many requests and tokens come each second, each running session emits `speed` tokens/s. Returns those emitted."""
        mean_tokens = (self._outstanding_tokens + tokens * STEP_S) / max(self._present + arrivals * STEP_S, MIN_PRESENT)
        ending = speed / max(mean_tokens, 1.0)
        # d present / dt = arrivals - ending x present while there are slots for all, else arrivals - ending x slots
        settled = arrivals / ending
        free = settled + (self._present - settled) * math.exp(-ending * STEP_S)
        after = max(free, self._present + (arrivals - ending * slots) * STEP_S)
        emitted = (self._present + arrivals * STEP_S - after) * mean_tokens
        self._outstanding_tokens = max(0.0, self._outstanding_tokens + tokens * STEP_S - emitted)
        self._present = after
        return emitted

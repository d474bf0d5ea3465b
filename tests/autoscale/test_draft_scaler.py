"""autoscale/draft_scaler.py"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from autoscale.config import DraftPolicyConfig, GuardConfig
from autoscale.cost_model import PAIR
from autoscale.draft_scaler import DraftScaler, DraftTotals, plain_tokens
from ssd_core.loop_stats import LoopStats
from ssd_core.types import StepTimes
from tests.core.driver import drive, requests

PASSES = StepTimes((1, 8, 64), (0.020, 0.021, 0.030))
TOTALS = ("lookups", "misses_ungrown", "tokens", "passes", "prompt_passes", "pass_s", "prompt_pass_s", "rounds")
IDLE = replace(drive(requests(1, "ar")).stats, running=0, queued=0, outstanding_tokens=0, step_times=PASSES, **dict.fromkeys(TOTALS, 0))
CONFIG = DraftPolicyConfig(guard=GuardConfig(max_size=8, cooldown_s=20.0), period_s=10.0, draft_cost=0.5)


def later(stats: LoopStats, **more: Any) -> LoopStats:
    """Totals are counted on, all else is set."""
    return replace(stats, **{name: getattr(stats, name) + value if name in TOTALS else value for name, value in more.items()})


class Service:
    """Targets and drafts that do what they are told to, once a second."""

    def __init__(self, config: DraftPolicyConfig = CONFIG, size: int = 1) -> None:
        self.scaler = DraftScaler(config, size, 0.0)
        self.now = 0.0
        self.size = size
        self.targets = {"t": IDLE, "u": IDLE}
        self.draft = DraftTotals(0, 0, PAIR.growth_step)

    def run(self, seconds: int, *, pool_starts: int = 0, **more: Any) -> int:
        """`more` happens in each target each second. Returns what is wanted at last; so many drafts are there at once."""
        for _ in range(seconds):
            self.now += 1
            for name, stats in self.targets.items():
                self.targets[name] = later(stats, **more)
                self.scaler.hear_target(name, self.targets[name], self.now)
            self.draft = replace(self.draft, num_steps=self.draft.num_steps + 150, num_nodes=self.draft.num_nodes + 150 * 64)
            for i in range(self.size):
                self.scaler.hear_draft(f"d{i}", self.draft)
            self.size = self.scaler.size(len(self.targets), self.size, pool_starts, self.now)
        return self.size


BUSY: dict[str, Any] = {
    "running": 8, "passes": 35, "pass_s": 0.98, "rounds": 280, "lookups": 280, "tokens": 1000, "outstanding_tokens": 900,
}  # fmt: skip


def test_drafts_come_while_windows_end_with_too_little_growth_and_no_more_when_they_do_not() -> None:
    service = Service()
    assert service.run(10, **BUSY, misses_ungrown=200) == 1, "before the period is over"
    assert service.run(1, **BUSY, misses_ungrown=200) > 1
    assert service.run(60, **BUSY, misses_ungrown=200) == 2, "a third would bring less than its share of the cost"
    assert service.run(100, **BUSY, misses_ungrown=0) == 1


def test_an_idle_service_keeps_its_drafts_for_a_cooldown_and_then_none() -> None:
    service = Service(size=2)
    assert service.run(19, running=0) == 2
    assert service.run(40, running=0) == 0
    assert service.run(10, **BUSY, misses_ungrown=200) == 1, "one finds out"


def test_short_sessions_between_two_reports_are_work() -> None:
    service = Service(size=2)
    seldom: dict[str, Any] = {"running": 0, "passes": 5, "pass_s": 0.14, "rounds": 5, "lookups": 5, "tokens": 18}
    assert service.run(200, **seldom, misses_ungrown=2) == 2


def test_a_pool_waits_for_its_targets_as_it_is() -> None:
    service = Service(size=2)
    targets, service.targets = service.targets, {}
    assert service.run(1000) == 2
    service.targets = targets
    assert service.run(19, running=0) == 2, "the cool-down begins with them"


def test_speculation_that_does_not_pay_ends_with_no_drafts() -> None:
    slow = BUSY | {"tokens": 285}
    assert Service().run(60, **slow, misses_ungrown=0) == 0


def test_a_target_that_falls_silent_decides_nothing() -> None:
    service = Service(size=2)
    service.run(10, **BUSY, misses_ungrown=100)
    before = service.size
    service.scaler.size(2, before, 0, service.now + 10)  # nobody has said anything in this period
    assert service.scaler.size(2, before, 0, service.now + 20) == before
    del service.targets["u"]
    for _ in range(10):
        service.now += 1
        service.scaler.hear_target("t", service.targets["t"], service.now + 20)
    assert service.scaler.size(2, before, 0, service.now + 21) == before, "half of the targets is too few"


def test_who_is_new_is_counted_from_when_it_was_first_heard() -> None:
    service = Service()
    service.targets["old"] = later(IDLE, tokens=10**9, lookups=10**9, misses_ungrown=10**9)
    assert service.run(30, running=0) == 0, "a replica that has done much before is as idle as the others"


@pytest.mark.parametrize(("sessions", "pass_s"), [(1, 0.020), (8, 0.021), (4, 0.0205)])
def test_plain_tokens_are_what_passes_of_one_node_a_session_would_give(sessions: int, pass_s: float) -> None:
    after = later(IDLE, passes=100, rounds=100 * sessions, pass_s=3.0)
    assert plain_tokens(IDLE, after) == pytest.approx(sessions * 3.0 / pass_s, rel=0.02)
    reading = later(after, passes=10, rounds=10 * sessions, prompt_passes=10, pass_s=1.0, prompt_pass_s=1.0)
    assert plain_tokens(IDLE, reading) == pytest.approx(sessions * (3.0 / pass_s + 10), rel=0.02)
    assert plain_tokens(after, after) == 0

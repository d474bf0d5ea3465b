"""autoscale/target_policy.py"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from autoscale.config import GuardConfig, TargetPolicyConfig
from autoscale.guard import GuardState
from autoscale.target_policy import TargetState, decide_targets
from tests.autoscale.samples import Changes, a_sample

CONFIG = TargetPolicyConfig(
    guard=GuardConfig(min_size=1, max_size=40, cooldown_s=60), outstanding_tokens=2000, used_share=0.8, queue_patience_s=50
)


def decided(*, size: int = 4, before: float = 4000.0, **values: Any) -> int:
    state = TargetState(GuardState(size), before)
    return decide_targets(CONFIG, state, a_sample(100.0, targets=size, **values), 101.0).guard.size


def test_outstanding_tokens_decide() -> None:
    assert decided(outstanding_tokens=4 * 3000.0) == 6
    assert decided(outstanding_tokens=4 * 2000.0, used_share=0.1) == 4
    assert decided(outstanding_tokens=4 * 1000.0, used_share=0.1) == 2


def test_kv_decides_where_contexts_are_long() -> None:
    assert decided(outstanding_tokens=4 * 1000.0, used_share=1.0) == 5


def test_with_a_queue_what_comes_and_what_waits_decide() -> None:
    """Four targets emit 4000 tokens in the period; 12000 came, and 8000 wait, of which a fifth is to be worked off: 13600."""
    values = {"running": 32.0, "queued": 32.0, "outstanding_tokens": 16000.0, "tokens": 4000.0, "used_share": 1.0}
    assert decided(before=8000.0, **values) == 14


def test_what_was_refused_came_as_well() -> None:
    """Four targets emit 4000 tokens in the period, and 4000 more were refused."""
    assert decided(before=4000.0, tokens=4000.0, refused_tokens=4000.0) == 8


def test_targets_that_did_not_report_are_taken_to_be_like_the_rest() -> None:
    assert decided(size=10, reported=9, outstanding_tokens=9 * 3000.0) == 15


def test_nothing_to_do_leaves_the_least() -> None:
    assert decided(size=2, running=0.0, outstanding_tokens=0.0, used_share=0.0, tokens=0.0) == 1


class Targets(RuleBasedStateMachine):
    @initialize(size=st.integers(1, 40))
    def begin(self, size: int) -> None:
        self.state, self.now, self.changes = TargetState(GuardState(size)), 0.0, Changes(60.0)

    @rule(
        running=st.floats(0, 1000), queued=st.sampled_from((0.0, 0.5, 100.0, 1e5)), outstanding=st.floats(0, 1e6), used=st.floats(0, 1),
        tokens=st.floats(0, 1e5), refused=st.sampled_from((0.0, 1.0, 1e6)), pause_s=st.sampled_from((10, 70)),
    )  # fmt: skip
    def hear(self, running: float, queued: float, outstanding: float, used: float, tokens: float, refused: float, pause_s: float) -> None:
        self.now += pause_s
        values = {
            "running": running, "queued": queued, "outstanding_tokens": outstanding, "used_share": used, "tokens": tokens,
            "refused_tokens": refused,
        }  # fmt: skip
        before, self.last = self.state, a_sample(self.now, targets=self.state.guard.size, **values)
        self.state = decide_targets(CONFIG, self.state, self.last, self.now)
        self.changes.note(before.guard.size, self.state.guard.size, self.now)

    @rule(kind=st.sampled_from(("missing", "stale", "few")))
    def hear_nothing_useful(self, kind: str) -> None:
        self.now += 10
        few = a_sample(self.now, targets=10, reported=3, running=0.0, outstanding_tokens=0.0)
        sample = {"missing": None, "stale": a_sample(self.now - 26, running=0.0), "few": few}[kind]
        assert decide_targets(CONFIG, self.state, sample, self.now) is self.state

    @invariant()
    def bounds_hold(self) -> None:
        assert 1 <= self.state.guard.size <= 40


TestTargets = Targets.TestCase


@pytest.mark.parametrize("reported", [0, 3])
def test_too_few_reports_keep_the_size(reported: int) -> None:
    assert decided(size=10, reported=reported, outstanding_tokens=0.0, used_share=0.0) == 10

"""Bounds, band, cool-down and largest step, whatever is wanted; and which samples are believed."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from pydantic import ValidationError

from autoscale.config import GuardConfig
from autoscale.guard import GuardState, is_usable, resized
from tests.autoscale.samples import a_sample

CONFIG = GuardConfig(min_size=0, max_size=100, band=0.1, cooldown_s=60, growth_factor=3, shrink_share=0.25)


class Guarded(RuleBasedStateMachine):
    @initialize(min_size=st.integers(0, 3), max_size=st.integers(3, 60), size=st.integers(0, 60))
    def begin(self, min_size: int, max_size: int, size: int) -> None:
        self.config = CONFIG.model_copy(update={"min_size": min_size, "max_size": max_size})
        self.state = GuardState.begun(min(max(size, min_size), max_size), 0.0)
        self.now, self.wishes = 0.0, [(0.0, float(self.state.size))] * 2

    @rule(wanted=st.one_of(st.floats(0, 200), st.integers(0, 200)), pause_s=st.sampled_from((1, 10, 30, 59, 60, 61, 500)))
    def want(self, wanted: float, pause_s: float) -> None:
        self.now += pause_s
        before, self.state = self.state, resized(self.config, self.state, wanted, self.now)
        size = self.state.size
        self.wishes.append((self.now, wanted))
        recent = [wish for time_s, wish in self.wishes if self.now - time_s < 60]
        if -0.2 * before.size * (1 - 1e-9) <= wanted - before.size <= 0.1 * before.size * (1 - 1e-9):
            assert size == before.size, "inside the band"
        if size > before.size:
            assert wanted > before.size and size <= wanted + 1 and size <= 3 * max(before.size, 1)
        if size < before.size:
            assert wanted < before.size
            assert sum(wish > size for wish in recent) <= 1, "cool-down: once may be chance"
            assert before.size - size <= max(1, 0.25 * before.size)
        if wanted > 1.11 * before.size and before.size < self.config.max_size:
            assert size > before.size, "growth never waits"

    @rule()
    def become_quiet(self) -> None:
        """In time it comes to what is wanted all along, zero included."""
        for _ in range(30):
            self.want(0, 61)
        assert self.state.size == self.config.min_size

    @invariant()
    def bounds_hold(self) -> None:
        assert self.config.min_size <= self.state.size <= self.config.max_size


TestGuarded = Guarded.TestCase


def sizes(wishes: list[float], config: GuardConfig = CONFIG) -> list[int]:
    """One every ten seconds."""
    states = [GuardState(10)]
    for i, wanted in enumerate(wishes):
        states.append(resized(config, states[-1], wanted, 10.0 * i))
    return [state.size for state in states]


def changes(sizes: list[int]) -> int:
    return sum(after != before for before, after in pairwise(sizes))


def test_a_load_that_flaps_within_a_cooldown_keeps_its_size() -> None:
    seen = sizes([20, 10] * 180)
    assert set(seen[3:]) == {20}, "once it was wanted twice"


@pytest.mark.parametrize("half", [3, 6, 7, 8, 20])
def test_flapping_changes_the_size_twice_in_a_cooldown_at_most(half: int) -> None:
    seen = sizes(([20.0] * half + [10.0] * half) * 40)
    assert changes(seen) <= 2 * math.ceil(len(seen) * 10 / CONFIG.cooldown_s)


def test_it_shrinks_to_no_less_than_was_wanted_twice_within_the_cooldown() -> None:
    config = CONFIG.model_copy(update={"shrink_share": 1.0})
    assert sizes([10, 10, 6, 4, 9, 3, 4, 6, 3, 2, 2], config)[-5:] == [10, 6, 6, 6, 4], "9 came but once"


def test_tenfold_is_reached_in_two_decisions_by_default() -> None:
    state = GuardState(7)
    for now in (10.0, 20.0):
        state = resized(GuardConfig(max_size=1000), state, 70, now)
    assert state.size == 70


def test_zero_is_left_again() -> None:
    assert resized(CONFIG, GuardState(0), 1, 0.0).size == 1


def test_which_samples_are_believed() -> None:
    state, now = GuardState(4, sampled_s=90.0), 110.0
    assert is_usable(CONFIG, state, a_sample(100.0), now)
    assert not is_usable(CONFIG, state, None, now), "missing"
    assert not is_usable(CONFIG, state, a_sample(90.0), now), "seen before"
    assert not is_usable(CONFIG, state, a_sample(100.0), 126.0), "stale"
    assert is_usable(CONFIG, state, a_sample(100.0, targets=10, reported=9), now)
    assert not is_usable(CONFIG, state, a_sample(100.0, targets=10, reported=8), now), "too few reports"


def test_configurations_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValidationError, match="less than min_size"):
        GuardConfig(min_size=3, max_size=2)

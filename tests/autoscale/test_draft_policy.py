"""autoscale/draft_policy.py"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from autoscale.config import DraftPolicyConfig, GuardConfig
from autoscale.cost_model import FOUR_AND_ONE, PAIR, CostModel
from autoscale.draft_policy import DraftState, best_factor, decide_drafts
from autoscale.guard import GuardState
from autoscale.load import NO_DRAFTS, LoadSample
from autoscale.schedule import RATIOS
from autoscale.simulate import policy_configs
from tests.autoscale.samples import Changes, a_sample, sample_of

QUICK = GuardConfig(max_size=2000, cooldown_s=0)
TARGETS = 20


def config_of(model: CostModel, guard: GuardConfig = QUICK) -> DraftPolicyConfig:
    return policy_configs(model)[1].model_copy(update={"guard": guard})


def settled(model: CostModel, sessions: float, drafts: int, config: DraftPolicyConfig, decisions: int = 120) -> list[int]:
    """Sizes, every draft that is asked for being there at once."""
    state, sizes = DraftState(GuardState(drafts)), [drafts]
    for i in range(decisions):
        sample = sample_of(model, 10.0 * i, targets=TARGETS, drafts=sizes[-1], sessions=sessions)
        state = decide_drafts(config, state, sample, 10.0 * i)
        sizes.append(state.guard.size)
    return sizes


def per_cost(model: CostModel, sessions: float, ratio: float) -> float:
    return model.speed(sessions, ratio).tokens_per_s / model.cost(1, ratio)


@pytest.mark.parametrize("drafts", [2, 20, 80, 200])
@pytest.mark.parametrize(("model", "sessions"), [(PAIR, 8), (PAIR, 4), (PAIR, 2), (FOUR_AND_ONE, 16), (FOUR_AND_ONE, 30)])
def test_from_any_size_it_comes_near_the_most_tokens_per_cost(model: CostModel, sessions: float, drafts: int) -> None:
    last = settled(model, sessions, drafts, config_of(model))[-1]
    best = max(per_cost(model, sessions, ratio) for ratio in RATIOS)
    assert per_cost(model, sessions, last / TARGETS) > 0.95 * best


@pytest.mark.parametrize("drafts", [1, 20, 200])
def test_where_speculation_does_not_pay_none_are_left(drafts: int) -> None:
    """32 sessions keep a target so busy that a second one is worth more than a draft."""
    assert settled(PAIR, 32, drafts, config_of(PAIR))[-1] == 0


def test_dearer_drafts_are_fewer() -> None:
    sizes = [settled(PAIR, 8, 20, config_of(PAIR).model_copy(update={"draft_cost": cost}))[-1] for cost in (0.2, 1.0, 5.0)]
    assert sizes[0] > sizes[1] > sizes[2]


def test_starved_windows_drive_it() -> None:
    sample = a_sample(0.0, running=32.0)
    starved = [replace(sample, starved_windows=share * sample.windows) for share in (0.0, 0.1, 0.3, 0.5, 0.7)]
    factors = [best_factor(DraftPolicyConfig(), one) for one in starved]
    assert factors == sorted(factors) and factors[0] < 1 < factors[-1]


def test_a_session_is_not_shared_by_more_drafts() -> None:
    assert best_factor(DraftPolicyConfig(), a_sample(0.0, running=2.0, starved_windows=3000.0)) <= 1


def test_a_gain_within_the_threshold_changes_nothing() -> None:
    """At this price a further draft earns a bit more than it costs: it is taken without a threshold, not with a high one."""
    sample = sample_of(PAIR, 0.0, targets=TARGETS, drafts=19, sessions=8)
    assert best_factor(DraftPolicyConfig(draft_cost=1.7, threshold=0.0), sample) > 1
    assert best_factor(DraftPolicyConfig(draft_cost=1.7, threshold=0.9), sample) == 1


def heard(state: DraftState, sample: LoadSample, config: DraftPolicyConfig | None = None) -> DraftState:
    return decide_drafts(config or config_of(PAIR), state, sample, sample.time_s)


def test_idle_leaves_none_and_the_next_session_gets_one_at_once() -> None:
    state = heard(DraftState(GuardState(20)), sample_of(PAIR, 0.0, targets=TARGETS, drafts=20, sessions=8))
    for i in range(1, 8):
        state = heard(state, a_sample(10.0 * i, running=0.0, windows=0.0, starved_windows=0.0, tokens=0.0))
    assert state.guard.size == 0
    back = heard(state, sample_of(PAIR, 100.0, targets=TARGETS, drafts=0, sessions=1.5))
    assert back.guard.size == 4, "as many for each session as paid before: one for eight, and four a decision"


def test_after_a_while_speculation_is_tried_again() -> None:
    config = config_of(PAIR)
    state = heard(DraftState(GuardState(1)), sample_of(PAIR, 0.0, targets=TARGETS, drafts=1, sessions=32))
    assert state.guard.size == 0
    sizes = []
    for i in range(1, 70):
        state = heard(state, sample_of(PAIR, 10.0 * i, targets=TARGETS, drafts=0, sessions=32))
        sizes.append(state.guard.size)
    assert sizes.index(1) + 1 == config.retry_s / 10 and set(sizes) == {0, 1}


def test_targets_that_switched_speculation_off_need_no_drafts() -> None:
    sample = a_sample(0.0, windows=0.0, starved_windows=0.0, tokens=3500.0, plain_tokens=2000.0)
    assert heard(DraftState(GuardState(2)), sample).guard.size == 1
    assert heard(DraftState(GuardState(1)), replace(sample, pool=replace(NO_DRAFTS, num_drafts=1))).guard.size == 0


def test_drafts_are_started_for_the_targets_that_start() -> None:
    paid = DraftState(GuardState(20), ratio=20 / math.sqrt(160 * TARGETS))
    sample = sample_of(PAIR, 0.0, targets=TARGETS, drafts=20, sessions=8, num_starting_targets=40, queued=500.0)
    assert heard(paid, sample).guard.size == 60
    assert heard(paid, replace(sample, queued=0.0)).guard.size == 20, "but only where sessions wait for them"


def test_what_starts_is_not_judged_by_sessions_it_does_not_have_yet() -> None:
    sample = sample_of(PAIR, 0.0, targets=TARGETS, drafts=5, sessions=8)
    starting = replace(sample, pool=replace(sample.pool, num_starting=15))
    state = DraftState(GuardState(20), ratio=20 / math.sqrt(160 * TARGETS))
    assert heard(state, starting).guard.size == 20


class Drafts(RuleBasedStateMachine):
    """Any samples in any order."""

    config = config_of(PAIR, GuardConfig(min_size=1, max_size=50, cooldown_s=60))

    @initialize(size=st.integers(1, 50))
    def begin(self, size: int) -> None:
        self.state, self.now, self.changes = DraftState(GuardState(size)), 0.0, Changes(60.0)

    @rule(
        sessions=st.sampled_from((0.0, 0.1, 2.0, 8.0, 40.0)), starting=st.integers(0, 20), queued=st.sampled_from((0.0, 500.0)),
        pause_s=st.sampled_from((10, 70)), reported=st.sampled_from((18, 20)),
    )  # fmt: skip
    def hear(self, sessions: float, starting: int, queued: float, pause_s: float, reported: int) -> None:
        self.now += pause_s
        size = self.state.guard.size
        sample = sample_of(
            PAIR, self.now, targets=TARGETS, drafts=size, sessions=sessions, num_starting_targets=starting, queued=queued, reported=reported
        )
        self.state = decide_drafts(self.config, self.state, sample, self.now)
        self.changes.note(size, self.state.guard.size, self.now)
        assert self.state.guard.size <= 4 * size

    @rule(kind=st.sampled_from(("missing", "stale", "few", "repeated")))
    def hear_nothing_useful(self, kind: str) -> None:
        self.now += 10
        idle = {"running": 0.0, "windows": 0.0, "tokens": 0.0}
        sample = {
            "missing": None,
            "stale": a_sample(self.now - 26, **idle),
            "few": a_sample(self.now, targets=10, reported=8, **idle),
            "repeated": a_sample(self.state.guard.sampled_s, **idle),
        }[kind]
        assert decide_drafts(self.config, self.state, sample, self.now) is self.state

    @invariant()
    def bounds_hold(self) -> None:
        assert 1 <= self.state.guard.size <= 50


TestDrafts = Drafts.TestCase

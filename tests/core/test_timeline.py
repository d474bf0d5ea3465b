"""A loop's timeline: on a made clock, and as the loops write it."""

from __future__ import annotations

from itertools import pairwise

import pytest

from ssd_core.draft_loop import DraftLoop
from ssd_core.engine.fake import FakeEngine
from ssd_core.lockstep import LockstepLink
from ssd_core.target_loop import TargetLoop
from ssd_core.timeline import CAPACITY, Activity, Span, Timeline
from ssd_core.virtual_time import VirtualClock
from tests.core.driver import drive, requests

HOST, LAUNCH, DEVICE, WAIT = Activity
TARGET_PASS_S, DRAFT_PASS_S = 1 / 64, 1 / 512
"""Powers of two, so that sums of them are exact."""


def turned(*turns: tuple[float, Activity]) -> Timeline:
    clock = VirtualClock()
    timeline = Timeline(clock)
    for at_s, activity in turns:
        clock.move_to(at_s)
        timeline.turn(activity)
    return timeline


def test_a_span_ends_where_the_next_begins_and_what_goes_on_is_left_out() -> None:
    spans = turned((1.0, HOST), (3.0, LAUNCH), (3.5, DEVICE)).spans()
    assert spans == (Span(HOST, 1.0, 3.0), Span(LAUNCH, 3.0, 3.5))
    assert turned((1.0, HOST)).spans() == turned().spans() == ()


def test_turning_to_what_it_already_is_changes_nothing() -> None:
    assert turned((1.0, HOST), (2.0, HOST), (4.0, WAIT), (5.0, WAIT)).spans() == (Span(HOST, 1.0, 4.0),)


def test_the_newest_turns_are_remembered() -> None:
    spans = turned(*((float(at_s), (HOST, WAIT)[at_s % 2]) for at_s in range(2 * CAPACITY))).spans()
    assert len(spans) == CAPACITY - 1
    assert (spans[0].began, spans[-1].ended) == (CAPACITY, 2 * CAPACITY - 1)


# ------------------------------------------------------------ of the loops


def loops_after(preset: str) -> tuple[TargetLoop, DraftLoop]:
    """A pair that has answered three requests on a clock that only passes move."""
    clock = VirtualClock()
    targets: list[TargetLoop] = []
    drafts: list[DraftLoop] = []

    def engine(noise: float, pass_s: float) -> FakeEngine:
        def delay_s(num_nodes: int) -> float:
            clock.advance(pass_s)
            return 0.0

        return FakeEngine(seed=3, noise=noise, delay_s=delay_s)

    def make_link(draft: DraftLoop) -> LockstepLink:
        drafts.append(draft)
        return LockstepLink(draft)

    drive(
        requests(3, preset),
        make_link=make_link,
        target=engine(0.0, TARGET_PASS_S),
        draft=engine(0.4, DRAFT_PASS_S),
        clock=clock,
        on_round=lambda target, num_rounds: targets.append(target),
    )
    return targets[-1], drafts[-1]


def lengths_s(activity: Activity, spans: tuple[Span, ...]) -> list[float]:
    """Of each span of the activity."""
    return [span.ended - span.began for span in spans if span.activity is activity]


@pytest.mark.parametrize("preset", ["ar", "sd", "ssd-tree"])
def test_each_pass_is_launched_then_on_the_device_then_back_on_the_host(preset: str) -> None:
    target, draft = loops_after(preset)
    stats, of_target, of_draft = target.stats(), target.timeline.spans(), draft.timeline.spans()
    assert lengths_s(LAUNCH, of_target) == [TARGET_PASS_S] * stats.passes
    assert lengths_s(LAUNCH, of_draft) == [DRAFT_PASS_S] * stats.draft_steps
    assert len(lengths_s(DEVICE, of_target)) == stats.passes > 0
    assert len(lengths_s(DEVICE, of_draft)) == stats.draft_steps
    for spans in (of_target, of_draft):
        assert all(before.began <= before.ended == after.began for before, after in pairwise(spans))
        assert {after.activity for before, after in pairwise(spans) if before.activity is LAUNCH} <= {DEVICE}
    assert {after.activity for before, after in pairwise(of_target) if before.activity is DEVICE} == {HOST}


def test_what_a_target_waits_for_its_draft_is_told_apart() -> None:
    of_target = {preset: loops_after(preset)[0].timeline.spans() for preset in ("ar", "sd")}
    assert sum(lengths_s(WAIT, of_target["sd"])) > 0 == len(lengths_s(WAIT, of_target["ar"]))

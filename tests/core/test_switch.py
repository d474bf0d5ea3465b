"""Speculation is used where it pays, and turning it off or on changes no token."""

from __future__ import annotations

from typing import Any

import pytest

import ssd_core.target_loop
from ssd_core.config import SamplingParams, SpeculationConfig
from ssd_core.draft_loop import DraftLoop, SessionClose
from ssd_core.engine.fake import FakeEngine
from ssd_core.lockstep import LockstepLink
from ssd_core.simulate import simulate
from ssd_core.switch import FIRST_HOLD_S, LONGEST_HOLD_S, Switch, load_level
from ssd_core.types import GenerationRequest, Outcome, SessionOpen, StepTimes
from ssd_core.virtual_time import PassCost
from tests.core.driver import drive, requests

ROUND_S = 0.005
TUNED = {"self_tuning": True}


def serve(switch: Switch, *, on: float, off: float, seconds: float, plain: float | None = None) -> float:
    """Tokens emitted at these rates (tokens/s) in so many seconds of rounds. `plain`: what the cost of a pass promises; None: the truth."""
    tokens = 0.0
    for _ in range(round(seconds / ROUND_S)):
        emitted = ROUND_S * (on if switch.is_on else off)
        tokens += emitted
        switch.observe(emitted, ROUND_S, off if plain is None else plain)
    return tokens


@pytest.mark.parametrize(("on", "off"), [(100, 300), (270, 300), (300, 300), (300, 270), (300, 100)])
def test_after_a_while_it_is_nearly_as_fast_as_the_better_side(on: int, off: int) -> None:
    switch = Switch()
    serve(switch, on=on, off=off, seconds=120)
    assert serve(switch, on=on, off=off, seconds=300) > 0.98 * 300 * max(on, off)


def test_from_the_start_plain_decoding_is_not_tried_where_it_cannot_pay() -> None:
    assert serve(Switch(), on=300, off=150, seconds=60) == pytest.approx(60 * 300)


def test_a_promise_that_is_too_low_is_not_believed_for_ever_where_it_is_near() -> None:
    switch = Switch()
    assert serve(switch, on=300, off=330, plain=250, seconds=60) > 0.97 * 60 * 330


def test_what_loses_much_is_not_tried_again_soon() -> None:
    switch = Switch()
    serve(switch, on=200, off=300, seconds=FIRST_HOLD_S + 1)
    assert not switch.is_on
    assert serve(switch, on=200, off=300, seconds=10) == pytest.approx(10 * 300)
    assert serve(switch, on=200, off=300, seconds=20) < 20 * 300, "but it is"


def test_text_that_becomes_easier_is_noticed() -> None:
    switch = Switch()
    serve(switch, on=200, off=300, seconds=600)
    assert not switch.is_on
    serve(switch, on=500, off=300, seconds=LONGEST_HOLD_S + FIRST_HOLD_S)
    assert switch.is_on and serve(switch, on=500, off=300, seconds=10) > 0.97 * 10 * 500


def test_loads_that_people_ask_for_are_in_the_middle_of_a_level() -> None:
    assert [load_level(n) for n in (1, 2, 3, 5, 6, 8, 11, 12, 16, 22, 23, 32, 45)] == [0, 1, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5]


class Flapping(Switch):
    """Turns at every third round."""

    def __init__(self) -> None:
        super().__init__()
        self.num_rounds = 0

    def observe(self, num_tokens: int, seconds: float, plain_rate: float) -> None:
        self.num_rounds += 1
        self.is_on = self.num_rounds // 3 % 2 == 0


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_turning_speculation_off_and_on_changes_no_token(monkeypatch: pytest.MonkeyPatch, temperature: float) -> None:
    plain = drive(requests(6, "ar", temperature=temperature))
    monkeypatch.setattr(ssd_core.target_loop, "Switch", Flapping)
    run = drive(requests(6, "ssd-tree", temperature=temperature, speculation=TUNED), max_sessions=3)
    assert run.tokens == plain.tokens
    assert 0 < run.stats.drafts < run.stats.rounds and run.stats.lookups < run.stats.rounds


class Recording(LockstepLink):
    def __init__(self, draft: DraftLoop) -> None:
        super().__init__(draft)
        self.messages: list[object] = []

    def open(self, opening: SessionOpen) -> None:
        self.messages.append(opening)
        super().open(opening)

    def send_outcomes(self, outcomes: list[Outcome]) -> None:
        self.messages.extend(outcomes)
        super().send_outcomes(outcomes)

    def close(self, session_id: str) -> None:
        self.messages.append(SessionClose(session_id))
        super().close(session_id)


class Off(Switch):
    def __init__(self) -> None:
        super().__init__()
        self.is_on = False

    def observe(self, num_tokens: int, seconds: float, plain_rate: float) -> None: ...


def test_where_speculation_does_not_pay_no_draft_is_troubled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssd_core.target_loop, "Switch", Off)
    links: list[Recording] = []

    def make_link(draft: DraftLoop) -> Recording:
        links.append(Recording(draft))
        return links[0]

    run = drive(requests(3, "ssd-tree", speculation=TUNED), make_link=make_link)
    assert links[0].messages == [] and run.stats.draft_tokens == 0
    assert drive(requests(3, "ssd", speculation=TUNED)).stats.accepted > 0, "other presets do as they are told"


class Lossy(LockstepLink):
    """Forgets its sessions every few polls, and says so once."""

    def __init__(self, draft: DraftLoop) -> None:
        super().__init__(draft)
        self.held: set[str] = set()
        self.num_polls = 0

    def open(self, opening: SessionOpen) -> None:
        self.held.add(opening.session_id)
        super().open(opening)

    def needs_open(self) -> list[str]:
        self.num_polls += 1
        if self.num_polls % 5:
            return []
        lost, self.held = list(self.held), set()
        for session_id in lost:
            super().close(session_id)
        return lost

    def send_outcomes(self, outcomes: list[Outcome]) -> None:
        assert {outcome.session_id for outcome in outcomes} <= self.held, "nobody holds it: it must be opened first"
        super().send_outcomes(outcomes)


def test_a_draft_lost_while_speculation_is_off_is_replaced_when_it_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssd_core.target_loop, "Switch", Flapping)
    run = drive(requests(3, "ssd-tree", speculation=TUNED), make_link=Lossy)
    assert run.tokens == drive(requests(3, "ar")).tokens and run.stats.hits > 0


def test_what_was_waited_for_is_forgotten_when_speculation_is_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every later round would count as a wait since the old miss."""
    monkeypatch.setattr(ssd_core.target_loop, "Switch", Flapping)
    waits: list[bool] = []

    def on_round(loop: ssd_core.target_loop.TargetLoop, num_rounds: int) -> None:
        waits.extend(
            session.pause is not None for session in loop._running.values() if not session.speculates and session.num_output_tokens
        )

    run = drive(requests(3, "ssd-tree", temperature=0.9, speculation=TUNED | {"backup": "wait"}), on_round=on_round)
    assert run.stats.lookups > run.stats.hits and waits and not any(waits)


def test_a_draft_that_is_waited_for_too_long_is_given_up() -> None:
    """The draft's steps take a quarter of a pass, and each miss waits for two: on all the time, that is slower than plain decoding."""
    pass_cost = PassCost(StepTimes((1, 16), (0.25, 0.375)), overhead_s=1 / 32)
    step_cost = PassCost(StepTimes((1, 16), (0.25, 0.25)))

    def seconds(**fields: Any) -> float:
        sampling = SamplingParams(max_tokens=800, ignore_eos=True)
        wanted = [GenerationRequest(str(i), (1, 2, 3), sampling, SpeculationConfig(**fields)) for i in range(2)]
        target, draft = FakeEngine(seed=3), FakeEngine(seed=3, noise=1.5)
        done = simulate(target, [draft], wanted, target_cost=pass_cost, draft_cost=step_cost, draft_timeout_s=60.0)
        return done.seconds

    plain = seconds(preset="ar")
    assert seconds(preset="ssd-tree", backup="wait", self_tuning=False) > 1.5 * plain
    assert seconds(preset="ssd-tree", backup="wait") < 1.1 * plain, "trials cost, too"

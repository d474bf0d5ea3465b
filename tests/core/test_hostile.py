"""One request, or one sick model, hurts no other request: later ones speculate as before, and tokens are those of `ar`."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_core.config import SamplingParams, SpeculationConfig
from ssd_core.draft_loop import DraftLoop
from ssd_core.engine.base import Part
from ssd_core.engine.fake import FakeEngine
from ssd_core.lockstep import LockstepLink
from ssd_core.types import Draw, FinishReason, GenerationRequest, Growth, GrowthReport
from tests.core.driver import Run, drive, requests

DRAFTED = ("sd", "tree", "ssd", "saguaro", "ssd-tree")
CHAINS = ("sd", "ssd", "saguaro")
VOCAB = 64
HOSTILE = (math.nan, math.inf, -math.inf, 3e38, -3e38, 1e-45)
few = settings(max_examples=12)
"""Of whole runs; the other tests try single values."""
Change = Callable[[str, list[int], torch.Tensor], None]


class ChangedEngine(FakeEngine):
    """`change(session_id, sequence, row)` may write into the logits [V] of the node that ends `sequence`."""

    def __init__(self, change: Change, **arguments: object) -> None:
        super().__init__(VOCAB, seed=3, **arguments)  # type: ignore[arg-type]
        self._change = change

    def evaluate(self, parts: Sequence[Part]) -> torch.Tensor:
        logits = super().evaluate(parts)
        rows = iter(logits)
        for part in parts:
            num_nodes = len(self._cells[part.session_id].tree)
            for node in range(num_nodes - len(part.tokens) + part.logits_from, num_nodes):
                self._change(part.session_id, self.held(part.session_id, node), next(rows))
        return logits


def ticking() -> Callable[[], float]:
    """No run may depend on the machine's speed."""
    ticks = count()
    return lambda: next(ticks) * 0.002


def one_by_one(count: int, preset: str, speculation: dict | None = None, **sampling: object) -> list[GenerationRequest]:
    return requests(count, preset, speculation={"backup": "none", **(speculation or {})}, **sampling)


def serve(wanted: Sequence[GenerationRequest], **arguments: object) -> Run:
    """One after the other."""
    return drive(wanted, max_sessions=1, clock=ticking(), **arguments)  # type: ignore[arg-type]


def accepted(run: Run, session_id: str) -> int:
    stats = run.last[session_id].stats
    assert stats is not None
    return stats.num_accepted


# ------------------------------------------------------------ drafts that are sick


@pytest.mark.parametrize("preset", DRAFTED)
@few
@given(
    value=st.sampled_from(HOSTILE),
    where=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=3),
    every=st.integers(1, 3),
    temperature=st.sampled_from((0.0, 0.9)),
)
def test_after_a_sick_spell_of_the_draft_later_requests_speculate_as_before(
    preset: str, value: float, where: list[int], every: int, temperature: float
) -> None:
    """The draft's logits of s0 are hostile, at some tokens of some nodes; s1 and s2 come after it, of the same kind."""

    def sicken(session_id: str, sequence: list[int], row: torch.Tensor) -> None:
        if session_id == "s0" and sum(sequence) % every == 0:
            row[where] = value

    wanted = one_by_one(3, preset, temperature=temperature, max_tokens=30)
    plain = serve(one_by_one(3, "ar", temperature=temperature, max_tokens=30))
    sick = serve(wanted, draft=ChangedEngine(sicken, noise=0.4))
    healthy = serve(wanted, draft=FakeEngine(VOCAB, seed=3, noise=0.4))
    assert sick.tokens == plain.tokens
    for later in ("s1", "s2"):
        assert accepted(sick, later) >= 0.8 * accepted(healthy, later) > 0
    assert sick.stats is not None and sick.stats.store_garbage == 0, "it knows itself that it has no opinion there"


@pytest.mark.parametrize("preset", CHAINS)
@pytest.mark.parametrize("value", HOSTILE)
def test_so_they_do_where_drafts_draw(preset: str, value: float) -> None:
    def sicken(session_id: str, sequence: list[int], row: torch.Tensor) -> None:
        if session_id == "s0":
            row[5:8] = value

    wanted = one_by_one(3, preset, {"verification": "rejection"}, temperature=0.9)
    sick = serve(wanted, draft=ChangedEngine(sicken, noise=0.4))
    healthy = serve(wanted, draft=FakeEngine(VOCAB, seed=3, noise=0.4))
    for later in ("s1", "s2"):
        assert accepted(sick, later) >= 0.7 * accepted(healthy, later) > 0
    assert sick.stats is not None and sick.stats.store_garbage == 0


def test_a_sick_session_is_served_beside_others_and_hurts_none() -> None:
    """In one batch: what has no reach has no place among the offers of others."""

    def sicken(session_id: str, sequence: list[int], row: torch.Tensor) -> None:
        if session_id == "s0":
            row[9] = math.inf

    wanted = requests(3, "ssd-tree", temperature=0.9)
    sick = drive(wanted, draft=ChangedEngine(sicken, noise=0.4), clock=ticking())
    healthy = drive(wanted[1:], draft=FakeEngine(VOCAB, seed=3, noise=0.4), clock=ticking())
    assert sick.tokens == drive(requests(3, "ar", temperature=0.9)).tokens
    for other in ("s1", "s2"):
        assert accepted(sick, other) >= 0.8 * accepted(healthy, other) > 0


# ------------------------------------------------------------ requests that ask for the utmost

UTMOST = [
    {"repetition_penalty": 0.01},
    {"repetition_penalty": 100.0},
    {"presence_penalty": 2.0, "frequency_penalty": -2.0},
    {"logit_bias": {3: 100.0, 4: -100.0}},
    {"logit_bias": dict.fromkeys(range(VOCAB), -100.0)},
    {"temperature": 100.0},
    {"temperature": 1e-5},
    {"temperature": 1e-320},
    {"temperature": 1.0, "top_p": 5e-324},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 1.0, "top_k": 10**30},
    {"temperature": 1.0, "min_p": 1.0},
    {"temperature": 1.0, "min_p": 5e-324},
]


@pytest.mark.parametrize("preset", DRAFTED)
@pytest.mark.parametrize("utmost", UTMOST, ids=str)
def test_whatever_a_request_may_ask_later_ones_speculate_as_before(preset: str, utmost: dict) -> None:
    def asked(preset: str) -> list[GenerationRequest]:
        first, *later = one_by_one(3, preset, temperature=utmost.get("temperature", 0.0) and 1.0)
        return [replace(first, sampling=SamplingParams(max_tokens=40, ignore_eos=True, **utmost)), *later]

    run = serve(asked(preset))
    assert run.tokens == serve(asked("ar")).tokens
    assert {last.finish_reason for last in run.last.values()} == {FinishReason.LENGTH}
    alone = serve(asked(preset)[1:])
    for later in ("s1", "s2"):
        assert accepted(run, later) >= 0.8 * accepted(alone, later) > 0
    assert run.stats is not None and run.stats.store_garbage == 0


@pytest.mark.parametrize("utmost", [one for one in UTMOST if one.get("temperature")], ids=str)
def test_so_they_do_where_drafts_draw_for_the_utmost(utmost: dict) -> None:
    first, *later = one_by_one(3, "ssd", {"verification": "rejection"}, temperature=1.0)
    first = replace(first, sampling=SamplingParams(max_tokens=40, ignore_eos=True, **utmost))
    run, alone = serve([first, *later]), serve(later)
    assert {last.finish_reason for last in run.last.values()} == {FinishReason.LENGTH}
    for session_id in ("s1", "s2"):
        assert accepted(run, session_id) >= 0.7 * accepted(alone, session_id) > 0


@pytest.mark.parametrize("masks", [{"top_k": 1}, {"top_p": 0.01}, {"min_p": 1.0}], ids=str)
@pytest.mark.parametrize("preset", DRAFTED)
def test_where_all_but_one_candidate_is_masked_nothing_of_the_drafts_is_garbage(preset: str, masks: dict) -> None:
    """Its edge is 1, and what was learned of the log odds must not round it to more."""
    run = serve(requests(3, preset, temperature=0.9, max_tokens=150, **masks))
    assert run.tokens == serve(requests(3, "ar", temperature=0.9, max_tokens=150, **masks)).tokens
    assert run.stats is not None and run.stats.store_garbage == 0 and run.stats.accepted > 0


# ------------------------------------------------------------ drafts that lie


class LyingLink(LockstepLink):
    """What a draft says of its children, now and then, is changed in the ways that types allow."""

    def __init__(self, draft: DraftLoop, seed: int, share: float) -> None:
        super().__init__(draft)
        self._dice = random.Random(seed)
        self._share = share
        self.num_lies = 0

    def poll_growth(self) -> list[GrowthReport]:
        return [
            replace(
                report,
                growths=tuple(map(self._told, report.growths)),
                busy_s=self._lie(report.busy_s, HOSTILE),
                num_nodes=self._lie(report.num_nodes, (-1, 10**30)),
            )
            for report in super().poll_growth()
        ]

    def _lie(self, truth, lies: Sequence):  # type: ignore[no-untyped-def]
        if self._dice.random() >= self._share:
            return truth
        self.num_lies += 1
        return self._dice.choice(lies)

    def _told(self, growth: Growth) -> Growth:
        edges = (*HOSTILE, -0.5, 1.0 + 2**-52, 1.0, 0.0)
        return replace(
            growth,
            parents=tuple(self._lie(parent, (0, 2**64 - 1, -1)) for parent in growth.parents),
            tokens=tuple(self._token(token) for token in growth.tokens),
            edge_probabilities=tuple(self._lie(edge, edges) for edge in growth.edge_probabilities),
            draws=tuple(map(self._drawn, growth.draws)),
        )

    def _token(self, token: int) -> int:
        return int(self._lie(token, (-1, VOCAB, 2**32 - 1, 2**80, 7)))

    def _drawn(self, draw: Draw) -> Draw:
        return Draw(
            self._lie(draw.parent, (0, -1)),
            self._token(draw.token),
            tuple(map(self._token, draw.tokens))[: self._lie(None, (0, 1))],
            tuple(self._lie(p, (*HOSTILE, -0.5, 1.5)) for p in draw.probabilities)[: self._lie(None, (0, 1))],
        )


@pytest.mark.parametrize("preset", DRAFTED)
@few
@given(seed=st.integers(0, 2**32), share=st.sampled_from((0.02, 0.2, 0.8)), temperature=st.sampled_from((0.0, 0.9)))
def test_lies_cost_hits_and_no_token(preset: str, seed: int, share: float, temperature: float) -> None:
    links: list[LyingLink] = []

    def make_link(draft: DraftLoop) -> LyingLink:
        links.append(LyingLink(draft, seed, share))
        return links[0]

    run = drive(requests(2, preset, temperature=temperature, max_tokens=20), make_link=make_link, clock=ticking())
    assert run.tokens == drive(requests(2, "ar", temperature=temperature, max_tokens=20)).tokens
    assert links[0].num_lies > 0 and run.stats is not None and math.isfinite(run.stats.draft_busy_s)


@pytest.mark.parametrize("preset", CHAINS)
@few
@given(seed=st.integers(0, 2**32), share=st.sampled_from((0.002, 0.02, 0.2)))
def test_the_loop_outlives_lies_about_draws(preset: str, seed: int, share: float) -> None:
    wanted = requests(2, preset, temperature=0.9, max_tokens=20, speculation={"verification": "rejection"})
    run = drive(wanted, make_link=lambda draft: LyingLink(draft, seed, share), clock=ticking())
    for request in wanted:
        tokens = run.tokens[request.session_id]
        assert len(tokens) == 20 and all(0 <= token < VOCAB for token in tokens)
        assert run.last[request.session_id].finish_reason is FinishReason.LENGTH


# ------------------------------------------------------------ targets that are sick


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("preset", DRAFTED)
def test_logits_beside_the_path_do_no_harm(preset: str, temperature: float, value: float) -> None:
    """Plain decoding never looks there."""
    wanted = requests(2, preset, temperature=temperature)
    plain = drive(requests(2, "ar", temperature=temperature))
    whole = {request.session_id: [*request.prompt, *plain.tokens[request.session_id]] for request in wanted}
    num_sick = 0

    def sicken(session_id: str, sequence: list[int], row: torch.Tensor) -> None:
        nonlocal num_sick
        if whole[session_id][: len(sequence)] != sequence:
            num_sick += 1
            row[11] = value

    run = drive(wanted, target=ChangedEngine(sicken), clock=ticking())
    assert run.tokens == plain.tokens and num_sick > 10
    assert {last.finish_reason for last in run.last.values()} == {FinishReason.LENGTH}


PLACES = [(preset, "shared-noise", n) for preset in ("ar", *DRAFTED) for n in (0, 1, 6)]
PLACES += [(preset, "rejection", n) for preset in CHAINS for n in (0, 1, 6)]


@pytest.mark.parametrize(("preset", "verification", "num_good"), PLACES)
def test_where_the_path_is_sick_the_session_ends_and_no_other(preset: str, verification: str, num_good: int) -> None:
    """With the tokens before that place, as in plain decoding."""
    plain = drive(requests(3, "ar", temperature=0.9)).tokens
    wanted = requests(3, preset, temperature=0.9, speculation={"verification": verification})
    sick_length = len(wanted[1].prompt) + num_good
    for value in (math.nan, math.inf):
        run = drive(wanted, target=ChangedEngine(sick_at("s1", sick_length, value)), clock=ticking())
        last = run.last["s1"]
        assert last.finish_reason is FinishReason.ERROR and "finite" in last.error
        assert len(run.tokens["s1"]) == num_good and last.stats is not None and last.stats.num_tokens == num_good
        assert (last.stats.first_token_s > 0) == (num_good > 0)
        if verification == "shared-noise":
            assert run.tokens["s1"] == plain["s1"][:num_good]
            assert [run.tokens[other] for other in ("s0", "s2")] == [plain[other] for other in ("s0", "s2")]
        assert {run.last[other].finish_reason for other in ("s0", "s2")} == {FinishReason.LENGTH}


def sick_at(sick_id: str, length: int, value: float) -> Change:
    def sicken(session_id: str, sequence: list[int], row: torch.Tensor) -> None:
        if session_id == sick_id and len(sequence) == length:
            row[11] = value

    return sicken


def test_a_session_that_ends_before_the_sick_place_ends_well() -> None:
    """The pass went on to where no token is wanted."""
    (request,) = requests(1, "sd", max_tokens=30)
    plain = drive(requests(1, "ar", max_tokens=30)).tokens["s0"]
    stop = next(token for i, token in enumerate(plain) if i >= 4 and token not in plain[:i])
    end = plain.index(stop) + 1

    def sicken(session_id: str, sequence: list[int], row: torch.Tensor) -> None:
        if len(sequence) >= len(request.prompt) + end:
            row[:] = np.nan

    ends = SamplingParams(max_tokens=30, ignore_eos=True, stop_token_ids=(stop,))
    for preset in DRAFTED:
        wanted = replace(request, sampling=ends, speculation=SpeculationConfig(preset=preset, self_tuning=False))
        run = drive([wanted], target=ChangedEngine(sicken), draft=FakeEngine(VOCAB, seed=3), clock=ticking())
        assert run.tokens["s0"] == plain[:end] and run.last["s0"].finish_reason is FinishReason.STOP

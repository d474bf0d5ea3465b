"""A draft without room has sessions wait, and takes them up when others end, unasked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ssd_core.draft_loop import DraftLoop, SessionClose
from ssd_core.engine.fake import FakeEngine
from ssd_core.types import Growth, Outcome, SessionOpen
from tests.core.driver import drive, requests

FIRST, SECOND, THIRD = (
    SessionOpen(r.session_id, r.prompt, len(r.prompt), r.sampling, r.speculation) for r in requests(3, "ssd-tree", max_tokens=20)
)


def full_draft() -> DraftLoop:
    """THIRD, the longest of them, has all of its cells."""
    num_cells = THIRD.num_prompt_tokens + THIRD.sampling.max_tokens + THIRD.speculation.growth_limit + 1
    loop = DraftLoop(FakeEngine(num_cells=num_cells))
    loop.receive(THIRD)
    return loop


def told(loop: DraftLoop) -> dict[str, Growth]:
    """The last growth of each session once nothing is left to grow."""
    last: dict[str, Growth] = {}
    for _ in range(200):
        report = loop.step()
        if report is None:
            return last
        last |= {growth.session_id: growth for growth in report.growths}
        assert not report.unknown_sessions
    raise AssertionError("no end in sight")


def grown(loop: DraftLoop) -> set[str]:
    """Sessions that children were proposed for."""
    ids: set[str] = set()
    while (report := loop.step()) is not None:
        ids |= {growth.session_id for growth in report.growths if growth.tokens}
    return ids


def test_who_finds_no_room_hears_so_at_once_and_is_taken_up_when_room_comes_back() -> None:
    loop = full_draft()
    loop.receive(SECOND)
    assert told(loop)["s1"] == Growth("s1", len(SECOND.tokens), (), (), (), is_exhausted=True)
    assert len(loop) == 1 and loop.step() is None, "nobody asks again and again"
    loop.receive(SessionClose("s2"))
    assert grown(loop) == {"s1"}


def test_a_session_is_taken_up_with_all_that_it_committed_while_it_waited() -> None:
    loop = full_draft()
    loop.receive(SECOND)
    told(loop)
    length = len(SECOND.tokens)
    loop.receive(Outcome("s1", length, (7, 8), ()))
    assert told(loop)["s1"].committed_length == length + 2, "acknowledged: it need not be repeated"
    loop.receive(Outcome("s1", length, (7,), ()))  # late
    loop.receive(Outcome("s1", length + 1, (8, 9), ()))
    assert told(loop)["s1"].committed_length == length + 3
    loop.receive(SessionClose("s2"))
    loop.receive(Outcome("s1", length + 3, (10,), ()))
    assert told(loop)["s1"].committed_length == length + 4
    loop.check_integrity()
    assert loop._sessions["s1"].tokens == [*SECOND.tokens, 7, 8, 9, 10]


def test_one_that_waits_and_lacks_tokens_is_unknown() -> None:
    loop = full_draft()
    loop.receive(SECOND)
    told(loop)
    loop.receive(Outcome("s1", len(SECOND.tokens) + 1, (7,), ()))
    report = loop.step()
    assert report is not None and report.unknown_sessions == ("s1",)


def test_one_that_ends_while_it_waits_leaves_nothing_and_the_others_keep_their_turn() -> None:
    loop = full_draft()
    for opening in (FIRST, replace(FIRST, session_id="again"), SECOND):
        loop.receive(opening)
    told(loop)
    loop.receive(SessionClose("s0"))
    loop.receive(SessionClose("s2"))
    assert grown(loop) == {"again"}
    loop.receive(SessionClose("again"))
    assert grown(loop) == {"s1"}
    loop.receive(SessionClose("s1"))
    assert loop.step() is None and loop._engine.num_free_cells == loop._engine.num_cells


@pytest.mark.parametrize("preset", ["sd", "tree", "ssd", "saguaro", "ssd-tree"])
def test_a_session_that_was_refused_gets_hits_once_another_has_ended(preset: str) -> None:
    short, long = requests(2, preset, max_tokens=60)
    short = replace(short, sampling=short.sampling.model_copy(update={"max_tokens": 4}))
    room = max(len(r.prompt) + r.sampling.max_tokens + r.speculation.growth_limit + 1 for r in (short, long))
    run = drive([short, long], draft=FakeEngine(seed=3, noise=0.2, num_cells=room))
    alone = drive([long], draft=FakeEngine(seed=3, noise=0.2, num_cells=1))
    assert run.tokens[long.session_id] == alone.tokens[long.session_id]
    stats = run.last[long.session_id].stats
    assert stats is not None and stats.num_accepted > 10

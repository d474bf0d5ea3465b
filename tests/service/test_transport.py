"""deployments/transport.py without Ray: a draft in this process, reached over a real wire; a pool that is a plain object."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from deployments import transport
from deployments.codec import decode_orders
from deployments.config import DraftConfig
from deployments.draft_server import DraftServer
from deployments.messages import DraftAddress, Grant, Snapshot
from deployments.transport import RayDraftLink
from deployments.wire import MAX_MESSAGE_BYTES
from ssd_core.config import EngineConfig, SamplingParams, SpeculationConfig
from ssd_core.draft_loop import DraftMessage, SessionClose
from ssd_core.types import GrowthReport, Outcome, SessionOpen

NODE = "this node"
VOCAB_SIZE = 257
OPENING = SessionOpen("s", (1, 2, 3), 3, SamplingParams(max_tokens=50), SpeculationConfig())


@dataclass
class Method:
    """An actor's method: `remote` calls it at once, and its result is its own reference."""

    call: Callable[..., Any]

    def remote(self, *args: Any) -> Any:
        return self.call(*args)

    def options(self, **options: Any) -> Method:
        return self


def address(server: DraftServer, target_id: str) -> DraftAddress:
    return DraftAddress(NODE, server.path, server.invite(target_id))


class FakePool:
    """Leases every session to the one draft it has, if any."""

    def __init__(self) -> None:
        self.draft = ""
        self.servers: dict[str, DraftServer] = {}
        self.leased: set[str] = set()
        self.lease, self.release, self.handle = Method(self._lease), Method(self._release), Method(self._handle)

    def start(self, name: str) -> DraftServer:
        self.draft = name
        server = self.servers[name] = DraftServer(DraftConfig(engine=EngineConfig(model="fake:draft", kv_budget_bytes=2**22)))
        return server

    def _lease(self, target_id: str, session_ids: Sequence[str], released: Sequence[str]) -> tuple[Grant, ...]:
        if self.draft:
            self.leased |= set(session_ids)
        self._release(released)
        return tuple(Grant(session_id, self.draft) for session_id in session_ids)

    def _release(self, session_ids: Sequence[str]) -> None:
        self.leased -= set(session_ids)

    def _handle(self, name: str) -> Any:
        server = self.servers[name]
        return SimpleNamespace(receive=Method(server.receive), address=Method(partial(address, server)))


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePool]:
    context = SimpleNamespace(get_node_id=lambda: NODE)
    stub = SimpleNamespace(get=lambda reference, timeout=None: reference, get_runtime_context=lambda: context)
    monkeypatch.setattr(transport, "ray", stub)
    pool = FakePool()
    yield pool
    for server in pool.servers.values():
        server.stop()


@pytest.fixture
def link(pool: FakePool) -> Iterator[RayDraftLink]:
    link = RayDraftLink("target", VOCAB_SIZE, lambda: pool)
    yield link
    link.stop()


def until(condition: Callable[[], object]) -> None:
    """What is watched is other threads'."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "not within 5 s"
        time.sleep(0.001)


def growth_after(link: RayDraftLink, length: int) -> GrowthReport:
    """The first report of children below a root at this length."""
    deadline = time.monotonic() + 5
    while True:
        link.wait(0.05)
        for report in link.poll_growth():
            if any(growth.committed_length == length and growth.tokens for growth in report.growths):
                return report
        assert time.monotonic() < deadline, "no growth within 5 s"


def test_growth_comes_by_wire_for_the_opening_and_for_outcomes(pool: FakePool, link: RayDraftLink) -> None:
    server = pool.start("draft")
    link.open(OPENING)
    growth = growth_after(link, 3).growths[0]
    assert growth.session_id == "s" and link.has_draft("s")
    link.send_outcomes([Outcome("s", 3, (growth.tokens[0],), ())])
    growth_after(link, 4)
    assert not server._streams, "growth came as a stream, not by wire"
    link.close("s")
    until(lambda: server.num_sessions == 0 and not pool.leased)
    assert server.num_free_cells == server.num_cells and not link.has_draft("s")


def test_when_its_draft_stops_a_session_has_none_and_asks_to_be_opened_with_another(pool: FakePool, link: RayDraftLink) -> None:
    pool.start("first")
    link.open(OPENING)
    growth_after(link, 3)
    assert link.needs_open() == []

    pool.servers["first"].stop()
    pool.draft = ""
    until(lambda: link.poll_growth() == [] and not link.has_draft("s"))  # by the wire's end, behind what it still held
    assert link.counters.drafts_lost == 1
    assert link.needs_open() == ["s"] and link.needs_open() == []

    link.open(OPENING)  # no draft to be had: it will be asked again
    again: list[str] = []
    until(lambda: again.extend(link.needs_open()) or again)
    assert again == ["s"] and not link.has_draft("s")

    pool.start("second")
    link.open(OPENING)
    growth_after(link, 3)
    assert link.has_draft("s")


def test_a_session_closed_while_its_lease_is_asked_for_leaves_nothing(pool: FakePool, link: RayDraftLink) -> None:
    server = pool.start("draft")
    link.open(OPENING)
    link.close("s")
    link.open(SessionOpen("other", (1, 2), 2, SamplingParams(max_tokens=50), SpeculationConfig()))
    growth_after(link, 2)  # comes after whatever was said of the first
    link.close("other")
    until(lambda: not pool.leased and server.num_sessions == 0)
    assert not link.has_draft("s") and not link.has_draft("other")


def test_a_session_whose_opening_is_too_long_for_the_wire_is_closed_the_same_way(
    pool: FakePool, link: RayDraftLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = pool.start("draft")
    calls: list[DraftMessage] = []

    def receive(target_id: str, data: bytes) -> None:
        calls.extend(decode_orders(data, VOCAB_SIZE).orders)
        server.receive(target_id, data)

    handle = SimpleNamespace(receive=Method(receive), address=Method(partial(address, server)))
    monkeypatch.setattr(pool, "handle", Method(lambda name: handle))
    long = SessionOpen("long", (200,) * MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES, SamplingParams(max_tokens=50), SpeculationConfig())
    link.open(long)
    until(lambda: calls == [long])
    link.open(OPENING)
    growth_after(link, 3)
    link.close("s")
    until(lambda: server.num_sessions == 0)
    link.close("long")
    until(lambda: calls == [long, SessionClose("long")])


async def test_where_nothing_runs_the_beat_finds_a_new_pool(pool: FakePool) -> None:
    beats: list[str] = []

    async def of_a_dead_pool(*args: object) -> None:
        raise RayActorError

    async def of_a_new_pool(target_id: str, *args: object) -> None:
        beats.append(target_id)

    pools = [SimpleNamespace(beat=Method(of_a_dead_pool)), SimpleNamespace(beat=Method(of_a_new_pool))]
    link = RayDraftLink("target", VOCAB_SIZE, lambda: pools.pop(0))
    for _ in range(3):
        await link.beat(Snapshot("target", ()))
    link.stop()
    assert beats == ["target", "target"] and not pools

"""deployments/transport.py without Ray: a draft in this process, reached over a real wire; a pool that is a plain object."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from deployments import transport
from deployments.codec import CodecError, decode_orders, encode_orders
from deployments.config import DraftConfig
from deployments.draft_server import DraftServer
from deployments.messages import DraftAddress, Grant, Snapshot
from deployments.session_owners import TARGET_LOST_AFTER_S
from deployments.transport import LEASE_PAUSE_S, RayDraftLink
from deployments.wire import MAX_MESSAGE_BYTES, Wire
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
        self.num_met = self.num_asked = 0
        self.lease, self.release, self.handle = Method(self._lease), Method(self._release), Method(self._handle)
        self.beat = Method(self._beat)

    def start(self, name: str, clock: Callable[[], float] = time.monotonic) -> DraftServer:
        self.draft = name
        config = DraftConfig(engine=EngineConfig(model="fake:draft", kv_budget_bytes=2**22))
        server = self.servers[name] = DraftServer(config, clock=clock)
        return server

    async def _beat(self, *args: object) -> None: ...

    def _lease(self, target_id: str, session_ids: Sequence[str], released: Sequence[str]) -> tuple[Grant, ...]:
        self.num_asked += 1
        if self.draft:
            self.leased |= set(session_ids)
        self._release(released)
        return tuple(Grant(session_id, self.draft) for session_id in session_ids)

    def _release(self, session_ids: Sequence[str]) -> None:
        self.leased -= set(session_ids)

    def _handle(self, name: str) -> Any:
        self.num_met += 1
        server = self.servers[name]
        return SimpleNamespace(
            receive=Method(server.receive),
            address=Method(partial(address, server)),
            growth=Method(server.growth),
        )


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
    link = RayDraftLink("target", lambda: pool)
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
    until(lambda: server.num_free_cells == server.num_cells)  # given back right after
    assert not link.has_draft("s")


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
    link = RayDraftLink("target", lambda: pools.pop(0))
    for _ in range(3):
        await link.beat(Snapshot("target", ()))
    link.stop()
    assert beats == ["target", "target"] and not pools


# ---------------------------------------------------------------- nothing is held for ever


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Loss:
    """Every message with a close in it is lost, whichever way it goes."""

    num_lost: int = 0

    def losing(self, receive: Callable[[str, bytes], None]) -> Callable[[str, bytes], None]:
        return lambda target_id, data: None if self.takes(data) else receive(target_id, data)

    def takes(self, data: bytes) -> bool:
        try:
            orders = decode_orders(data, VOCAB_SIZE).orders
        except CodecError:  # a report, on its way to the target
            return False
        is_lost = any(isinstance(order, SessionClose) for order in orders)
        self.num_lost += is_lost
        return is_lost


def opening(session_id: str) -> SessionOpen:
    return replace(OPENING, session_id=session_id)


@pytest.mark.parametrize("may_wire", [True, False], ids=["wire", "calls"])
async def test_when_every_close_is_lost_the_next_beat_gives_all_cells_back(
    pool: FakePool, monkeypatch: pytest.MonkeyPatch, may_wire: bool
) -> None:
    server, loss, send = pool.start("draft"), Loss(), Wire.send
    monkeypatch.setattr(Wire, "send", lambda wire, data: loss.takes(data) or send(wire, data))
    monkeypatch.setattr(server, "receive", loss.losing(server.receive))
    link = RayDraftLink("target", lambda: pool, may_wire=may_wire)
    for number in range(4):
        link.open(opening(f"s{number}"))
    until(lambda: server.num_sessions == 4)
    for number in range(3):
        link.close(f"s{number}")
    until(lambda: loss.num_lost and not any(link.has_draft(f"s{number}") for number in range(3)))
    assert server.num_sessions == 4
    await link.beat(Snapshot("target", ()))
    until(lambda: server.num_sessions == 1)
    link.close("s3")
    until(lambda: not link.has_draft("s3"))
    await link.beat(Snapshot("target", ()))
    until(lambda: server.num_sessions == 0 and server.num_free_cells == server.num_cells)
    link.stop()


@pytest.mark.parametrize("may_wire", [True, False], ids=["wire", "calls"])
def test_a_killed_targets_cells_come_back_and_the_others_keep_theirs(pool: FakePool, may_wire: bool) -> None:
    clock = Clock()
    server = pool.start("draft", clock)
    killed, other = (RayDraftLink(name, lambda: pool, may_wire=may_wire) for name in ("killed", "other"))
    killed.open(opening("a"))
    other.open(opening("b"))
    until(lambda: server.num_sessions == 2)
    for wire in killed._wires.values():
        wire.close()  # as the kernel does; from here on it says nothing
    clock.now += TARGET_LOST_AFTER_S / 2
    other._orders.put(transport.Beat())
    until(lambda: server._owners.lost(clock.now + TARGET_LOST_AFTER_S / 2 + 1) == ["killed"])
    assert server.num_sessions == 2
    clock.now += TARGET_LOST_AFTER_S / 2 + 1
    server._hub.wake()
    until(lambda: server.num_sessions == 1)
    assert server._owners.owner("b") == "other"
    assert list(server._streams) == ([] if may_wire else ["other"])
    other.close("b")
    until(lambda: server.num_sessions == 0 and server.num_free_cells == server.num_cells)
    for link in (killed, other):
        link.stop()


# ---------------------------------------------------------------- no session stays without a draft


def reopened(link: RayDraftLink, *session_ids: str) -> bool:
    """What the target's loop does at each round; True once all have a draft."""
    link.poll_growth()
    for session_id in link.needs_open():
        link.open(opening(session_id))
    return all(map(link.has_draft, session_ids))


def test_a_draft_lost_between_meeting_and_moving_in_leaves_no_session_without_one(
    pool: FakePool, link: RayDraftLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.start("draft")
    meet, num_met = link._meet, 0

    def meet_and_lose(*args: Any) -> bool:
        nonlocal num_met
        num_met += 1
        is_met = meet(*args)
        if num_met == 1:
            link._lose("draft")
        return is_met

    monkeypatch.setattr(link, "_meet", meet_and_lose)
    link.open(opening("s"))
    until(lambda: reopened(link, "s"))
    assert num_met > 1


def test_a_broken_wire_is_mended_and_growth_comes_again_from_the_same_draft(pool: FakePool, link: RayDraftLink) -> None:
    server = pool.start("draft")
    for session_id in ("s", "t"):
        link.open(opening(session_id))
    until(lambda: reopened(link, "s", "t"))
    for times in range(1, 4):
        link._wires["draft"]._end.shutdown(socket.SHUT_RDWR)
        until(lambda times=times: reopened(link, "s", "t") and link.counters.drafts_lost == times)
    link.send_outcomes([Outcome("s", 3, (5,), ())])
    growth_after(link, 4)
    assert list(pool.servers) == ["draft"] and server.num_sessions == 2
    assert "draft" in link._wires and not server._streams


def test_where_no_wire_can_be_had_any_more_growth_comes_by_calls(
    pool: FakePool, link: RayDraftLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = pool.start("draft")
    link.open(opening("s"))
    until(lambda: reopened(link, "s"))

    def refuse(*args: object) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(Wire, "connect", refuse)
    link._wires["draft"]._end.shutdown(socket.SHUT_RDWR)
    until(lambda: reopened(link, "s") and link.counters.drafts_lost == 1)
    assert growth_after(link, 3).growths[0].session_id == "s"
    assert not link._wires and list(server._streams) == ["target"]


def test_lost_drafts_and_refused_leases_are_tried_again_after_a_pause_and_not_before(
    pool: FakePool,
) -> None:
    clock = Clock()
    link = RayDraftLink("target", lambda: pool, clock=clock)
    link.open(opening("s"))  # no draft is to be had
    until(lambda: pool.num_asked == 1)
    for number in range(1, 5):  # and others ask meanwhile, with no more luck
        link.open(opening(f"other{number}"))
        until(lambda number=number: pool.num_asked == 1 + number)
        assert link.needs_open() == []
    pool.start("draft")
    clock.now += LEASE_PAUSE_S
    until(lambda: reopened(link, "s"))
    assert pool.num_met == 1

    link._wires["draft"]._end.shutdown(socket.SHUT_RDWR)
    num_asked = pool.num_asked
    until(lambda: reopened(link) and pool.num_asked > num_asked)
    assert pool.num_met == 1 and not link.has_draft("s")
    clock.now += 1.0
    until(lambda: reopened(link, "s"))
    assert pool.num_met == 2
    link.stop()


def test_a_draft_that_dies_as_it_is_met_does_not_make_the_pool_seem_dead(pool: FakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(target_id: str) -> DraftAddress:
        raise RayActorError

    pools_found = []
    pool.start("draft")
    handle = pool.handle
    monkeypatch.setattr(pool, "handle", Method(lambda name: SimpleNamespace(address=Method(dead))))
    link = RayDraftLink("target", lambda: pools_found.append(1) or pool)
    link.open(opening("s"))
    until(lambda: link.needs_open() == ["s"])
    monkeypatch.setattr(pool, "handle", handle)
    link.open(opening("s"))
    until(lambda: reopened(link, "s"))
    assert len(pools_found) == 1
    link.stop()


# ---------------------------------------------------------------- nobody is in anybody's way


def test_an_order_for_another_targets_session_gets_none_of_its_growth(pool: FakePool, link: RayDraftLink) -> None:
    server = pool.start("draft")
    thief = RayDraftLink("thief", lambda: pool)
    link.open(opening("s"))
    thief.open(opening("own"))
    until(lambda: reopened(link, "s") and reopened(thief, "own") and server.num_sessions == 2)
    heard: list[GrowthReport] = []
    for order in (Outcome("s", 3, (9,), ()), opening("s"), SessionClose("s")):
        assert thief._wires["draft"].send(encode_orders([order], time.time()))
    thief.send_outcomes([Outcome("own", 3, (6,), ())])
    until(lambda: heard.extend(thief.poll_growth()) or grown_at(heard, "own", 4))  # after the others
    link.send_outcomes([Outcome("s", 3, (5,), ())])
    growth_after(link, 4)
    heard.extend(thief.poll_growth())
    assert {growth.session_id for report in heard for growth in report.growths} == {"own"}
    assert server.num_sessions == 2 and server._owners.owner("s") == "target"
    thief.stop()


def grown_at(reports: list[GrowthReport], session_id: str, length: int) -> bool:
    growths = [growth for report in reports for growth in report.growths if growth.tokens]
    return any((g.session_id, g.committed_length) == (session_id, length) for g in growths)


def test_strangers_at_the_drafts_socket_disturb_nobody(pool: FakePool, link: RayDraftLink) -> None:
    server = pool.start("draft")
    link.open(OPENING)
    growth_after(link, 3)
    rogues = []
    for length in range(4, 40):
        for greeting in (None, b"target", b"target", bytes(120_000), b"\xdd\xff\xff\xff\xff"):
            end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            end.setblocking(False)
            end.connect(server.path)
            if greeting is not None:
                end.send(greeting)
            rogues.append(end)
        rogues.pop().close()
        link.send_outcomes([Outcome("s", length - 1, (length,), ())])
        growth_after(link, length)
    assert not server.failure and link.counters.drafts_lost == 0
    assert server._hub.names == ["target"]
    for end in rogues:
        end.close()

"""RayDraftLink: a target replica's seam to draft actors in other processes.

All outcomes of a round leave as one message per draft. To a draft on the same node they go over a wire (wire.py), from the engine's
thread and back into it. To any other the engine's thread only puts to a queue and takes from a deque; behind these one thread sends
orders by actor calls and one per draft receives growth, as the items of a streaming call: each a Ray object, brought here by Ray. A
further thread asks the pool for leases. A draft that cannot be heard any more, its process dead or its wire broken, is met anew or
replaced, as the pool says: its sessions have no home from then on, `has_draft` is False, and `needs_open` lists them once. With each
beat every draft hears which sessions this target has with it, and ends whatever else it holds for it.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from deployments.backoff import Backoff
from deployments.codec import CodecError, Order, SessionsHeld, decode_report, encode_orders
from deployments.messages import DraftAddress, Grant, Snapshot
from deployments.wire import Waker, Wire
from ssd_core.draft_loop import DraftMessage, SessionClose
from ssd_core.loop_stats import Histogram
from ssd_core.types import GrowthReport, Outcome, SessionOpen

logger = logging.getLogger(__name__)

LEASE_PAUSE_S = 0.1
"""Before sessions without a draft ask for one again; and before a lease is given back by a call of its own, not with the next request."""
POOL_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Stop:
    """Ends a thread that reads a queue."""


@dataclass(frozen=True, slots=True)
class Beat:
    """Has the sender tell each draft which sessions it holds."""


@dataclass(frozen=True, slots=True)
class RoundOutcomes:
    outcomes: tuple[Outcome, ...]
    queued_at: float
    """time.time()"""


@dataclass(frozen=True, slots=True)
class Release:
    session_id: str


@dataclass(slots=True)
class LinkCounters:
    """Written by one thread each."""

    messages_sent: int = 0
    bytes_sent: int = 0
    reports_received: int = 0
    bytes_received: int = 0
    garbage: int = 0
    drafts_lost: int = 0
    """Times that a draft died, or the way to it broke."""
    growth_delay: Histogram = field(default_factory=Histogram)
    """From the end of the growth step to the report's arrival here."""
    send_s: float = 0.0
    """Time of the sender's thread, encoding included."""


class RayDraftLink:
    """`find_pool` looks the pool's handle up anew: it changes when Serve restarts it."""

    def __init__(
        self,
        target_id: str,
        find_pool: Callable[[], ActorHandle],
        *,
        may_wire: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`may_wire`: drafts of this node are reached over a wire."""
        self._clock = clock
        self._target_id = target_id
        self._may_wire = may_wire
        self._find_pool = find_pool
        self._pool: ActorHandle | None = None
        self._lock = threading.Lock()  # guards the next six
        self._sessions: set[str] = set()  # open on the target's side
        self._homes: dict[str, str] = {}  # session -> draft
        self._needs_open: set[str] = set()
        self._drafts: dict[str, Any] = {}  # name -> its `receive`, with options set once: a call is on the path of every round
        self._wires: dict[str, Wire] = {}  # name -> connection, for drafts of this node
        self._backoff = Backoff()  # of drafts that were lost
        self._called: set[str] = set()  # the sender's: sessions opened by actor call
        self._orders: queue.SimpleQueue[DraftMessage | RoundOutcomes | Beat | Stop] = queue.SimpleQueue()
        self._requests: queue.SimpleQueue[SessionOpen | Release | Stop] = queue.SimpleQueue()
        self._reports: deque[GrowthReport] = deque()
        self._waker = Waker()
        self.counters = LinkCounters()
        self._threads = [
            threading.Thread(target=run, name=name, daemon=True) for run, name in ((self._send, "orders"), (self._lease, "leases"))
        ]
        for thread in self._threads:
            thread.start()

    # ------------------------------------------------------------ DraftLink: the engine's thread

    def open(self, opening: SessionOpen) -> None:
        with self._lock:
            self._sessions.add(opening.session_id)
            has_home = opening.session_id in self._homes
        if has_home:
            self._orders.put(opening)
        else:
            self._requests.put(opening)

    def send_outcomes(self, outcomes: Sequence[Outcome]) -> None:
        by_wire: dict[str, list[Outcome]] = {}
        by_call: list[Outcome] = []
        for outcome in outcomes:
            home = self._homes.get(outcome.session_id, "")
            (by_wire.setdefault(home, []) if home in self._wires else by_call).append(outcome)
        for draft, orders in by_wire.items():
            self._transmit(draft, orders, time.time())
        if by_call:
            self._orders.put(RoundOutcomes(tuple(by_call), time.time()))

    def poll_growth(self) -> list[GrowthReport]:
        for draft, wire in list(self._wires.items()):
            messages = wire.receive()
            if messages is None:
                logger.warning("lost %s: its wire is closed", draft)
                self._lose(draft)
            for data in messages or ():
                self._take(data)
        return [self._reports.popleft() for _ in range(len(self._reports))]

    def needs_open(self) -> list[str]:
        if not self._needs_open:  # a glance without the lock: the next round sees what this one misses
            return []
        with self._lock:
            lost, self._needs_open = self._needs_open, set()
        return list(lost)

    def has_draft(self, session_id: str) -> bool:
        return session_id in self._homes

    def wait(self, timeout_s: float) -> None:
        poller = select.poll()
        for number in (self._waker.fileno(), *(wire.fileno() for wire in list(self._wires.values()))):
            poller.register(number, select.POLLIN)
        poller.poll(1000 * timeout_s)
        self._waker.clear()

    def wake(self) -> None:
        self._waker.wake()

    def close(self, session_id: str) -> None:
        with self._lock:
            self._sessions.discard(session_id)
            self._needs_open.discard(session_id)
        self._orders.put(SessionClose(session_id))

    # ------------------------------------------------------------ the replica's event loop

    def stop(self) -> None:
        self._orders.put(Stop())
        self._requests.put(Stop())

    async def beat(self, snapshot: Snapshot) -> None:
        """Tell drafts and pool what this target holds, and wait for the pool's answer: where nothing runs, that is how its death is
        noticed, and the first beat sets a new pool to work."""
        self._orders.put(Beat())
        with self._lock:
            sessions = tuple(self._sessions)
        try:
            await asyncio.wait_for(self._current_pool().beat.remote(self._target_id, sessions, snapshot), POOL_TIMEOUT_S)
        except (RayError, ValueError, TimeoutError) as error:  # the pool is being restarted: the next beat finds the new one
            logger.warning("the pool does not answer: %s", error)
            self._pool = None

    # ------------------------------------------------------------ the sender's thread

    def _send(self) -> None:
        while True:
            batch = [self._orders.get()]
            batch += [self._orders.get() for _ in range(self._orders.qsize())]
            began = time.perf_counter()
            sent_at = min((item.queued_at for item in batch if isinstance(item, RoundOutcomes)), default=time.time())
            by_draft = self._by_draft(batch)
            if any(isinstance(item, Beat) for item in batch):
                self._add_held(by_draft)
            for draft, orders in by_draft.items():
                self._send_in_order(draft, orders, sent_at)
            self._called.difference_update(item.session_id for item in batch if isinstance(item, SessionClose))
            self.counters.send_s += time.perf_counter() - began
            if any(isinstance(item, Stop) for item in batch):
                return

    def _send_in_order(self, draft: str, orders: Sequence[Order], sent_at: float) -> None:
        """The wire is faster than a call: a close that overtook its opening would leave the session with the draft, so it goes the way
        the opening went."""
        follows_a_call = any(isinstance(order, SessionClose) and order.session_id in self._called for order in orders)
        if not self._transmit(draft, orders, sent_at, may_wire=not follows_a_call):
            self._called.update(order.session_id for order in orders if isinstance(order, SessionOpen))

    def _transmit(self, draft: str, orders: Sequence[Order], sent_at: float, *, may_wire: bool = True) -> bool:
        """One message, by wire (True) where there is one and it takes it, by actor call otherwise."""
        wire, receive = self._wires.get(draft), self._drafts.get(draft)
        if receive is None:
            return False  # it was lost this moment
        data = encode_orders(orders, sent_at)
        is_wired = may_wire and wire is not None and wire.send(data)
        if not is_wired:
            receive.remote(self._target_id, data)
        self.counters.messages_sent += 1
        self.counters.bytes_sent += len(data)
        return is_wired

    def _add_held(self, by_draft: dict[str, list[Order]]) -> None:
        """To the orders of each draft, which sessions it has: those that the orders open, too."""
        with self._lock:
            held: dict[str, list[str]] = {draft: [] for draft in self._drafts}
            for session_id, home in self._homes.items():
                held[home].append(session_id)
        for draft, session_ids in held.items():
            by_draft.setdefault(draft, []).append(SessionsHeld(tuple(session_ids)))

    def _by_draft(self, batch: Iterable[DraftMessage | RoundOutcomes | Beat | Stop]) -> dict[str, list[Order]]:
        """Orders by the draft that must hear them. Without one they are dropped: the next ones repeat what matters."""
        orders: dict[str, list[Order]] = {}
        with self._lock:
            for item in batch:
                if isinstance(item, Beat | Stop):
                    continue
                for order in item.outcomes if isinstance(item, RoundOutcomes) else (item,):
                    home = self._homes.get(order.session_id)
                    if isinstance(order, SessionClose):
                        self._homes.pop(order.session_id, None)
                        self._requests.put(Release(order.session_id))
                    elif order.session_id not in self._sessions:
                        continue  # it ended while its lease was asked for
                    if home is not None:
                        orders.setdefault(home, []).append(order)
        return orders

    # ------------------------------------------------------------ the leases' thread

    def _lease(self) -> None:
        retry: set[str] = set()
        retry_at = 0.0
        released: list[str] = []
        while True:
            try:
                batch = [self._requests.get(timeout=LEASE_PAUSE_S if retry or released else None)]
            except queue.Empty:
                batch = []
            batch += [self._requests.get() for _ in range(self._requests.qsize())]
            if any(isinstance(item, Stop) for item in batch):
                return
            if retry and self._clock() >= retry_at:
                with self._lock:
                    self._needs_open |= retry & self._sessions
                retry = set()
            if not retry:
                retry_at = self._clock() + LEASE_PAUSE_S
            openings = [item for item in batch if isinstance(item, SessionOpen)]
            released += [item.session_id for item in batch if isinstance(item, Release)]
            try:
                if openings:
                    told, released = released, []
                    retry |= self._take_homes(openings, told)
                elif released and not batch:
                    told, released = released, []
                    self._current_pool().release.options(num_returns=0).remote(told)
            except (RayError, ValueError) as error:  # the pool died or is not found yet; what was released, the next beat says
                logger.warning("no lease: %s", str(error).partition("\n")[0])
                self._pool = None
                retry |= {opening.session_id for opening in openings}

    def _take_homes(self, openings: Sequence[SessionOpen], released: Sequence[str]) -> set[str]:
        """Lease a draft for each and hand the openings to the sender. Returns the sessions that got none."""
        pool = self._current_pool()
        by_session = {opening.session_id: opening for opening in openings}
        grants: tuple[Grant, ...] = ray.get(pool.lease.remote(self._target_id, tuple(by_session), released), timeout=POOL_TIMEOUT_S)
        failed: set[str] = set()
        for grant in grants:
            if grant.draft and self._meet(pool, grant.draft) and self._move_in(grant):
                self._orders.put(by_session[grant.session_id])
            else:
                failed.add(grant.session_id)
        return failed

    def _move_in(self, grant: Grant) -> bool:
        """False: the draft was lost since it was met. A session that has ended meanwhile gets no home."""
        with self._lock:
            if grant.draft in self._drafts and grant.session_id in self._sessions:
                self._homes[grant.session_id] = grant.draft
            return grant.draft in self._drafts

    def _meet(self, pool: ActorHandle, draft: str) -> bool:
        """Get to know a draft: its handle, and a wire or a thread for its growth. False: it is gone, does not answer, or was lost a
        moment ago."""
        with self._lock:
            if draft in self._drafts:
                return True
            if not self._backoff.may_try(draft, self._clock()):
                return False
        handle: ActorHandle | None = ray.get(pool.handle.remote(draft), timeout=POOL_TIMEOUT_S)
        if handle is None:
            return False
        try:
            wire = self._connect(handle) if self._may_wire else None
        except RayError as error:
            logger.warning("%s does not answer: %s", draft, str(error).partition("\n")[0])
            with self._lock:
                self._backoff.failed(draft, self._clock())
            return False
        with self._lock:
            self._drafts[draft] = handle.receive.options(num_returns=0)  # no answer: the wire or the growth stream tells of a death
            if wire is not None:
                self._wires[draft] = wire
        self._waker.wake()  # whoever waits must wait for the new wire, too
        if wire is None:
            threading.Thread(target=self._receive, args=(draft, handle), name=f"growth of {draft}", daemon=True).start()
        return True

    def _connect(self, draft: ActorHandle) -> Wire | None:
        """A wire, if the draft is on this node."""
        address: DraftAddress = ray.get(draft.address.remote(self._target_id), timeout=POOL_TIMEOUT_S)
        if address.node_id != ray.get_runtime_context().get_node_id():
            return None
        try:
            return Wire.connect(address.path, address.token)
        except OSError as error:  # another container on the same node, say
            logger.warning("no wire to %s: %s", address.path, error)
            return None

    def _current_pool(self) -> ActorHandle:
        pool = self._pool  # once: the event loop and the leases' thread both forget a pool that does not answer
        if pool is None:
            pool = self._pool = self._find_pool()
        return pool

    # ------------------------------------------------------------ a receiver's thread

    def _receive(self, draft: str, handle: ActorHandle) -> None:
        try:
            stream: Any = handle.growth.options(num_returns="streaming").remote(self._target_id)
            for reference in stream:
                self._take(ray.get(reference))
                self._waker.wake()
        except RayError as error:
            logger.warning("lost %s: %s", draft, str(error).partition("\n")[0])
        finally:
            self._lose(draft)

    def _take(self, data: bytes) -> None:
        try:
            report = decode_report(data)
        except CodecError as error:
            self.counters.garbage += 1
            logger.warning("dropped a growth report: %s", error)
            return
        self.counters.reports_received += 1
        self.counters.bytes_received += len(data)
        self.counters.growth_delay.add(max(0.0, time.time() - report.sent_at))
        self._reports.append(report)

    def _lose(self, draft: str) -> None:
        """The draft is not heard any more: its sessions have none from now on, and ask for one."""
        with self._lock:
            del self._drafts[draft]
            wire = self._wires.pop(draft, None)
            self._backoff.failed(draft, self._clock())
            lost = {session_id for session_id, home in self._homes.items() if home == draft}
            for session_id in lost:
                del self._homes[session_id]
            self._needs_open |= lost & self._sessions
        if wire is not None:
            wire.close()
        self.counters.drafts_lost += 1
        self._waker.wake()

"""The draft actor without Ray: one loop for the sessions of all targets, and a stream of growth for each target."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from autoscale.draft_scaler import DraftTotals
from deployments.codec import CodecError, Orders, decode_orders, encode_report
from deployments.config import DraftConfig
from deployments.engines import load_engine, load_tokenizer, spin_up
from deployments.loop_thread import LoopThread
from deployments.session_owners import SessionOwners
from deployments.wire_hub import WireHub
from ssd_core.draft_loop import DraftLoop
from ssd_core.engine.base import Engine
from ssd_core.engine.measure import measure_step_times
from ssd_core.loop_stats import Histogram
from ssd_core.timeline import Activity, Span
from ssd_core.types import Growth, GrowthReport, StepTimes

logger = logging.getLogger(__name__)

NICENESS = 5
"""Where target and draft share a machine's last cores, what must wait is speculation, not verification."""
STEP_CONTEXT = 128
STEP_REPEATS = 3
"""Of growth steps that are timed at the start, where the pool is scaled."""


class ReportStream:
    """Reports for one target. What gathers while one is on its way leaves together as one message."""

    def __init__(self) -> None:
        self._reports: deque[GrowthReport] = deque()
        self._changed = threading.Event()
        self._is_closed = False

    def put(self, report: GrowthReport) -> None:
        self._reports.append(report)
        self._changed.set()

    def close(self) -> None:
        self._is_closed = True
        self._changed.set()

    def messages(self) -> Iterator[bytes]:
        """Blocks for the next; ends on `close`."""
        while True:
            self._changed.wait()
            self._changed.clear()
            if self._is_closed:
                return
            reports = [self._reports.popleft() for _ in range(len(self._reports))]
            if reports:
                yield encode_report(joined(reports))


def joined(reports: list[GrowthReport]) -> GrowthReport:
    """Several reports as one, in order."""
    if len(reports) == 1:
        return reports[0]
    return GrowthReport(
        growths=tuple(growth for report in reports for growth in report.growths),
        unknown_sessions=tuple(dict.fromkeys(session for report in reports for session in report.unknown_sessions)),
        num_steps=sum(report.num_steps for report in reports),
        num_nodes=sum(report.num_nodes for report in reports),
        busy_s=sum(report.busy_s for report in reports),
        sent_at=reports[-1].sent_at,
    )


def _measured_steps(engine: Engine, config: DraftConfig) -> StepTimes:
    sizes = [size for size in config.engine.step_times_nodes if size <= config.max_step_nodes]
    return measure_step_times(engine, sizes or [1], STEP_CONTEXT, STEP_REPEATS)


@dataclass(frozen=True, slots=True)
class Message:
    """What one target said."""

    target_id: str
    orders: Orders


class DraftServer:
    """Any thread may call `receive`, `growth` and `invite`; one thread runs the loop."""

    def __init__(self, config: DraftConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        engine = load_engine(config.engine)
        spin_up(engine)
        self._engine = engine
        self._step_times = _measured_steps(engine, config) if config.autoscaling else None
        self._loop = DraftLoop(
            engine,
            eos_token_ids=load_tokenizer(config.engine.model).eos_token_ids,
            max_step_nodes=config.max_step_nodes,
            prefill_chunk_tokens=config.engine.prefill_chunk_tokens,
        )
        self._clock = clock
        self._streams: dict[str, ReportStream] = {}
        self._hub = WireHub()
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._owners = SessionOwners()
        self.num_garbage = 0
        self.order_delay = Histogram()
        self.busy_s = 0.0
        self.num_steps = 0
        self.num_nodes = 0
        self._thread = LoopThread(
            "draft",
            self._step,
            self._idle,
            num_threads=config.engine.num_threads,
            niceness=NICENESS,
            on_failure=self._hang_up,
        )
        self._thread.start()
        logger.info("draft ready: %s", engine)

    @property
    def vocab_size(self) -> int:
        return self._engine.vocab_size

    @property
    def num_sessions(self) -> int:
        return len(self._loop)

    @property
    def num_waiting(self) -> int:
        return self._loop.num_waiting

    @property
    def num_free_cells(self) -> int:
        return self._engine.num_free_cells

    @property
    def num_cells(self) -> int:
        return self._engine.num_cells

    @property
    def flops_per_node(self) -> float:
        return self._engine.flops_per_token

    @property
    def totals(self) -> DraftTotals | None:
        """None: nobody scales the pool."""
        return DraftTotals(self.num_steps, self.num_nodes, self._step_times) if self._step_times else None

    @property
    def failure(self) -> str:
        return self._thread.failure

    @property
    def spans(self) -> tuple[Span, ...]:
        return self._loop.timeline.spans()

    @property
    def path(self) -> str:
        """Where targets of this node connect."""
        return self._hub.path

    def receive(self, target_id: str, data: bytes) -> None:
        """Orders of one target, in the order it sent them."""
        self._put(target_id, self._decoded(target_id, data))

    def growth(self, target_id: str) -> Iterator[bytes]:
        """The messages for a target, until it is lost or meets this draft anew."""
        self._end_stream(target_id)
        stream = self._streams[target_id] = ReportStream()
        self._put(target_id, Orders((), time.time()))  # whoever listens is there
        return stream.messages()

    def invite(self, target_id: str) -> str:
        """The token with which the target may connect to `path` once. Its stream ends."""
        self._end_stream(target_id)
        return self._hub.invite(target_id)

    def _put(self, target_id: str, orders: Orders) -> None:
        self._inbox.put(Message(target_id, orders))
        self._hub.wake()

    def _decoded(self, target_id: str, data: bytes) -> Orders:
        """Without orders, if the data is no message."""
        try:
            orders = decode_orders(data, self.vocab_size)
        except CodecError as error:
            self.num_garbage += 1
            logger.warning("dropped a message of %s: %s", target_id, error)
            return Orders((), time.time())
        self.order_delay.add(max(0.0, time.time() - orders.sent_at))
        return orders

    def _end_stream(self, target_id: str) -> None:
        stream = self._streams.pop(target_id, None)
        if stream is not None:
            stream.close()

    def stop(self) -> None:
        self._thread.stop()
        self._hang_up()

    def _idle(self, timeout_s: float) -> None:
        self._loop.timeline.turn(Activity.WAIT)
        self._read(timeout_s)
        self._loop.timeline.turn(Activity.HOST)

    def _read(self, timeout_s: float) -> None:
        now = self._clock()
        for target_id, data in self._hub.poll(timeout_s):
            self._inbox.put(Message(target_id, self._decoded(target_id, data)))
        while not self._inbox.empty():
            message = self._inbox.get()
            for order in self._owners.admit(message.target_id, message.orders.orders, now):
                self._loop.receive(order)
        for target_id in self._owners.lost(now):
            logger.warning("%s has not been heard of for a while: its sessions end", target_id)
            self._end_stream(target_id)
            for close in self._owners.forget(target_id):
                self._loop.receive(close)

    def _step(self) -> bool:
        self._read(0.0)
        report = self._loop.step()
        if report is None:
            return False
        self.num_steps += report.num_steps
        self.num_nodes += report.num_nodes
        self.busy_s += report.busy_s
        for target_id, share in self._split(report).items():
            if target_id in self._hub:
                self._hub.send(target_id, encode_report(share))  # to a target that does not read, growth is lost: a miss
            elif target_id in self._streams:
                self._streams[target_id].put(share)
        return True

    def _split(self, report: GrowthReport) -> dict[str, GrowthReport]:
        """Each target's part. With several targets the cost is shared out by the number of growths; that of a step without any, which reads
        the beginning of a long prompt, equally. A step counts for every target it served."""
        targets = {*self._streams, *self._hub.names}
        growths: dict[str, list[Growth]] = {}
        unknown: dict[str, list[str]] = {}
        for growth in report.growths:
            growths.setdefault(self._owners.owner(growth.session_id) or "", []).append(growth)
        for session_id in report.unknown_sessions:
            unknown.setdefault(self._owners.owner(session_id) or "", []).append(session_id)
        parts: dict[str, GrowthReport] = {}
        receivers = growths.keys() | unknown.keys() or targets
        for target_id in receivers:
            mine = growths.get(target_id, [])
            share = len(mine) / len(report.growths) if report.growths else 1 / len(receivers)
            parts[target_id] = replace(
                report,
                growths=tuple(mine),
                unknown_sessions=tuple(unknown.get(target_id, ())),
                num_nodes=round(report.num_nodes * share),
                busy_s=report.busy_s * share,
            )
        return parts

    def _hang_up(self) -> None:
        """End the wires and streams, by which the targets know that they must lease another draft."""
        self._hub.close()
        for stream in list(self._streams.values()):
            stream.close()

"""The draft actor: a plain Ray actor around DraftServer. Lives and dies under the pool; never restarted in place."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import ray

from deployments.config import DraftConfig
from deployments.draft_server import DraftServer
from deployments.messages import DraftAddress, Snapshot
from deployments.metric_tables import DRAFT, DRAFT_DEVICES
from deployments.metrics import samples
from deployments.ray_metrics import RayMetrics
from ssd_core.timeline import Span

MAX_TARGETS = 64
"""Target replicas one draft can stream growth to: each holds a thread."""


@ray.remote(max_restarts=0, concurrency_groups={"orders": 1, "growth": MAX_TARGETS, "watch": 1})
class DraftActor:
    """Concurrency groups: orders keep their order; streams and the watch hold a thread each without being in anybody's way."""

    def __init__(self, name: str, config: DraftConfig) -> None:
        self._name = name
        self._config = config
        self._server = DraftServer(config)
        self._died = threading.Event()
        self._metrics = RayMetrics()

    @ray.method(concurrency_group="orders")
    def receive(self, target_id: str, data: bytes) -> None:
        self._server.receive(target_id, data)

    @ray.method(concurrency_group="growth")
    def growth(self, target_id: str) -> Iterator[bytes]:
        yield from self._server.growth(target_id)

    @ray.method(concurrency_group="watch")
    def watch(self) -> str:
        """Blocks for as long as the loop lives; a lost actor ends it with RayActorError."""
        while not self._server.failure:
            self._died.wait(0.5)
        return self._server.failure

    def vocab_size(self) -> int:
        """Also: the model is loaded."""
        return self._server.vocab_size

    def address(self, target_id: str) -> DraftAddress:
        """Where the target may connect once; what it had before ends."""
        token = self._server.invite(target_id)
        return DraftAddress(ray.get_runtime_context().get_node_id(), self._server.path, token)

    def spans(self) -> tuple[Span, ...]:
        return self._server.spans

    def snapshot(self) -> Snapshot:
        """The pool asks for it each second."""
        own = (("draft", self._name),)
        told = (*samples(DRAFT, self._server, own), *samples(DRAFT_DEVICES, self._config, own))
        self._metrics.publish(told)
        return Snapshot(self._name, told, self._server.totals)

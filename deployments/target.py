"""The target deployment: the Serve shell around TargetServer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from math import inf

from ray import serve
from ray.actor import ActorHandle
from ray.exceptions import RayError

from autoscale.target_scaler import autoscaling_stats
from deployments.config import ServiceConfig
from deployments.messages import ModelCard, Refusal, Snapshot
from deployments.metric_tables import LINK, TARGET, TARGET_DEVICES
from deployments.metrics import samples
from deployments.ray_metrics import publish_forever
from deployments.target_server import TargetServer
from deployments.transport import RayDraftLink
from ssd_core.link import DraftLink, NoDraft
from ssd_core.timeline import Span
from ssd_core.types import Emission, GenerationRequest

logger = logging.getLogger(__name__)

POOL_NAME = "speculators"
BEAT_PERIOD_S = 1.0
DRAFT_START_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Inventory:
    """What one replica holds now: zero everywhere when nothing runs, or something leaks."""

    running: int
    queued: int
    kv_cells_taken: int
    store_sessions: int


def find_pool() -> ActorHandle:
    """Raises ValueError while there is none."""
    pool: ActorHandle = serve.get_deployment_actor(POOL_NAME)
    return pool


@serve.deployment(name="Target")
class Target:
    async def __init__(self, config: ServiceConfig) -> None:  # type: ignore[misc]  # Serve awaits it
        self._replica_id = serve.get_replica_context().replica_id.unique_id
        self._config = config.target
        self._has_drafts = config.draft.has_pool
        self._is_pool_scaled = config.draft.autoscaling is not None
        self._may_wire = config.draft.transport == "auto"
        self._link: RayDraftLink | None = None
        if self._has_drafts:
            await find_pool().start.remote()  # the drafts load their model while this replica loads its own
        self._server = TargetServer(config, self._make_link)
        if self._has_drafts:
            await self._wait_for_drafts()
        loop = asyncio.get_running_loop()
        self._tasks = (loop.create_task(self._beat()), loop.create_task(publish_forever(lambda: self._snapshot().samples)))

    async def _wait_for_drafts(self) -> None:
        """Ready means ready to speculate. A pool that cannot start drafts delays the service, it does not prevent it."""
        try:
            await asyncio.wait_for(find_pool().settled.remote(), DRAFT_START_TIMEOUT_S)
        except (TimeoutError, RayError) as error:
            logger.warning("serving without drafts for now: %s", error)

    def _make_link(self) -> DraftLink:
        if not self._has_drafts:
            return NoDraft()
        self._link = RayDraftLink(self._replica_id, find_pool, may_wire=self._may_wire)
        return self._link

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Emission | Refusal]:
        """One message per round; if the caller is slow, one for several. Ends with an emission that has a finish reason."""
        async with aclosing(self._server.generate(request)) as emissions:
            async for emission in emissions:
                yield emission

    async def complete(self, request: GenerationRequest) -> AsyncIterator[Emission | Refusal]:
        """The whole generation in one message."""
        yield await self._server.complete(request)

    async def check_alive(self) -> None:
        """Raises EngineError when this replica can answer nothing more."""
        self._server.check_alive()

    async def card(self) -> ModelCard:
        return self._server.card

    async def snapshots(self, callers_own: Snapshot) -> tuple[Snapshot, ...]:
        """Everybody's numbers, and the caller's for the others."""
        pool = find_pool()
        await pool.put_snapshot.remote(callers_own)
        await pool.put_snapshot.remote(self._snapshot())
        snapshots: tuple[Snapshot, ...] = await pool.snapshots.remote()
        return snapshots

    async def inventory(self) -> Inventory:
        stats = self._server.stats()
        return Inventory(stats.running, stats.queued, stats.kv_cells - stats.kv_cells_free, stats.store_sessions)

    async def spans(self) -> dict[str, tuple[Span, ...]]:
        """By name, what the loops of this replica and of all drafts did lately: on one clock where they are on one host."""
        drafts: dict[str, tuple[Span, ...]] = await find_pool().spans.remote() if self._has_drafts else {}
        return {f"target-{self._replica_id}": self._server.spans, **drafts}

    async def pool(self) -> ActorHandle:
        """For operators and tests; not to be kept."""
        return find_pool()

    def record_routing_stats(self) -> dict[str, float]:
        """What the router reads of this replica, each second. A dead one is idle: none is to be sent there."""
        stats = self._server.stats()
        outstanding = float(stats.outstanding_tokens) if self._server.is_alive else inf
        return {"outstanding_tokens": outstanding, "kv_cells_free": float(stats.kv_cells_free)}

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What the policy for targets sees of this replica."""
        return autoscaling_stats(self._server.stats())

    def check_health(self) -> None:
        self._server.check_health()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_PERIOD_S)
            if self._link is not None:
                await self._link.beat(self._snapshot())

    def _snapshot(self) -> Snapshot:
        own = (("replica", self._replica_id),)
        stats = self._server.stats()
        told = (*samples(TARGET, stats, own), *samples(TARGET_DEVICES, self._config, own))
        link = samples(LINK, self._link.counters, own) if self._link else ()
        return Snapshot(self._replica_id, (*told, *link), stats if self._is_pool_scaled else None)

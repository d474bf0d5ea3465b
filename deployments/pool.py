"""The speculator pool: starts draft actors, leases sessions to them, replaces the dead, gathers everybody's numbers.

A deployment-scoped actor of the target deployment: Serve starts it before the replicas, restarts it when it dies and removes it with the
application. Its drafts are its children and end with it. Which draft gets what is decided by `Leases`; this shell acts.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections.abc import Coroutine, Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError

from autoscale.draft_scaler import DraftScaler, DraftTotals
from deployments.config import DraftConfig
from deployments.draft import DraftActor
from deployments.leases import Leases
from deployments.messages import Grant, PoolStatus, Sample, Snapshot
from deployments.metric_tables import POOL
from deployments.metrics import samples
from deployments.ray_metrics import publish_forever
from deployments.session_owners import TARGET_LOST_AFTER_S
from ssd_core.loop_stats import LoopStats
from ssd_core.timeline import Span

logger = logging.getLogger(__name__)

SNAPSHOT_PERIOD_S = 1.0
RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Pauses before the next try to start a draft after one, two, ... failed; the last one repeats."""


class SpeculatorPool:
    """An async actor: one event loop, so no locks."""

    def __init__(self, config: DraftConfig) -> None:
        self._config = config
        self._leases = Leases(config.num_actors)
        self._handles: dict[str, ActorHandle] = {}
        self._num_starting = 0
        self._num_failed_starts = 0
        self._num_replaced = 0
        self._names = (f"draft-{i}" for i in itertools.count())
        self._heard: dict[str, float] = {}
        self._snapshots: dict[str, Snapshot] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_started = False
        self._settled = asyncio.Event()
        if not config.num_actors:
            self._settled.set()
        self._scaler = DraftScaler(config.autoscaling, config.num_actors, time.monotonic()) if config.autoscaling else None

    async def start(self) -> None:
        """Idempotent; the first caller in the actor's event loop sets the pool to work."""
        if not self._is_started:
            self._is_started = True
            self._spawn(self._housekeep())
            self._spawn(publish_forever(self._samples))
            self._act()

    async def settled(self) -> None:
        """Returns when the first drafts serve, or the first one failed to start (it is tried again, nobody need wait for it)."""
        await self.start()
        await self._settled.wait()

    # ------------------------------------------------------------ for targets

    async def lease(self, target_id: str, session_ids: Sequence[str], released: Sequence[str] = ()) -> tuple[Grant, ...]:
        """A draft for each session. `released`: sessions that have ended, maybe one of these while it asked: they are given back last."""
        await self.start()
        self._heard[target_id] = time.monotonic()
        grants = tuple(Grant(session_id, self._leases.lease(target_id, session_id) or "") for session_id in session_ids)
        await self.release(released)
        return grants

    async def release(self, session_ids: Sequence[str]) -> None:
        for session_id in session_ids:
            self._leases.release(session_id)
        self._act()

    async def handle(self, draft: str) -> ActorHandle | None:
        """None: it is gone."""
        return self._handles.get(draft)

    async def beat(self, target_id: str, session_ids: Sequence[str], snapshot: Snapshot) -> None:
        """Each second from each target replica: I live, I hold these sessions and no others, and these are my numbers."""
        await self.start()
        self._heard[target_id] = time.monotonic()
        self._leases.keep_only(target_id, session_ids)
        self._snapshots[snapshot.source] = snapshot
        if self._scaler and isinstance(snapshot.totals, LoopStats):
            self._scaler.hear_target(target_id, snapshot.totals, time.monotonic())

    # ------------------------------------------------------------ for operators, autoscaler and metrics

    async def resize(self, num_drafts: int) -> PoolStatus:
        """Start drafts, or drain the least loaded: they get no new sessions and stop when the last has ended. Where a policy scales
        the pool, its next decision is another."""
        assert num_drafts >= 0, num_drafts
        self._leases.wanted = num_drafts
        self._act()
        return await self.status()

    async def status(self) -> PoolStatus:
        return self._status()

    async def put_snapshot(self, snapshot: Snapshot) -> None:
        self._snapshots[snapshot.source] = snapshot

    async def snapshots(self) -> tuple[Snapshot, ...]:
        return (*self._snapshots.values(), Snapshot("pool", self._samples()))

    async def spans(self) -> dict[str, tuple[Span, ...]]:
        """By draft, what its loop did lately."""
        handles = dict(self._handles)
        return dict(zip(handles, await asyncio.gather(*(handle.spans.remote() for handle in handles.values())), strict=True))

    def _status(self) -> PoolStatus:
        return PoolStatus(self._leases.wanted, self._leases.drafts, self._num_starting, self._leases.num_sessions, self._num_replaced)

    def _samples(self) -> tuple[Sample, ...]:
        return samples(POOL, self._status())

    # ------------------------------------------------------------ acting

    def _act(self) -> None:
        plan = self._leases.plan(self._num_starting)
        for _ in range(plan.start):
            self._num_starting += 1
            self._spawn(self._live(next(self._names)))
        for name in plan.stop:
            self._leases.remove(name)
            self._snapshots.pop(name, None)
            ray.kill(self._handles.pop(name))

    async def _live(self, name: str) -> None:
        """One draft's life: start, be leased, die."""
        if self._num_failed_starts:
            await asyncio.sleep(RETRY_S[min(self._num_failed_starts, len(RETRY_S)) - 1])
        full_name = f"{name}-{os.getpid()}"
        options = {"num_cpus": self._config.num_cpus, "num_gpus": self._config.num_gpus, "label_selector": self._config.labels or None}
        actor = DraftActor.options(**options).remote(full_name, self._config)  # type: ignore[attr-defined]
        try:
            await actor.vocab_size.remote()
        except RayError as error:
            self._num_starting -= 1
            self._num_failed_starts += 1
            self._settled.set()
            logger.error("%s could not start: %s", full_name, error)
            self._act()
            return
        self._num_starting -= 1
        self._num_failed_starts = 0
        self._handles[full_name] = actor
        self._leases.add(full_name)
        if not self._num_starting:
            self._settled.set()
        self._act()
        try:
            reason = await actor.watch.remote()
            ray.kill(actor)  # the process lives, its loop does not
        except RayActorError as error:
            reason = str(error).partition("\n")[0]
        if self._handles.pop(full_name, None) is not None:  # else: stopped on purpose
            self._num_replaced += 1
            self._snapshots.pop(full_name, None)
            lost = self._leases.remove(full_name)
            logger.warning("%s died with %d sessions: %s", full_name, len(lost), reason)
            self._act()

    async def _housekeep(self) -> None:
        while True:
            await asyncio.sleep(SNAPSHOT_PERIOD_S)
            for target_id in [t for t, heard in self._heard.items() if time.monotonic() - heard > TARGET_LOST_AFTER_S]:
                del self._heard[target_id]
                self._snapshots.pop(target_id, None)
                self._leases.release_target(target_id)
            self._scale()
            self._act()
            for handle in list(self._handles.values()):
                try:
                    snapshot: Snapshot = await asyncio.wait_for(handle.snapshot.remote(), SNAPSHOT_PERIOD_S)
                except (RayActorError, TimeoutError):
                    continue  # `_live` hears of a death; a late one is asked again
                if snapshot.source in self._handles:
                    self._snapshots[snapshot.source] = snapshot
                    if self._scaler and isinstance(snapshot.totals, DraftTotals):
                        self._scaler.hear_draft(snapshot.source, snapshot.totals)

    def _scale(self) -> None:
        if self._scaler:
            self._leases.wanted = self._scaler.size(len(self._heard), len(self._leases.drafts), self._num_starting, time.monotonic())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

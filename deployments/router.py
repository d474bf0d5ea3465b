"""Serve's request router for the target deployment: feeds `affinity.ranked` with what Serve knows, and does as it says."""

from __future__ import annotations

from collections.abc import Sequence

from ray.serve._private.common import ReplicaID
from ray.serve._private.replica_result import ReplicaResult
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from deployments.affinity import ReplicaLoad, ranked


class SessionRouter(RequestRouter):
    """Serve's shell around `ranked`."""

    _sent: dict[ReplicaID, int]

    def initialize_state(self, **kwargs: object) -> None:
        self._sent = {}

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        metadata = pending_request.metadata
        order = ranked(metadata.session_id, metadata.internal_request_id, {name: self._load(r) for name, r in by_name.items()})
        return [[by_name[name]] for name in order]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult) -> None:
        self._sent[replica_id] = self._sent.get(replica_id, 0) + 1

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        self._sent[replica_id] = max(0, self._sent.get(replica_id, 0) - 1)

    def update_replicas(self, replicas: Sequence[RunningReplica]) -> None:
        super().update_replicas(list(replicas))
        present = {replica.replica_id for replica in replicas}
        self._sent = {replica_id: n for replica_id, n in self._sent.items() if replica_id in present}

    def _load(self, replica: RunningReplica) -> ReplicaLoad:
        return ReplicaLoad(float(replica.routing_stats.get("outstanding_tokens", 0.0)), self._sent.get(replica.replica_id, 0))

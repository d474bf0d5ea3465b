"""A service over several Ray nodes of one machine: ingress, target and draft on nodes of their own, a node lost, another one come."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.exceptions import RayError

from deployments.config import DraftConfig, ServiceConfig, TargetConfig
from ssd_core.config import EngineConfig
from tests.service.on_ray import ROLE, Running, add_node, eventually, running_on_nodes, streamed, whole

pytestmark = [pytest.mark.service, pytest.mark.timeout(240)]

CONFIG = ServiceConfig(
    model_name="m",
    ingress_num_cpus=1,
    ingress_labels={ROLE: "ingress"},
    target=TargetConfig(
        engine=EngineConfig(model="fake:target:4"), max_sessions=4, num_cpus=1, labels={ROLE: "target"}, shutdown_timeout_s=1
    ),
    draft=DraftConfig(engine=EngineConfig(model="fake:draft:1"), num_cpus=1, labels={ROLE: "draft"}),
)


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Running, Any]]:
    with running_on_nodes(CONFIG, ("target", "draft", "ingress")) as both:
        yield both


def nodes_of(actor_class: str) -> list[str]:
    """Where the living actors of a class are, as far as Ray knows."""
    return [
        actor["Address"]["NodeID"]
        for actor in ray._private.state.actors().values()
        if actor["ActorClassName"].endswith(actor_class) and actor["State"] == "ALIVE"
    ]


async def test_growth_crosses_nodes_and_a_lost_node_is_made_up_for(nodes: tuple[Running, Any]) -> None:
    service, cluster = nodes
    async with service.client() as client:
        plain = (await whole(client, max_tokens=200, preset="ar"))["choices"][0]["token_ids"]

        async def speculates() -> bool:
            answer = await whole(client, max_tokens=200, preset="ssd-tree")
            assert answer["choices"][0]["token_ids"] == plain
            return bool(answer["metrics"]["speculative_decoding"]["num_accepted_draft_tokens"])

        # Placement: a CPU each, so a node each; growth comes as Ray objects.
        assert await speculates()
        (draft_node,), (target_node,) = nodes_of("DraftActor"), nodes_of("ServeReplica:ssd-test:Target")
        roles = {node["NodeID"]: node["Labels"].get(ROLE) for node in ray.nodes()}
        assert (roles[draft_node], roles[target_node]) == ("draft", "target")
        text = (await client.get("/metrics")).text
        assert any(line.startswith("ssd_link_reports_received_total{") and not line.endswith(" 0") for line in text.splitlines())

        # The draft's node is lost in mid-stream.
        doomed = [node for node in cluster.list_all_nodes() if node.node_id == draft_node]

        def lose(num_tokens: int) -> None:
            if doomed and num_tokens > 20:
                cluster.remove_node(doomed.pop(), allow_graceful=False)

        token_ids, _, _ = await streamed(client, lose, max_tokens=200, preset="ssd-tree")
        assert token_ids == plain and not doomed

        async def has_no_draft() -> bool:
            try:
                return not (await service.pool_status()).drafts
            except RayError:
                return False  # the pool may have been on that node: Serve starts it anew

        await eventually(has_no_draft, 60)
        assert not await speculates()

        # Another node comes, and with it a draft.
        another = add_node(cluster, "draft")
        await eventually(speculates, 60)

        async def lives_there() -> bool:
            return nodes_of("DraftActor") == [another.node_id]

        await eventually(lives_there, 40)

        # More is wanted than there is room for, until there is.
        status = await (await service.pool()).resize.remote(2)
        assert (len(status.drafts), status.wanted, status.num_starting) == (1, 2, 1)
        add_node(cluster, "draft")

        async def are_two() -> bool:
            return len((await service.pool_status()).drafts) == 2

        await eventually(are_two, 60)
        await eventually(speculates, 60)
        await asyncio.gather(*(whole(client, max_tokens=30, preset="ssd-tree") for _ in range(4)))

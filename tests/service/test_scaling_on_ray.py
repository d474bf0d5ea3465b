"""A running service sizes itself: targets through Serve's policy, drafts through the pool's, and back; nobody's tokens change."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from autoscale.config import DraftPolicyConfig, GuardConfig, TargetPolicyConfig
from deployments.config import DraftConfig, ServiceConfig, TargetConfig
from ssd_core.config import EngineConfig
from tests.service.on_ray import APP, Running, eventually, running_service, whole

pytestmark = [
    pytest.mark.service,
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore:The `metrics_interval_s` field:DeprecationWarning"),  # there is no other way to shorten it
]

CONFIG = ServiceConfig(
    model_name="m",
    target=TargetConfig(
        engine=EngineConfig(model="fake:target:20"),
        num_cpus=0.1,
        max_sessions=8,
        shutdown_timeout_s=30,
        autoscaling=TargetPolicyConfig(guard=GuardConfig(min_size=1, max_size=2, cooldown_s=4.0), period_s=1.0, outstanding_tokens=600.0),
    ),
    draft=DraftConfig(
        engine=EngineConfig(model="fake:draft:8"),
        num_cpus=0.1,
        num_actors=0,
        # One draft's steps are much too slow for eight sessions, and drafts cost little.
        autoscaling=DraftPolicyConfig(guard=GuardConfig(max_size=2, cooldown_s=4.0), period_s=1.0, draft_cost=0.05, retry_s=0.0),
    ),
)


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    with running_service(CONFIG) as running:
        yield running


def num_replicas() -> int:
    from ray import serve

    return serve.status().applications[APP].deployments["Target"].replica_states.get("RUNNING", 0)


async def test_load_brings_targets_and_drafts_and_its_end_takes_them_away(service: Running) -> None:
    async def holds(replicas: int, drafts: int) -> bool:
        status = await service.pool_status()
        return num_replicas() == replicas and len(status.drafts) == drafts

    def are(replicas: int, drafts: int) -> Callable[[], Awaitable[bool]]:
        return lambda: holds(replicas, drafts)

    async with service.client() as client:
        plain = (await whole(client, max_tokens=100, preset="ar"))["choices"][0]["token_ids"]
        await eventually(are(1, 0), 30)
        async with busy(client, 12, plain):
            await eventually(are(2, 2), 60)
        await eventually(are(1, 0), 60)
        assert (await whole(client, max_tokens=100))["choices"][0]["token_ids"] == plain


@asynccontextmanager
async def busy(client: Any, num_streams: int, wanted: list[int]) -> Any:
    """So many requests at a time; each gives the wanted tokens, whoever comes or goes meanwhile."""
    is_over = False

    async def one() -> None:
        while not is_over:
            assert (await whole(client, max_tokens=100, preset="ssd-tree"))["choices"][0]["token_ids"] == wanted

    tasks = [asyncio.create_task(one()) for _ in range(num_streams)]
    yield
    is_over = True
    await asyncio.gather(*tasks)

"""A service on a Ray of its own, for the tests that need a real one; its clients; what it says about itself."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from cluster.ports import free_port, serve_environment
from deployments.config import ServiceConfig
from deployments.serve_environment import CLUSTER_ENVIRONMENT

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

os.environ.update(CLUSTER_ENVIRONMENT)  # Ray's processes read it when they start

APP = "ssd-test"
OBJECT_STORE_BYTES = 128 * 2**20
DRIVER: dict[str, Any] = {
    "log_to_driver": False,
    "logging_level": "ERROR",
    "runtime_env": {"env_vars": {"PYTHONPATH": os.getcwd(), "RAY_AUTH_MODE": "disabled"}},
}
"""Of ray.init."""
ROLE = "ssd/role"
"""Label of a node: what may run there."""
PROMPT = {"prompt": "def main(", "temperature": 0.0, "ignore_eos": True, "return_token_ids": True}


@dataclass(frozen=True)
class Running:
    url: str
    handle: Any
    """Of the ingress."""
    target: Any

    async def inventory(self) -> Any:
        """Of one replica."""
        return await self.target.inventory.remote()

    async def pool(self) -> Any:
        return await self.target.pool.remote()

    async def pool_status(self) -> Any:
        return await (await self.pool()).status.remote()

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=60, limits=httpx.Limits(max_connections=None, max_keepalive_connections=None))


@contextmanager
def running_service(config: ServiceConfig) -> Iterator[Running]:
    """Ray, Serve and the application on ports and in a folder of their own, until the block ends."""
    import ray

    with tempfile.TemporaryDirectory(prefix="ssd-", ignore_cleanup_errors=True) as folder:
        os.environ.update(serve_environment(Path(folder)))
        ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, _temp_dir=folder, **DRIVER)
        try:
            with serving(config) as running:
                yield running
        finally:
            ray.shutdown()


@contextmanager
def running_on_nodes(config: ServiceConfig, roles: Sequence[str]) -> Iterator[tuple[Running, Cluster]]:
    """The same on a head without CPUs and a node of one CPU for each of these roles, all on this machine."""
    import ray
    from ray.cluster_utils import Cluster

    folder = Path(tempfile.mkdtemp(prefix="ssd-"))
    os.environ.update(serve_environment(folder))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": OBJECT_STORE_BYTES})
    try:
        for role in roles:
            add_node(cluster, role)
        ray.init(address=cluster.address, **DRIVER)
        with serving(config) as running:
            yield running, cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def add_node(cluster: Cluster, role: str) -> Any:
    return cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES, labels={ROLE: role})


@contextmanager
def serving(config: ServiceConfig) -> Iterator[Running]:
    """On the Ray this process is connected to."""
    from ray import serve

    from deployments.app import build_app

    port = free_port("127.0.0.1")
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port}, proxy_location="HeadOnly")
        handle = serve.run(build_app(config), name=APP)
        url = f"http://127.0.0.1:{port}"
        asyncio.run(eventually(partial(is_ready, url), 60))
        yield Running(url, handle, serve.get_deployment_handle("Target", APP))
    finally:
        serve.shutdown()


async def is_ready(url: str) -> bool:
    return httpx.get(url + "/ready").status_code == 200  # noqa: ASYNC210 nothing else runs in this loop


async def eventually(condition: Callable[[], Awaitable[bool]], timeout_s: float) -> float:
    """Seconds until it holds; what is observed lies in other processes, so it is asked again and again."""
    began = time.monotonic()
    while not await condition():
        assert time.monotonic() - began < timeout_s, f"not within {timeout_s} s"
        await asyncio.sleep(0.02)
    return time.monotonic() - began


async def whole(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await client.post("/v1/completions", json={**PROMPT, **fields})
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


@dataclass
class Heard:
    """What a client heard of one stream."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    last: dict[str, Any] = field(default_factory=dict)
    """The last event, an error among them."""
    status: int = 0
    is_done: bool = False
    """It ended with [DONE]."""

    @property
    def error(self) -> dict[str, Any] | None:
        return self.last.get("error")


async def listen(
    client: httpx.AsyncClient, on_piece: Callable[[int], None] = lambda n: None, *, headers: Mapping[str, str] | None = None, **fields: Any
) -> Heard:
    """One stream to its end, whichever that is. `on_piece` hears how many tokens have come."""
    heard = Heard()
    body = {**PROMPT, "stream": True, "stream_options": {"include_usage": True}, **fields}
    try:
        async with client.stream("POST", "/v1/completions", json=body, headers=headers) as answer:
            heard.status = answer.status_code
            async for line in answer.aiter_lines():
                assert not heard.is_done or not line, "nothing may follow [DONE]"
                if line == "data: [DONE]":
                    heard.is_done = True
                elif line:
                    heard.last = json.loads(line.removeprefix("data: "))
                    for choice in heard.last.get("choices", ()):
                        heard.tokens += choice["token_ids"]
                        heard.text += choice["text"]
                        on_piece(len(heard.tokens))
    except httpx.RemoteProtocolError:
        pass  # closed in mid-stream: is_done says so
    return heard


async def streamed(
    client: httpx.AsyncClient, on_piece: Callable[[int], None] = lambda n: None, **fields: Any
) -> tuple[list[int], str, dict[str, Any]]:
    """Token ids, text and the last chunk. Fails unless the stream ends with [DONE]."""
    heard = await listen(client, on_piece, **fields)
    assert heard.status == 200 and heard.error is None and heard.is_done, heard
    return heard.tokens, heard.text, heard.last

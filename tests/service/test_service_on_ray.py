"""One real service on a local Ray: fake models that take a few milliseconds per pass, real actors, real HTTP."""

from __future__ import annotations

import asyncio
import json
import math
import re
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray

from cluster.monitoring.alerts import ALERTS
from cluster.monitoring.dashboards import DASHBOARDS
from cluster.monitoring.prometheus import RULES_FILE, as_yaml, rules, scrape_config
from cluster.monitoring.ratios import RATIOS
from cluster.ports import free_port
from deployments.config import DraftConfig, ServiceConfig, TargetConfig
from deployments.metric_tables import BY_NAME
from ssd_core.config import EngineConfig
from ssd_core.timeline import Activity
from tests.service.on_ray import PROMPT, Running, eventually, running_service, streamed, whole

RAYS = (
    "vllm_generation_tokens_total", "vllm_time_to_first_token_seconds_count", "ssd_pool_drafts", "ssd_draft_steps_total",
    "ssd_link_messages_sent_total", "ssd_http_requests_total",
)  # fmt: skip
"""One of each process's tables, by Ray's names."""

pytestmark = [pytest.mark.service, pytest.mark.timeout(150)]

CONFIG = ServiceConfig(
    model_name="m",
    target=TargetConfig(
        engine=EngineConfig(model="fake:target:4"), max_sessions=4, max_queued_sessions=4, num_cpus=0.5, shutdown_timeout_s=1
    ),
    draft=DraftConfig(engine=EngineConfig(model="fake:draft:1"), num_cpus=0.5),
)


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    with running_service(CONFIG) as service:
        yield service


@pytest.fixture
async def client(service: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with service.client() as client:
        yield client


async def test_a_stream_equals_the_whole_and_plain_decoding(client: httpx.AsyncClient) -> None:
    for sampling in ({}, {"temperature": 1.0, "seed": 5}):
        plain = (await whole(client, max_tokens=60, preset="ar", **sampling))["choices"][0]
        for preset in ("sd", "ssd", "saguaro", "ssd-tree"):
            speculated = await whole(client, max_tokens=60, preset=preset, **sampling)
            assert speculated["choices"][0] == plain, preset
            assert (
                preset != "sd" or speculated["metrics"]["speculative_decoding"]["num_accepted_draft_tokens"] > 0
            )  # it waits for its draft
        tokens, text, last = await streamed(client, max_tokens=60, **sampling)
        assert (tokens, text) == (plain["token_ids"], plain["text"])
        assert last["usage"]["completion_tokens"] == 60
        assert last["metrics"]["speculative_decoding"]["rounds"] <= 60


@pytest.mark.parametrize("fields", [{"n": 2}, {"n": 4}, {"prompt": ["def main(", "def main("]}, {"prompt": ["import ", "def "], "n": 2}])
async def test_several_answers_of_one_request_are_those_of_single_ones(client: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    sampling = {"max_tokens": 20, "temperature": 1.0}
    prompts = fields.get("prompt", [PROMPT["prompt"]])
    each = [prompt for prompt in prompts for _ in range(fields.get("n", 1))]
    singles = [(await whole(client, **sampling, prompt=prompt, seed=7 + i))["choices"][0]["token_ids"] for i, prompt in enumerate(each)]
    assert len({tuple(tokens) for tokens in singles}) == len(each), "the seeds differ, and so do the answers"
    together = await whole(client, **sampling, **fields, seed=7)
    assert [choice["token_ids"] for choice in together["choices"]] == singles
    pieces: list[list[int]] = [[] for _ in each]
    body = {**PROMPT, **sampling, **fields, "seed": 7, "stream": True}
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        lines = [line.removeprefix("data: ") async for line in answer.aiter_lines() if line]
    for line in lines[:-1]:
        for choice in json.loads(line)["choices"]:
            pieces[choice["index"]] += choice["token_ids"]
    assert lines[-1] == "[DONE]" and pieces == singles


async def test_python_callers_get_the_same_tokens(service: Running, client: httpx.AsyncClient) -> None:
    expected = (await whole(client, max_tokens=30))["choices"][0]
    params = {"max_tokens": 30, "temperature": 0.0, "ignore_eos": True}

    def call() -> list[Any]:
        return list(service.handle.options(stream=True).generate.remote(PROMPT["prompt"], **params))

    chunks = await asyncio.to_thread(call)
    assert [token for chunk in chunks for token in chunk.token_ids] == expected["token_ids"]
    assert chunks[-1].finish_reason == "length" and chunks[-1].stats.num_tokens == 30


async def test_every_loop_tells_its_passes_on_one_clock(service: Running, client: httpx.AsyncClient) -> None:
    began = time.perf_counter()
    await whole(client, max_tokens=30, preset="sd")
    loops = await service.target.spans.remote()
    ended = time.perf_counter()
    drafts = (await service.pool_status()).drafts
    assert [name for name in loops if not name.startswith("target-")] == list(drafts) and len(loops) == 1 + len(drafts)
    for name, spans in loops.items():
        assert any(span.activity is Activity.DEVICE and began < span.began < span.ended < ended for span in spans), name


async def test_a_python_caller_hears_which_field_is_wrong(service: Running) -> None:
    from deployments.http_errors import ApiError

    def call() -> list[Any]:
        return list(service.handle.options(stream=True).generate.remote("a", temperature=-1))

    with pytest.raises(ApiError, match="temperature"):
        await asyncio.to_thread(call)


async def test_a_python_caller_who_wants_several_answers_hears_that_n_is_one(service: Running) -> None:
    from deployments.http_errors import ApiError

    def call() -> list[Any]:
        return list(service.handle.options(stream=True).generate.remote("a", n=2))

    with pytest.raises(ApiError, match="n: 2: ") as refused:
        await asyncio.to_thread(call)
    assert refused.value.info.param == "n"


async def test_bad_inputs_leave_the_service_alive(service: Running, client: httpx.AsyncClient) -> None:
    bodies: list[bytes] = [
        b"",
        b"{",
        b"\xff",
        b'{"prompt":"a","temperature":NaN}',
        b'{"prompt":[999]}',
        b'{"prompt":"a","max_tokens":99999}',
        b"x" * 2**21,
    ]
    for body in bodies:
        answer = await client.post("/v1/completions", content=body)
        assert 400 <= answer.status_code < 500 and answer.json()["error"]["message"], body[:40]
    for method, path in (("GET", "/nope"), ("GET", "/v1/completions")):
        assert (await client.request(method, path)).json()["error"]["type"]
    assert (await whole(client, max_tokens=4))["usage"]["completion_tokens"] == 4
    assert (await service.inventory()).running == 0


async def test_a_client_that_leaves_gives_everything_back_within_a_second(service: Running, client: httpx.AsyncClient) -> None:
    async def leave_after_tokens() -> None:
        async with client.stream("POST", "/v1/completions", json={**PROMPT, "max_tokens": 1500, "stream": True}) as answer:
            async for line in answer.aiter_lines():
                if line:
                    return

    async def leave_while_waiting() -> None:
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/v1/completions", json={**PROMPT, "max_tokens": 1500}, timeout=0.3)

    async def has_nothing() -> bool:
        held = await service.inventory()
        return held.running == held.queued == held.kv_cells_taken == held.store_sessions == 0

    async def has_no_lease() -> bool:
        return (await service.pool_status()).num_sessions == 0

    for leave in (leave_after_tokens, leave_while_waiting):
        await asyncio.gather(leave(), leave(), leave())
        assert await eventually(has_nothing, 5.0) < 1.0
        assert await eventually(has_no_lease, 5.0) < 1.0


async def test_a_full_service_says_429_at_once_and_serves_what_it_took(service: Running, client: httpx.AsyncClient) -> None:
    async def one() -> tuple[int, float]:
        began = time.monotonic()
        answer = await client.post("/v1/completions", json={**PROMPT, "max_tokens": 300})
        assert answer.status_code in (200, 429), answer.text
        if answer.status_code == 429:
            assert answer.headers["retry-after"] and answer.json()["error"]["type"] == "rate_limit_error"
        return answer.status_code, time.monotonic() - began

    results = await asyncio.gather(*(one() for _ in range(24)))
    statuses = [status for status, _ in results]
    assert set(statuses) == {200, 429} and statuses.count(200) >= 8
    assert (await service.inventory()).running == 0


async def test_a_killed_draft_changes_no_token_fails_no_request_and_is_replaced(service: Running, client: httpx.AsyncClient) -> None:
    import ray

    expected = (await whole(client, max_tokens=400, preset="ar"))["choices"][0]["token_ids"]
    pool = await service.pool()
    before = await service.pool_status()
    victim = await pool.handle.remote(before.drafts[0])
    is_killed = False

    def kill(num_tokens: int) -> None:
        nonlocal is_killed
        if num_tokens > 80 and not is_killed:
            is_killed = True
            ray.kill(victim)

    (tokens, _, _), *others = await asyncio.gather(
        streamed(client, kill, max_tokens=400), *(streamed(client, max_tokens=400, preset=preset) for preset in ("ssd", "sd"))
    )
    assert is_killed and tokens == expected and all(other[0] == expected for other in others)

    async def is_replaced() -> bool:
        status = await pool.status.remote()
        return status.num_replaced == before.num_replaced + 1 and len(status.drafts) == 1 and status.drafts != before.drafts

    await eventually(is_replaced, 40)
    again = await whole(client, max_tokens=100, preset="sd")
    assert again["metrics"]["speculative_decoding"]["num_accepted_draft_tokens"] > 0


async def test_metrics_have_vllms_names_and_ours(client: httpx.AsyncClient) -> None:
    """All of them, here and through Ray; what has not happened yet has no counter there."""
    await whole(client, max_tokens=40, preset="ssd-tree")

    async def are_all_there() -> bool:
        text = (await client.get("/metrics")).text
        return all(f"\n# TYPE {name} " in text for name in BY_NAME)

    async def are_rays() -> bool:
        port = ray.nodes()[0]["MetricsExportPort"]
        async with httpx.AsyncClient() as other:
            text = (await other.get(f"http://127.0.0.1:{port}/metrics")).text
        values = {name: float(value) for name, value in re.findall(r"^ray_(\w+)\{.*\} (\S+)$", text, re.MULTILINE)}
        return all(values.get(name, 0) > 0 for name in RAYS)

    await eventually(are_all_there, 5)
    await eventually(are_rays, 40)


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed (Debian: prometheus)")
async def test_a_prometheus_that_scrapes_it_has_a_value_for_every_query_of_the_dashboards(
    service: Running, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    port = free_port("127.0.0.1")
    (tmp_path / RULES_FILE).write_text(as_yaml(rules(window="5s")))
    scraped = scrape_config([service.url.removeprefix("http://")], interval="1s", ray_discovery_file=None)
    (tmp_path / "prometheus.yml").write_text(scraped)
    words = ("--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address=127.0.0.1:{port}")
    process = await asyncio.create_subprocess_exec("prometheus", *words, cwd=tmp_path, stderr=asyncio.subprocess.DEVNULL)
    queries = [query["expr"] for dashboard in DASHBOARDS for panel in dashboard.json()["panels"] for query in panel["targets"]]
    prometheus = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/v1")
    missing = list(queries)

    async def have_values() -> bool:
        for preset in ("ssd-tree", "ssd"):
            await whole(client, max_tokens=40, preset=preset)  # one at a time: hits of a lone session are measured
        missing[:] = [query for query in missing if not await has_value(prometheus, query)]
        return not missing

    try:
        await eventually(partial(is_up, prometheus), 20)
        try:
            await eventually(have_values, 40)
        except AssertionError:
            pytest.fail(f"no value: {missing}")
        groups = (await prometheus.get("/rules")).json()["data"]["groups"]
        evaluated = [rule for group in groups for rule in group["rules"]]
        assert len(evaluated) == len(RATIOS) + len(ALERTS) and {rule["health"] for rule in evaluated} == {"ok"}
    finally:
        await prometheus.aclose()
        process.terminate()
        await process.wait()


async def is_up(prometheus: httpx.AsyncClient) -> bool:
    try:
        return (await prometheus.get("/status/config")).status_code == 200
    except httpx.TransportError:
        return False


async def has_value(prometheus: httpx.AsyncClient, query: str) -> bool:
    told = (await prometheus.get("/query", params={"query": query})).json()["data"]["result"]
    return bool(told) and all(math.isfinite(float(series["value"][1])) for series in told)

"""Two target replicas and two draft actors on a real Ray: many streams at a time, and each part killed under load.

Every stream is compared with what plain decoding gives in this process: nothing lost, nothing twice, whoever drafted for it."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deployments.affinity import ReplicaLoad, ranked
from deployments.config import DraftConfig, ServiceConfig, TargetConfig
from deployments.engines import load_engine, load_tokenizer
from deployments.wire import Wire
from ssd_core.config import EngineConfig, SpeculationConfig
from ssd_core.generate import Pair
from ssd_core.types import StepTimes
from tests.service import rogue
from tests.service.on_ray import APP, PROMPT, Heard, Running, eventually, listen, running_service

pytestmark = [pytest.mark.service, pytest.mark.timeout(150)]

NUM_STREAMS = 64
GIVE_BACK_S = 20
"""Most time until all is given back; it takes a second on a machine that does nothing else."""
CONFIG = ServiceConfig(
    model_name="m",
    target=TargetConfig(engine=EngineConfig(model="fake:target:4"), num_replicas=2, num_cpus=0.5, shutdown_timeout_s=1),
    draft=DraftConfig(engine=EngineConfig(model="fake:draft:1"), num_actors=2, num_cpus=0.5),
    speculation=SpeculationConfig(self_tuning=False),  # every stream has a draft, whether it pays or not
)


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    with running_service(CONFIG) as service:
        yield service


@pytest.fixture
async def client(service: Running) -> AsyncIterator[httpx.AsyncClient]:
    """Of a service that is whole and holds nothing, as every test finds it."""
    async with service.client() as client:
        await eventually(partial(is_whole, service, client), 60)
        yield client


# ---------------------------------------------------------------- requests and what they must give


@dataclass(frozen=True)
class Case:
    """A request, and what plain decoding gives for it."""

    fields: dict[str, Any]
    expected: list[int]
    replica: str = ""
    """Where its session id sends it; empty: wherever the router likes."""

    def stream(self, client: httpx.AsyncClient, on_piece: Callable[[int], None] = lambda n: None, **fields: Any) -> Any:
        return listen(client, on_piece, **self.fields, **fields)

    def assert_whole(self, heard: Heard) -> None:
        assert (heard.status, heard.error, heard.is_done) == (200, None, True), heard
        assert heard.tokens == self.expected
        assert heard.last["usage"]["completion_tokens"] == len(self.expected)


@pytest.fixture(scope="module")
def pair() -> Pair:
    """The service's models without their delay, in this process."""
    loaded = load_tokenizer("fake:target")
    target, draft = (load_engine(EngineConfig(model=model)) for model in ("fake:target", "fake:draft"))
    return Pair(target, draft, loaded.tokenizer, loaded.eos_token_ids, step_times=StepTimes((1,), (0.004,)))


def cases(pair: Pair, count: int, max_tokens: int) -> list[Case]:
    """Different prompts, lengths and seeds; every second one greedy."""
    made = []
    for i in range(count):
        prompt = f"def function_{i}(" + "argument, " * (i % 7)
        fields = {"max_tokens": max_tokens, "temperature": (0.0, 0.7, 0.0, 1.0)[i % 4], "seed": 1000 + i}
        expected = pair.generate(prompt, preset="ar", ignore_eos=True, **fields)
        made.append(Case({"prompt": prompt, "preset": "ssd-tree", **fields}, list(expected.tokens)))
    return made


async def all_exact(client: httpx.AsyncClient, wanted: Sequence[Case], on_piece: Callable[[int], None] = lambda n: None) -> None:
    for case, heard in zip(wanted, await asyncio.gather(*(case.stream(client, on_piece) for case in wanted)), strict=True):
        case.assert_whole(heard)


# ---------------------------------------------------------------- what the service says about itself


class Numbers:
    """A reading of /metrics."""

    def __init__(self, text: str) -> None:
        self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    @classmethod
    async def read(cls, client: httpx.AsyncClient) -> Numbers:
        answer = await client.get("/metrics")
        assert answer.status_code == 200, answer.text
        return cls(answer.text)

    def of(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """By the value of one label, for the samples that have `labels`."""
        return {s.labels[label]: s.value for s in self._samples if s.name == name and labels.items() <= s.labels.items()}

    def total(self, name: str, **labels: str) -> float:
        return sum(sample.value for sample in self._samples if sample.name == name and labels.items() <= sample.labels.items())

    @property
    def replicas(self) -> set[str]:
        return set(self.of("vllm:num_requests_running", "replica"))

    @property
    def num_finished(self) -> float:
        return self.total("vllm:request_success_total")


HELD = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "ssd_store_sessions", "ssd_pool_sessions")


async def holds_nothing(service: Running, client: httpx.AsyncClient, num_finished: float = 0) -> bool:
    """No session, KV cell, store entry or lease, at any replica or draft. What replicas tell is up to a second old, but of one moment
    each: where they count `num_finished` ends, it is younger than the last of them."""
    numbers = await Numbers.read(client)
    if numbers.num_finished < num_finished or any(numbers.total(name) for name in HELD):
        return False
    return all(sample["ssd_draft_sessions"] == 0 for sample in await drafts_samples(service)) and all(
        sample["ssd_draft_kv_cells"] == sample["ssd_draft_kv_cells_free"] for sample in await drafts_samples(service)
    )


async def drafts_samples(service: Running) -> list[dict[str, float]]:
    """Each draft's own numbers, of this moment."""
    pool = await service.pool()
    handles = [await pool.handle.remote(name) for name in (await pool.status.remote()).drafts]
    snapshots = [await handle.snapshot.remote() for handle in handles if handle is not None]
    return [{sample.name: sample.value for sample in snapshot.samples} for snapshot in snapshots]


async def is_whole(service: Running, client: httpx.AsyncClient) -> bool:
    """Two replicas, two drafts, nothing held."""
    from ray import serve

    states = serve.status().applications[APP].deployments["Target"].replica_states
    if states != {"RUNNING": 2} or not await has_drafts(service, 2):
        return False
    return len((await Numbers.read(client)).replicas) == 2 and await holds_nothing(service, client)


async def has_drafts(service: Running, count: int) -> bool:
    from ray.exceptions import RayError

    try:
        return len((await service.pool_status()).drafts) == count
    except (RayError, ValueError):  # there is no pool at this moment
        return False


def process_ids() -> dict[str, int]:
    """Of the target replicas and draft actors that live, by actor id."""
    from ray._private import state  # the public state API wants Ray's dashboard

    return {
        actor["ActorID"]: actor["Pid"]
        for actor in state.actors().values()
        if actor["State"] == "ALIVE" and ("#Target#" in actor["Name"] or actor["ActorClassName"] == "DraftActor")
    }


def resident_bytes() -> dict[str, int]:
    def of(process_id: int) -> int:
        lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))

    return {actor: of(process_id) for actor, process_id in process_ids().items()}


# ---------------------------------------------------------------- the tests

MAX_GROWTH_BYTES = 8 * 2**20
"""After the first repetition, in each process. Allocator, collector and Ray's own buffers still grow by 2 to 5 MiB then; 8 MiB are 128 KiB
for each session that a process served in the two repetitions."""


async def test_64_streams_at_a_time_are_exact_and_leave_nothing_behind(service: Running, client: httpx.AsyncClient, pair: Pair) -> None:
    wanted = cases(pair, NUM_STREAMS, 60)
    before = await Numbers.read(client)
    resident = []
    for repetition in range(1, 4):
        await all_exact(client, wanted)
        await eventually(partial(holds_nothing, service, client, before.num_finished + repetition * NUM_STREAMS), GIVE_BACK_S)
        resident.append(resident_bytes())

    after = await Numbers.read(client)
    for name, label in (
        ("vllm:generation_tokens_total", "replica"),
        ("vllm:spec_decode_num_accepted_tokens_total", "replica"),
        ("ssd_growth_ingested_total", "replica"),
        ("ssd_draft_nodes_total", "draft"),
    ):
        earlier, later = before.of(name, label), after.of(name, label)
        assert len(later) == 2 and all(later[who] > earlier.get(who, 0) for who in later), (name, earlier, later)
    assert after.total("vllm:generation_tokens_total") - before.total("vllm:generation_tokens_total") == 3 * NUM_STREAMS * 60

    first, last = resident[0], resident[-1]
    assert len(first) == 4 and first.keys() == last.keys()
    assert all(last[actor] - first[actor] <= MAX_GROWTH_BYTES for actor in first), (first, last)


async def test_200_clients_that_leave_in_mid_stream_give_everything_back(service: Running, client: httpx.AsyncClient) -> None:
    before = await Numbers.read(client)

    async def leave_after(num_pieces: int) -> None:
        body = {**PROMPT, "max_tokens": 1500, "stream": True, "temperature": 1.0, "seed": num_pieces}
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            assert answer.status_code == 200
            async for line in answer.aiter_lines():
                num_pieces -= bool(line)
                if not num_pieces:
                    return

    await asyncio.gather(*(leave_after(1 + i % 5) for i in range(200)))
    await eventually(partial(holds_nothing, service, client, before.num_finished + 200), GIVE_BACK_S)
    cancelled = [
        numbers.total("vllm:request_success_total", finished_reason="cancelled") for numbers in (before, await Numbers.read(client))
    ]
    assert cancelled[1] - cancelled[0] == 200


async def test_one_draft_serves_sessions_of_both_replicas(service: Running, client: httpx.AsyncClient, pair: Pair) -> None:
    wanted = await spread_evenly(client, cases(pair, 16, 250))
    await (await service.pool()).resize.remote(1)
    await eventually(partial(has_drafts, service, 1), 10)
    before = await Numbers.read(client)
    await all_exact(client, wanted)
    await eventually(partial(holds_nothing, service, client, before.num_finished + 16), GIVE_BACK_S)
    assert len((await service.pool_status()).drafts) == 1
    after = await Numbers.read(client)
    # Both must be grown for alike. How much of it still arrives in time is another matter: the draft has 16 sessions.
    for name, least_share in (("ssd_growth_nodes_total", 0.2), ("ssd_growth_ingested_total", 0.0)):
        earlier, later = before.of(name, "replica"), after.of(name, "replica")
        shares = {replica: later[replica] - earlier.get(replica, 0) for replica in later}
        assert len(shares) == 2 and min(shares.values()) > least_share * sum(shares.values()), (name, shares)
    await (await service.pool()).resize.remote(2)


async def test_a_draft_killed_under_both_replicas_changes_no_token(service: Running, client: httpx.AsyncClient, pair: Pair) -> None:
    import ray

    pool, before = await service.pool(), await service.pool_status()
    victim = await pool.handle.remote(before.drafts[0])
    killer = Once(60, lambda: ray.kill(victim))
    await all_exact(client, cases(pair, 16, 250), killer)
    assert killer.is_done

    async def is_replaced() -> bool:
        status = await service.pool_status()
        return status.num_replaced == before.num_replaced + 1 and len(status.drafts) == 2

    await eventually(is_replaced, 40)


async def test_a_killed_pool_fails_no_request_and_comes_back(service: Running, client: httpx.AsyncClient, pair: Pair) -> None:
    import ray

    pool = await service.pool()
    before = (await service.pool_status()).drafts
    wanted = cases(pair, 20, 250)
    killer = Once(60, lambda: ray.kill(pool))
    after_the_kill = asyncio.ensure_future(killer.event.wait())

    async def later(case: Case) -> Heard:
        await after_the_kill
        heard: Heard = await case.stream(client)
        return heard

    at_once = [case.stream(client, killer) for case in wanted[:16]]
    for case, heard in zip(wanted, await asyncio.gather(*at_once, *map(later, wanted[16:])), strict=True):
        case.assert_whole(heard)
    assert killer.is_done

    await eventually(partial(has_drafts, service, 2), 60)
    assert not set((await service.pool_status()).drafts) & set(before)
    await eventually(partial(holds_nothing, service, client), GIVE_BACK_S)
    earlier = await Numbers.read(client)
    most_leases = 0

    async def watch_leases() -> None:
        nonlocal most_leases
        while True:
            most_leases = max(most_leases, (await service.pool_status()).num_sessions)
            await asyncio.sleep(0.02)

    watching = asyncio.ensure_future(watch_leases())
    await all_exact(client, wanted)
    watching.cancel()
    await eventually(partial(holds_nothing, service, client, earlier.num_finished + 20), GIVE_BACK_S)
    assert 10 < most_leases <= 20, "the new pool leases all of them, though the first may have ended before the last is looked at"
    for name, label in (("ssd_growth_ingested_total", "replica"), ("ssd_draft_nodes_total", "draft")):
        old, new = earlier.of(name, label), (await Numbers.read(client)).of(name, label)
        assert len(new) == 2 and all(new[who] > old.get(who, 0) for who in new), (name, old, new)


async def test_a_killed_replica_ends_its_own_streams_only_and_returns(service: Running, client: httpx.AsyncClient, pair: Pair) -> None:
    import ray

    wanted = await spread_evenly(client, cases(pair, 16, 400))
    victim = wanted[0].replica
    killer = Once(60, lambda: ray.kill(ray.get_actor(f"SERVE_REPLICA::{APP}#Target#{victim}", namespace="serve")))
    answers = await asyncio.gather(*(case.stream(client, killer) for case in wanted))
    assert killer.is_done
    for case, heard in zip(wanted, answers, strict=True):
        if case.replica != victim:
            case.assert_whole(heard)
        else:
            assert not heard.is_done and len(heard.tokens) < len(case.expected), heard
            assert heard.tokens == case.expected[: len(heard.tokens)]
            assert heard.error is None or heard.error["type"] == "service_unavailable_error", heard.error

    await eventually(partial(is_whole, service, client), 60)
    assert victim not in (await Numbers.read(client)).replicas
    await all_exact(client, wanted)


async def test_strangers_at_the_drafts_sockets_and_broken_wires_cost_no_token_and_no_draft(
    service: Running, client: httpx.AsyncClient, pair: Pair
) -> None:
    pool, before = await service.pool(), await service.pool_status()
    numbers = await Numbers.read(client)
    drafts = [await pool.handle.remote(name) for name in before.drafts]
    paths = [(await draft.address.remote("nobody")).path for draft in drafts]
    wanted = await spread_evenly(client, cases(pair, 16, 250))
    command = [sys.executable, rogue.__file__, min(numbers.replicas), *paths]
    processes: list[subprocess.Popen[str]] = []
    starter = Once(20, lambda: processes.append(started(command)))
    wires: list[Wire] = []
    try:
        await all_exact(client, wanted, starter)
        said = await asyncio.to_thread(processes[0].stdout.readline)  # type: ignore[union-attr]
        assert said == f"{rogue.NUM_ROUNDS * len(paths)}\n", "nothing stopped it"
        await assert_hits(client, wanted)  # its silent connections are still there
        lost = "ssd_link_drafts_lost_total"
        assert (await Numbers.read(client)).total(lost) == numbers.total(lost)

        async def take_the_wires() -> None:
            """By Ray's leave, which strangers do not have. The targets must connect anew."""
            for draft, target_id in itertools.product(drafts, numbers.replicas):
                address = await draft.address.remote(target_id)
                wires.append(Wire.connect(address.path, address.token))

        taking: list[asyncio.Task[None]] = []
        await all_exact(client, wanted, Once(20, lambda: taking.append(asyncio.ensure_future(take_the_wires()))))
        await taking[0]
        await assert_hits(client, wanted)
        for wire in wires:
            while growth := wire.receive():
                pass  # it came before the target was back
            assert growth is None, "the target has its place again"
        assert (await Numbers.read(client)).total(lost) - numbers.total(lost) >= len(wires)
    finally:
        for wire in wires:
            wire.close()
        for process in processes:
            process.communicate("")
    status = await service.pool_status()
    assert (status.drafts, status.num_replaced) == (before.drafts, before.num_replaced)
    await eventually(partial(holds_nothing, service, client), GIVE_BACK_S)


def started(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


async def assert_hits(client: httpx.AsyncClient, wanted: Sequence[Case]) -> None:
    """Drafted tokens are accepted at both replicas, of both drafts' making."""
    names = (
        ("vllm:spec_decode_num_accepted_tokens_total", "replica"),
        ("ssd_growth_ingested_total", "replica"),
        ("ssd_draft_nodes_total", "draft"),
    )
    before = await Numbers.read(client)
    await all_exact(client, wanted)
    after = await Numbers.read(client)
    for name, label in names:
        earlier, later = before.of(name, label), after.of(name, label)
        assert len(later) == 2 and all(later[who] > earlier.get(who, 0) for who in later), (name, earlier, later)


async def spread_evenly(client: httpx.AsyncClient, wanted: Sequence[Case]) -> list[Case]:
    """The same requests, each with a session id by which the router sends it to one replica, in turns."""
    replicas = sorted((await Numbers.read(client)).replicas)
    idle = dict.fromkeys(replicas, ReplicaLoad(0.0, 0))
    keys = [next(key for key in map(str, itertools.count()) if ranked(key, "", idle)[0] == replica) for replica in replicas]
    homes = itertools.cycle(zip(replicas, keys, strict=True))
    return [
        replace(case, replica=replica, fields={**case.fields, "headers": {"x-session-id": key}})
        for case, (replica, key) in zip(wanted, homes, strict=False)
    ]


class Once:
    """Hears how many tokens have come on any stream, and acts when it is more than `num_tokens` for the first time."""

    def __init__(self, num_tokens: int, act: Callable[[], object]) -> None:
        self._num_tokens = num_tokens
        self._act = act
        self.event = asyncio.Event()

    @property
    def is_done(self) -> bool:
        return self.event.is_set()

    def __call__(self, num_tokens: int) -> None:
        if num_tokens > self._num_tokens and not self.is_done:
            self.event.set()
            self._act()

"""deployments/target_server.py: the replica without Ray, over the fake engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

import ssd_core.session
from deployments.config import ServiceConfig, TargetConfig
from deployments.messages import Refusal, RefusalKind
from deployments.target_server import LOOP_DIED, TargetServer
from ssd_core.config import EngineConfig, SamplingParams, SpeculationConfig
from ssd_core.errors import EngineError, TextError
from ssd_core.link import NoDraft
from ssd_core.text import TextDelta
from ssd_core.types import Emission, FinishReason, GenerationRequest

CONFIG = ServiceConfig(target=TargetConfig(engine=EngineConfig(model="fake:target:2"), max_sessions=2, max_queued_sessions=0))


def request(name: str, max_tokens: int = 20) -> GenerationRequest:
    return GenerationRequest(name, (1, 2, 3), SamplingParams(max_tokens=max_tokens, ignore_eos=True), SpeculationConfig(preset="ar"))


@pytest.fixture
async def server() -> AsyncIterator[TargetServer]:
    server = TargetServer(CONFIG, NoDraft)
    yield server
    await asyncio.to_thread(server.stop)


async def until_idle(server: TargetServer) -> None:
    async with asyncio.timeout(2):
        # What is watched is the engine thread's: it has no event to wait for.
        while (stats := server.stats()).running or stats.kv_cells_free != stats.kv_cells or stats.store_sessions:  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def test_a_stream_is_the_whole_in_pieces(server: TargetServer) -> None:
    whole = await server.complete(request("a"))
    assert isinstance(whole, Emission) and len(whole.tokens) == 20 and whole.finish_reason is FinishReason.LENGTH
    pieces = [piece async for piece in server.generate(request("b"))]
    assert all(isinstance(piece, Emission) for piece in pieces) and len(pieces) > 1
    assert tuple(token for piece in pieces if isinstance(piece, Emission) for token in piece.tokens) == whole.tokens


async def test_a_slow_caller_gets_what_has_gathered_as_one(server: TargetServer) -> None:
    stream = server.generate(request("a", 40))
    sizes = []
    async for piece in stream:
        assert isinstance(piece, Emission)
        sizes.append(len(piece.tokens))
        await asyncio.sleep(0.05)  # many rounds long
    assert sum(sizes) == 40 and len(sizes) < 10


async def test_the_tokens_of_an_interval_leave_together_but_the_first_do_not_wait() -> None:
    config = CONFIG.model_copy(update={"target": CONFIG.target.model_copy(update={"stream_interval_s": 0.1})})
    server = TargetServer(config, NoDraft)
    loop = asyncio.get_running_loop()
    began = loop.time()
    pieces = [(loop.time() - began, piece) async for piece in server.generate(request("a", 200)) if isinstance(piece, Emission)]
    await asyncio.to_thread(server.stop)
    times = [time for time, _ in pieces]
    assert len(pieces[0][1].tokens) == 1 and times[0] < 0.09
    assert all(later - earlier > 0.08 for earlier, later in pairwise(times[:-1])), "only the end comes sooner"
    assert sum(len(piece.tokens) for _, piece in pieces) == 200 and len(pieces) <= 3 + times[-1] / 0.1


async def test_closing_a_stream_gives_everything_back(server: TargetServer) -> None:
    stream = server.generate(request("a", 1000))
    await anext(stream)
    await stream.aclose()
    await until_idle(server)


async def test_a_cancelled_call_gives_everything_back(server: TargetServer) -> None:
    call = asyncio.create_task(server.complete(request("a", 1000)))
    await asyncio.sleep(0.02)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until_idle(server)


async def test_a_full_queue_and_an_impossible_request_are_refused_by_message(server: TargetServer) -> None:
    streams = [server.generate(request(f"s{i}", 1000)) for i in range(2)]
    for stream in streams:
        await anext(stream)
    full = await server.complete(request("one too many"))
    assert isinstance(full, Refusal) and full.kind is RefusalKind.CAPACITY
    for stream in streams:
        await stream.aclose()
    await until_idle(server)
    impossible = await server.complete(request("too long", 10**6))
    assert isinstance(impossible, Refusal) and impossible.kind is RefusalKind.INVALID and impossible.field == "max_tokens"


async def test_when_the_loop_dies_everybody_hears_it_and_health_fails(server: TargetServer, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = server.generate(request("a", 1000))
    await anext(stream)
    server.check_health()

    def broken(*args: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(server._loop._engine, "evaluate", broken)
    async with asyncio.timeout(2):
        last = [piece async for piece in stream][-1]
    assert isinstance(last, Emission) and last.finish_reason is FinishReason.ERROR and last.error == LOOP_DIED
    with pytest.raises(EngineError, match="out of memory"):
        server.check_health()
    with pytest.raises(EngineError) as refused:
        await server.complete(request("b"))
    assert str(refused.value) == LOOP_DIED and not server.is_alive


async def test_a_request_that_comes_while_the_loop_dies_is_not_left_waiting(server: TargetServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop dies between the look at it and the request's arrival in its queue, which it will not look at again."""
    add = server._loop.add

    def late(*args: Any) -> None:
        def broken() -> bool:
            raise RuntimeError("out of memory")

        server._thread._step = broken
        server._thread._thread.join()
        add(*args)

    monkeypatch.setattr(server._loop, "add", late)
    async with asyncio.timeout(2):
        with pytest.raises(EngineError):
            await server.complete(request("a"))


async def test_text_that_cannot_be_decoded_ends_its_own_request_only(server: TargetServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop string has the loop decode what it generates."""

    class Failing:
        """Fails on the output of the one request that has a stop string."""

        def push(self, tokens: Any) -> TextDelta:
            raise TextError("these tokens cannot be decoded")

    monkeypatch.setattr(ssd_core.session, "stream_of", lambda *args: Failing())
    other = server.generate(request("other", 40))
    await anext(other)
    stopping = request("stopping").sampling.model_copy(update={"stop": ("x",)})
    ended = await server.complete(replace(request("stopping"), sampling=stopping))
    assert isinstance(ended, Emission) and ended.finish_reason is FinishReason.ERROR
    assert ended.error == "these tokens cannot be decoded" and ended.tokens == ()
    rest = [piece async for piece in other]
    assert isinstance(rest[-1], Emission) and rest[-1].finish_reason is FinishReason.LENGTH
    server.check_health()
    await until_idle(server)

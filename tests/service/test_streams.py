"""How streams end: whatever cuts one short is its last event, and the body is ended as HTTP ends bodies."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn

from deployments.config import ServiceConfig
from deployments.http_app import build_http_app
from deployments.http_streams import EventStream
from deployments.messages import ModelCard, Refusal
from deployments.openai_responses import DONE, event
from deployments.service import Service
from deployments.target_client import FakeTarget
from ssd_core.types import Emission, GenerationRequest
from tests.service.test_http import CARD, HELLO, events, front

PROMPT: dict[str, Any] = {"prompt": "a", "stream": True}


class Stuck(FakeTarget):
    """Says what its script says and then nothing more."""

    def __init__(self, card: ModelCard, script: Sequence[Emission]) -> None:
        super().__init__(card, script)
        self.num_stuck = 0
        self.was_closed = asyncio.Event()

    async def generate(self, request: GenerationRequest, session_key: str = "") -> AsyncGenerator[Emission | Refusal, None]:
        async for emission in super().generate(request, session_key):
            yield emission
        self.num_stuck += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.num_stuck -= 1
            self.was_closed.set()


async def stuck(script: Any, request_timeout_s: float = 0.05) -> tuple[httpx.AsyncClient, Stuck]:
    target = Stuck(CARD, script)
    service = Service(ServiceConfig(model_name="m", request_timeout_s=request_timeout_s), target)
    await service.connect()
    return httpx.AsyncClient(transport=httpx.ASGITransport(build_http_app(service)), base_url="http://t"), target


@pytest.mark.parametrize("fields", [{}, {"n": 3}, {"prompt": ["a", "b"]}], ids=str)
async def test_a_stream_whose_time_is_over_ends_with_an_error_event(fields: dict[str, Any]) -> None:
    client, target = await stuck(HELLO[:2])
    async with client:
        answer = await client.post("/v1/completions", json=PROMPT | fields)
    *pieces, last = events(answer.text)
    assert pieces and all("choices" in piece for piece in pieces)
    assert last["error"] == {
        "message": "the request took longer than this service allows",
        "type": "internal_error",
        "param": None,
        "code": "timeout",
    }
    assert target.num_stuck == 0, "its sessions are closed"


@pytest.mark.parametrize("is_stream", [False, True])
async def test_before_the_first_token_the_end_of_the_time_is_a_504(is_stream: bool) -> None:
    client, target = await stuck([])
    async with client:
        answer = await client.post("/v1/completions", json=PROMPT | {"stream": is_stream})
    assert answer.status_code == 504 and answer.json()["error"]["code"] == "timeout"
    assert target.num_stuck == 0


async def test_on_the_wire_a_broken_stream_has_its_last_chunk() -> None:
    service = Service(ServiceConfig(model_name="m", request_timeout_s=0.05), Stuck(CARD, HELLO[:1]))
    await service.connect()
    async with listening(build_http_app(service)) as port:
        body = json.dumps(PROMPT).encode()
        reply = await raw(port, b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    assert reply.startswith(b"HTTP/1.1 200") and reply.endswith(b"\r\n0\r\n\r\n")
    assert b'"code":"timeout"' in reply and b"[DONE]" not in reply


async def test_the_time_of_a_stream_that_nobody_reads_is_over_as_well() -> None:
    target = Stuck(CARD, HELLO[:2])
    service = Service(ServiceConfig(model_name="m", request_timeout_s=0.05), target)
    await service.connect()
    pieces = service.stream(service.parser.completion(json.dumps(PROMPT).encode()))
    await anext(pieces)
    await target.was_closed.wait()
    assert (await anext(pieces)).index == 0, "what had come is read first"
    with pytest.raises(TimeoutError):
        await anext(pieces)


class Client:
    """The other end of an ASGI application. It leaves when told; with an error, its connection breaks."""

    def __init__(self, error: Exception | None = None) -> None:
        self.messages: list[dict[str, Any]] = []
        self.left = asyncio.Event()
        self.heard = asyncio.Event()
        self._error = error

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if self._error is not None and self.messages:
            raise self._error
        self.messages.append(message)
        self.heard.set()


class Source:
    def __init__(self) -> None:
        self.is_closed = False

    async def events(self) -> AsyncGenerator[bytes, None]:
        try:
            yield event({"n": 1})
            await asyncio.Event().wait()
            yield DONE
        finally:
            self.is_closed = True


async def test_a_server_that_stops_ends_its_streams_with_an_error_event() -> None:
    client, source = Client(), Source()
    serving = asyncio.create_task(EventStream(source.events())({}, client.receive, client.send))
    await client.heard.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    last = client.messages[-1]
    assert not last["more_body"] and json.loads(last["body"][6:])["error"]["code"] == "cancelled"
    assert source.is_closed


async def test_a_client_that_left_is_sent_nothing_and_ends_the_source() -> None:
    client, source = Client(), Source()
    serving = asyncio.create_task(EventStream(source.events())({}, client.receive, client.send))
    await client.heard.wait()
    client.left.set()
    await serving
    assert source.is_closed and all(message.get("more_body", True) for message in client.messages)


async def test_a_connection_that_broke_ends_the_source() -> None:
    client, source = Client(ConnectionResetError()), Source()
    await EventStream(source.events())({}, client.receive, client.send)
    assert source.is_closed and len(client.messages) == 1


@pytest.mark.parametrize("error", [TimeoutError(), ConnectionError("10.0.0.1"), RuntimeError("/etc/secret"), OSError()])
async def test_every_error_in_mid_stream_is_an_event_without_insides(error: Exception) -> None:
    async with await front([HELLO[0], error]) as client:
        answer = await client.post("/v1/completions", json=PROMPT)
    assert [*events(answer.text)[-1]] == ["error"] and "secret" not in answer.text and "10.0" not in answer.text


@asynccontextmanager
async def listening(app: Any) -> AsyncIterator[int]:
    """The application behind a real socket."""
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


async def raw(port: int, request: bytes) -> bytes:
    """What comes back for these bytes, until the answer's last chunk or the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    reply = b""
    while not reply.endswith(b"\r\n0\r\n\r\n") and (data := await reader.read(65536)):
        reply += data
    writer.close()
    return reply

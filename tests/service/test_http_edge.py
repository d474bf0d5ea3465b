"""What stands before Serve: it reads only headers that it can read, and clients meet OpenAI's shape only."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from ray.serve._private.http_util import (
    RequestIdMiddleware,
    call_function_from_import_path,
    convert_object_to_asgi_messages,
    parse_request_timeout_header,
    parse_session_id_header,
    validate_http_proxy_callback_return,
)
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import Receive, Scope, Send

from deployments.http_edge import MAX_HEADER_BYTES, HttpEdge
from deployments.serve_environment import CLUSTER_ENVIRONMENT


class Serve:
    """Reads headers as Serve's own functions do, then answers with what it read, or as it is told."""

    def __init__(self, answer: Any = None) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        read = {
            "id": headers[b"x-request-id"].decode(),
            "session": parse_session_id_header(headers),
            "timeout_s": parse_request_timeout_header(headers, None),
            "names": sorted(name.decode() for name in headers),
        }
        if isinstance(self._answer, Exception):
            raise self._answer
        await (self._answer or JSONResponse(read))(scope, receive, send)


def client_of(answer: Any = None) -> httpx.AsyncClient:
    app = HttpEdge(RequestIdMiddleware(Serve(answer)))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t")  # type: ignore[arg-type]


def test_serve_is_told_of_it_by_a_name_that_it_can_call() -> None:
    path = CLUSTER_ENVIRONMENT["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]
    (middleware,) = validate_http_proxy_callback_return(call_function_from_import_path(path))
    assert middleware.cls is HttpEdge


@pytest.mark.parametrize("name", ["x-request-id", "x-session-id", "authorization", "traceparent", "x-any", "cookie"])
@pytest.mark.parametrize("value", [b"\xff", b"a\xc3", b"\xe9t\xe9"])
async def test_a_header_that_serve_cannot_decode_is_left_out(name: str, value: bytes) -> None:
    async with client_of() as client:
        answer = await client.get("/version", headers={name: value})
    assert answer.status_code == 200 and answer.json()["session"] == ""
    assert (name in answer.json()["names"]) == (name == "x-request-id"), "an id of its own takes its place"
    assert answer.headers["x-request-id"] == answer.json()["id"].strip() != value.decode("latin-1")


async def test_what_can_be_read_comes_through() -> None:
    async with client_of() as client:
        read = (await client.get("/", headers={"x-request-id": "mine", "x-session-id": "é".encode()})).json()
    assert (read["id"], read["session"]) == ("mine", "é")


@pytest.mark.parametrize(
    "name",
    ["x-request-timeout-seconds", "X-Request-Timeout-Seconds", "x-request-disconnect-disabled", "serve_multiplexed_model_id"],
)
async def test_serves_own_switches_are_not_a_clients(name: str) -> None:
    async with client_of() as client:
        read = (await client.get("/", headers={name: "0.001"})).json()
    assert read["timeout_s"] is None and name.lower() not in read["names"]


async def serves_404(scope: Scope, receive: Receive, send: Send) -> None:
    for message in convert_object_to_asgi_messages("Path '/x' not found. Ping http://.../-/routes", status_code=404):
        await send(message)


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (serves_404, 404, None),
        (PlainTextResponse("Request 7f timed out after Nones.", 408), 504, "timeout"),
        (PlainTextResponse("Request dropped due to backpressure", 503), 503, "unavailable"),
        (PlainTextResponse("Traceback (most recent call last)", 500), 500, None),
        (RuntimeError("/etc/secret"), 500, None),
    ],
)
async def test_serves_own_answers_get_openais_shape(answer: Any, status: int, code: str | None) -> None:
    async with client_of(answer) as client:
        got = await client.get("/v1/models", headers={"x-request-id": "mine"})
    assert got.status_code == status and got.headers["x-request-id"] == "mine"
    error = got.json()["error"]
    assert error["code"] == code and error["message"] and error["type"].endswith("_error")
    assert not any(word in got.text for word in ("7f", "None", "Traceback", "secret", "Ping", "backpressure"))
    assert ("retry-after" in got.headers) == (status == 503)


async def test_our_own_errors_and_serves_health_are_left_alone() -> None:
    async with client_of(JSONResponse({"error": {"message": "ours"}}, 400)) as client:
        assert (await client.get("/v1/models")).json() == {"error": {"message": "ours"}}
    async with client_of(PlainTextResponse("draining", 503)) as client:
        assert (await client.get("/-/healthz")).text == "draining"


async def test_headers_are_limited_on_every_port() -> None:
    async with client_of() as client:
        answer = await client.get("/", headers={"x-any": "a" * MAX_HEADER_BYTES})
    assert answer.status_code == 431 and json.loads(answer.text)["error"]["code"] == "headers_too_large"

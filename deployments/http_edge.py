"""Middleware of every HTTP server that Ray Serve starts: its proxies, and each ingress replica's own.

Serve reads some headers ahead of the application (a byte that is not UTF-8 is an exception there), obeys
some that are its own (a time limit, say), and answers some requests itself, in plain text. `middlewares`
is what RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.http_errors import ApiError, ErrorInfo, answer, of_exception

logger = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]

REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
"""What a client may choose as its request's id: it is echoed in a header."""
MAX_HEADER_BYTES = 65536
"""Of all headers together. HAProxy allows less; the replicas' own ports have no limit."""
SERVES_OWN_HEADERS = frozenset({b"x-request-timeout-seconds", b"x-request-disconnect-disabled", b"serve-multiplexed-model-id"})
"""What they switch is the service's to decide, not a client's. Serve takes `_` for `-`."""
SERVES_OWN_PATHS = "/-/"
"""Health and routes, for load balancers: they read the status."""
SERVES_ANSWERS = {
    404: ErrorInfo(404, "there is no such route"),
    408: ErrorInfo(504, "the request took longer than this service allows", code="timeout"),
    503: ErrorInfo(503, "the service cannot take this request now; try again", code="unavailable"),
}
"""By the status of an answer in plain text, which tells of Serve's insides: what is said instead."""


def middlewares() -> list[Middleware]:
    return [Middleware(HttpEdge)]


class HttpEdge:
    """ASGI middleware. Serve sees only headers that it can read; a client sees errors only in OpenAI's shape."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        inner = {**scope, "headers": readable(scope["headers"])}
        if scope["type"] != "http" or scope["path"].startswith(SERVES_OWN_PATHS):
            await self._app(inner, receive, send)
            return
        is_started = is_replaced = False

        async def replace(info: ErrorInfo) -> None:
            response = answer(info)
            if request_id := dict(inner["headers"]).get(b"x-request-id"):  # Serve gives one to each
                response.headers["x-request-id"] = request_id.decode()
            await response(scope, receive, send)

        async def shaped_send(message: Message) -> None:
            nonlocal is_started, is_replaced
            if message["type"] == "http.response.start":
                is_started = True
                is_replaced = message["status"] >= 400 and not _is_json(message["headers"])
                if is_replaced:
                    await replace(_instead(message["status"]))
            if not is_replaced:
                await send(message)

        try:
            if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
                raise ApiError(431, f"the headers exceed {MAX_HEADER_BYTES} bytes", code="headers_too_large")
            await self._app(inner, receive, shaped_send)
        except Exception as error:  # Serve's, before or behind the application
            info = of_exception(error)
            if info.status == 500:
                logger.exception("%s %s failed", scope["method"], scope["path"])
            if not is_started:
                await replace(info)


def readable(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers without those that Serve cannot decode or that are not a client's to set."""
    return [(name, value) for name, value in headers if _is_readable(name.lower().replace(b"_", b"-"), value)]


def _is_readable(name: bytes, value: bytes) -> bool:
    if name in SERVES_OWN_HEADERS:
        return False
    if name == b"x-request-id":
        return REQUEST_ID.fullmatch(value.decode("latin-1")) is not None
    try:
        name.decode(), value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_json(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(name.lower() == b"content-type" and b"json" in value for name, value in headers)


def _instead(status: int) -> ErrorInfo:
    if status < 500:
        return SERVES_ANSWERS.get(status, ErrorInfo(status, "the request was refused"))
    return SERVES_ANSWERS.get(status, ErrorInfo(status, "internal error"))

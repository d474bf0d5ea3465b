"""What stands before every route: request id, API key, body limit, and an OpenAI-shaped answer to whatever is raised behind it."""

from __future__ import annotations

import hmac
import logging
import uuid
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.config import ServiceConfig
from deployments.http_edge import REQUEST_ID
from deployments.http_errors import ApiError, answer, of_exception
from ssd_core.errors import ConfigError

logger = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/health"})


def known_keys(config: ServiceConfig) -> tuple[str, ...]:
    """The configured ones, and those of the file. Raises ConfigError where it cannot be read or holds none: the service would be open."""
    keys = tuple(key.get_secret_value() for key in config.api_keys)
    if config.api_keys_file is None:
        return keys
    try:
        lines = config.api_keys_file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"api_keys_file = {str(config.api_keys_file)!r}: {error}") from None
    if not lines:
        raise ConfigError(f"api_keys_file = {str(config.api_keys_file)!r}: holds no key")
    return (*keys, *lines)


class Guard:
    """ASGI middleware."""

    def __init__(
        self, app: ASGIApp, *, api_keys: tuple[str, ...], max_body_bytes: int, echo_request_id: bool, count: Callable[[str, int], None]
    ) -> None:
        self._app = app
        self._api_keys = tuple(key.encode() for key in api_keys)
        self._max_body_bytes = max_body_bytes
        self._echo_request_id = echo_request_id
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = _Headers(scope["headers"])
        request_id = headers.get(b"x-request-id")
        if not REQUEST_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        is_started = False

        async def noted_send(message: Message) -> None:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                self._count(_route(scope), message["status"])
                if self._echo_request_id:
                    message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            self._check(scope["path"], headers)
            await self._app(scope, self._limited(receive), noted_send)
        except Exception as error:  # the one place where what went wrong becomes an answer
            info = of_exception(error)
            if info.status == 500:
                logger.exception("request %s failed", request_id)
            if is_started:
                return  # too late for a status, and nothing to end: a stream ends itself (http_streams.py)
            await answer(info)(scope, receive, noted_send)

    def _check(self, path: str, headers: _Headers) -> None:
        length = headers.get(b"content-length")
        if length.isdigit() and int(length) > self._max_body_bytes:
            raise self._too_large()
        if self._api_keys and path not in OPEN_PATHS and not self._is_known(headers.get(b"authorization")):
            raise ApiError(401, "a valid API key is needed: Authorization: Bearer KEY", code="invalid_api_key")

    def _is_known(self, authorization: str) -> bool:
        """Compares with every key, in constant time."""
        scheme, _, key = authorization.partition(" ")
        given = key.strip().encode(errors="replace")
        matches = [hmac.compare_digest(given, known) for known in self._api_keys]
        return scheme.lower() == "bearer" and any(matches)

    def _limited(self, receive: Receive) -> Receive:
        num_bytes = 0

        async def limited() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_body_bytes:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body exceeds {self._max_body_bytes} bytes", code="body_too_large")


class _Headers:
    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def get(self, name: bytes) -> str:
        return next((value.decode("latin-1") for key, value in self._raw if key.lower() == name), "")


def _route(scope: Scope) -> str:
    """The route's pattern: paths that clients invent must not become metric labels."""
    route = scope.get("route")
    return str(getattr(route, "path", "other"))

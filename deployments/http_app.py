"""The HTTP front: routes over a `Service`. Reads bodies, answers in OpenAI's shapes; what to do is decided elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, PlainTextResponse, Response

from deployments.bodies import json_object, validated_body
from deployments.http_errors import ApiError, ErrorInfo, invalid
from deployments.http_guard import Guard, known_keys
from deployments.http_streams import EventStream, disconnected
from deployments.metric_text import CONTENT_TYPE, prometheus_text
from deployments.openai_requests import CommonFields, Plan
from deployments.openai_responses import DONE, ResponseHead, ResponseShapes, event
from deployments.openapi import document
from deployments.service import Service
from ssd_core.types import SessionStats

VERSION = "0.1.0"


class TokenizeFields(CommonFields):
    prompt: str = Field()
    add_special_tokens: bool = True
    return_token_strs: bool = False


class DetokenizeFields(CommonFields):
    tokens: tuple[int, ...]


def build_http_app(service: Service, *, echo_request_id: bool = True) -> FastAPI:
    """`echo_request_id`: put the request's id on every answer. Serve's proxies do that themselves."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield

    app = FastAPI(title="Speculative speculative decoding", version=VERSION, lifespan=lifespan)
    routes = Routes(service)

    def add(method: str, path: str, handler: Callable[[Request], Awaitable[Response]]) -> None:
        app.add_api_route(path, handler, methods=[method], response_model=None)

    add("POST", "/v1/completions", routes.completions)
    add("POST", "/v1/chat/completions", routes.chat_completions)
    add("POST", "/tokenize", routes.tokenize)
    add("POST", "/detokenize", routes.detokenize)
    for path, handler in (
        ("/v1/models", routes.models),
        ("/v1/models/{model:path}", routes.model),
        ("/health", routes.health),
        ("/ready", routes.ready),
        ("/version", routes.version),
        ("/metrics", routes.metrics),
    ):
        add("GET", path, handler)

    keys = known_keys(service.config)
    described = document(app.title, app.version, TokenizeFields, DetokenizeFields, has_keys=bool(keys))
    app.openapi = lambda: described  # type: ignore[method-assign]
    app.add_exception_handler(HTTPException, _on_http_exception)  # type: ignore[arg-type]
    app.add_middleware(
        Guard,
        api_keys=keys,
        max_body_bytes=service.config.max_body_bytes,
        echo_request_id=echo_request_id,
        count=service.counters.count,
    )
    if service.config.cors_origins:  # before Guard: a browser asks without a key, and reads errors only with the headers
        app.add_middleware(
            CORSMiddleware,
            allow_origins=service.config.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("authorization", "content-type", "x-request-id", "x-session-id"),
            expose_headers=("retry-after", "x-request-id"),
        )
    return app


class Routes:
    """One method per route. Exceptions are answered by `Guard`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._started = int(time.time())

    async def completions(self, request: Request) -> Response:
        data = await _json_bytes(request)
        return await self._generate(request, self._service.parser.completion(data, _session_key(request)))

    async def chat_completions(self, request: Request) -> Response:
        data = await _json_bytes(request)
        return await self._generate(request, self._service.parser.chat(data, _session_key(request)))

    async def tokenize(self, request: Request) -> Response:
        fields: TokenizeFields = validated_body(TokenizeFields, json_object(await _json_bytes(request)))
        self._service.parser.check_model(fields.model)
        vocabulary = self._service.vocabulary
        ids = vocabulary.token_ids(fields.prompt, fields.add_special_tokens)
        texts = {"token_strs": [vocabulary.token_text(i) for i in ids]} if fields.return_token_strs else {}
        return JSONResponse({"count": len(ids), "max_model_len": vocabulary.max_model_len, "tokens": ids, **texts})

    async def detokenize(self, request: Request) -> Response:
        fields: DetokenizeFields = validated_body(DetokenizeFields, json_object(await _json_bytes(request)))
        self._service.parser.check_model(fields.model)
        vocabulary = self._service.vocabulary
        if any(not 0 <= token < vocabulary.size for token in fields.tokens):
            raise invalid("tokens", f"tokens: holds a token id outside [0, {vocabulary.size})")
        return JSONResponse({"prompt": vocabulary.text(fields.tokens)})

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        self._service.parser.check_model(request.path_params["model"])
        return JSONResponse(self._model())

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def ready(self, request: Request) -> Response:
        await self._service.check_ready()
        return JSONResponse({"status": "ready"})

    async def version(self, request: Request) -> Response:
        return JSONResponse({"version": VERSION})

    async def metrics(self, request: Request) -> Response:
        snapshots = await self._service.snapshots()
        text = prometheus_text(sample for snapshot in snapshots for sample in snapshot.samples)
        return PlainTextResponse(text, headers={"content-type": CONTENT_TYPE})

    async def _generate(self, request: Request, plan: Plan) -> Response:
        head = ResponseHead(
            f"{'chatcmpl' if plan.is_chat else 'cmpl'}-{request.state.request_id}", int(time.time()), self._service.config.model_name
        )
        shapes = ResponseShapes(head, plan, self._service.vocabulary)
        if plan.is_stream:
            return EventStream(self._counted(self._events(plan, shapes)))
        with self._service.counters.answering():
            return JSONResponse(shapes.whole(await _unless_disconnected(request, self._service.run(plan))))

    async def _events(self, plan: Plan, shapes: ResponseShapes) -> AsyncGenerator[bytes, None]:
        """Raises before the first event what can be answered with a status."""
        stats: list[SessionStats] = []
        async with aclosing(self._service.stream(plan)) as pieces:
            async for piece in pieces:
                if piece.chunk.stats is not None:
                    stats.append(piece.chunk.stats)
                yield event(shapes.piece(piece.index, piece.chunk, piece.num_tokens))
        if plan.has_usage_chunk:
            yield event(shapes.usage_piece(stats))
        yield DONE

    async def _counted(self, events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        with self._service.counters.answering():
            async with aclosing(events):
                async for data in events:
                    yield data

    def _model(self) -> dict[str, Any]:
        config = self._service.config
        return {
            "id": config.model_name,
            "object": "model",
            "created": self._started,
            "owned_by": "ssd",
            "root": config.target.engine.model,
            "max_model_len": self._service.vocabulary.max_model_len,
        }


async def _unless_disconnected(request: Request, work: Any) -> Any:
    """The result of `work`, cancelled if the client leaves first (nobody reads the answer then)."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(disconnected(request.receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "the client has left")
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _json_bytes(request: Request) -> bytes:
    """The body. A content type may be left out; another than JSON's is refused, for a page in a browser can send
    such a body to any address without asking first (CORS)."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise ApiError(415, f"content-type: {kind!r} is not application/json", "content-type", "unsupported_media_type")
    return await request.body()


def _session_key(request: Request) -> str:
    return request.headers.get("x-session-id", "")[:256]


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    """404 and 405 of the router."""
    messages = {404: f"there is no route {request.url.path}", 405: f"{request.method} is not allowed here"}
    info = ErrorInfo(error.status_code, messages.get(error.status_code, str(error.detail)))
    return JSONResponse(info.body(), error.status_code, headers=dict(error.headers or {}))

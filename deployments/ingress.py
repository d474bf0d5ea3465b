"""The ingress deployment: the Serve shell around Service and its HTTP front, and the same generation for Python callers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.config import ServiceConfig
from deployments.http_app import build_http_app
from deployments.http_errors import ApiError
from deployments.messages import Chunk
from deployments.ray_metrics import publish_forever
from deployments.serve_target import ServeTarget
from deployments.service import Service


@serve.deployment(name="Ingress")
@serve.ingress()
class Ingress:
    """HTTP at `/`; for Python, `serve.get_app_handle(app).options(stream=True).generate.remote(prompt, **fields)`."""

    async def __init__(self, config: ServiceConfig, target: DeploymentHandle) -> None:  # type: ignore[misc]
        name = serve.get_replica_context().replica_id.unique_id
        self._service = Service(config, ServeTarget(target), f"ingress-{name}")
        loop = asyncio.get_running_loop()
        self._connecting = loop.create_task(self._service.connect())
        self._publishing = loop.create_task(publish_forever(lambda: self._service.snapshot().samples))

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_http_app(self._service, echo_request_id=False)

    async def generate(self, prompt: str | Sequence[int], **params: Any) -> AsyncIterator[Chunk]:
        """One prompt, streamed. `params` are the fields of /v1/completions (max_tokens, temperature, seed, preset, ...); the last
        chunk carries finish reason and stats. Raises ApiError, which names the field. Closing the stream cancels the session."""
        if params.get("n") not in (None, 1):
            raise ApiError(400, f"n: {params['n']!r}: a handle's call streams one answer; make one call for each", "n")
        await asyncio.shield(self._connecting)
        plan = self._service.parser.sampled(prompt, params)
        async with aclosing(self._service.stream(plan)) as pieces:
            async for piece in pieces:
                yield piece.chunk

    def check_health(self) -> None:
        """Raises when the target could not be reached at start."""
        if self._connecting.done():
            self._connecting.result()

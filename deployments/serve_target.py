"""The target behind a Serve deployment handle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any

from ray.exceptions import RayActorError, RayError
from ray.serve.context import _serve_request_context
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RequestCancelledError
from ray.serve.handle import DeploymentHandle

from deployments.http_errors import OverloadedError, TargetLostError
from deployments.messages import ModelCard, Refusal, Snapshot
from ssd_core.errors import EngineError
from ssd_core.types import Emission, GenerationRequest

CHECK_TIMEOUT_S = 2.0
"""A replica that lives answers in milliseconds; where none lives, Serve would wait for one."""


class ServeTarget:
    """Both calls are streams to Serve, a whole result one of a single message: over gRPC, Serve takes a call that is not a stream for
    one still being assigned until it has ended, counts it as queued, and does not always pass its cancellation on."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        # `_by_reference=False`: over gRPC. What the environment says counts only where a handle is made, and this one came from a driver.
        self._generate = handle.options(method_name="generate", stream=True, _by_reference=False)
        self._complete = handle.options(method_name="complete", stream=True, _by_reference=False)

    def generate(self, request: GenerationRequest, session_key: str = "") -> AsyncGenerator[Emission | Refusal, None]:
        return self._call(self._generate, request, session_key)

    async def complete(self, request: GenerationRequest, session_key: str = "") -> Emission | Refusal:
        async with aclosing(self._call(self._complete, request, session_key)) as answers:
            return await anext(answers)

    async def card(self) -> ModelCard:
        card: ModelCard = await self._handle.card.remote()
        return card

    async def check_alive(self) -> None:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                await self._handle.check_alive.remote()
        except BackPressureError:
            return  # full, and so alive
        except (RayError, DeploymentUnavailableError, RequestCancelledError, EngineError, TimeoutError) as error:
            raise TargetLostError(str(error).partition("\n")[0]) from None

    async def snapshots(self, callers_own: Snapshot) -> tuple[Snapshot, ...]:
        try:
            snapshots: tuple[Snapshot, ...] = await self._handle.snapshots.remote(callers_own)
        except (RayActorError, DeploymentUnavailableError) as error:
            raise TargetLostError(str(error).partition("\n")[0]) from None
        return snapshots

    async def _call(
        self, handle: DeploymentHandle, request: GenerationRequest, session_key: str
    ) -> AsyncGenerator[Emission | Refusal, None]:
        """A session key keeps a client's requests on one replica (see router.py)."""
        with _own_request_id():
            response: Any = (handle.options(session_id=session_key) if session_key else handle).remote(request)
        is_finished = False
        try:
            async for answer in response:
                is_finished = isinstance(answer, Refusal) or answer.finish_reason is not None
                yield answer
            if not is_finished:
                raise TargetLostError("the stream ended early")
        except EngineError as error:  # the replica is there, and its loop has died
            raise TargetLostError(str(error).partition("\n")[0]) from None
        except BackPressureError as error:
            raise OverloadedError(str(error)) from None
        except (RayActorError, DeploymentUnavailableError) as error:
            raise TargetLostError(str(error).partition("\n")[0]) from None
        except (RequestCancelledError, asyncio.CancelledError):
            if _is_cancelled():
                raise
            raise TargetLostError("Serve cancelled the call") from None  # a replica that stops, say
        finally:
            if not is_finished:
                response.cancel()


@contextmanager
def _own_request_id() -> Iterator[None]:
    """Have Serve give the call made meanwhile an id of its own.

    Calls made while a request is handled inherit that request's internal id, and a router matches a call that waits for a replica by
    exactly this id: of several calls with one id only the last would ever be given a replica."""
    context = _serve_request_context.get()
    token = _serve_request_context.set(replace(context, _internal_request_id="")) if context is not None else None
    try:
        yield
    finally:
        if token is not None:
            _serve_request_context.reset(token)


def _is_cancelled() -> bool:
    """Whether it is the caller who is being cancelled, not only what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

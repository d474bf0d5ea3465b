"""The target behind a Serve deployment handle."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from deployments.http_errors import OverloadedError, TargetLostError
from deployments.messages import ModelCard, Refusal, Snapshot
from ssd_core.types import Emission, GenerationRequest


class ServeTarget:
    """A Serve deployment handle. A session key keeps a client's requests on one replica (see router.py)."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        self._generate = handle.options(method_name="generate", stream=True)
        self._complete = handle.options(method_name="complete")

    async def generate(self, request: GenerationRequest, session_key: str = "") -> AsyncGenerator[Emission | Refusal, None]:
        handle = self._generate.options(session_id=session_key) if session_key else self._generate
        response: Any = handle.remote(request)
        is_finished = False
        try:
            async for emission in response:
                is_finished = isinstance(emission, Refusal) or emission.finish_reason is not None
                yield emission
            if not is_finished:
                raise TargetLostError("the stream ended early")
        except BackPressureError as error:
            raise OverloadedError(str(error)) from None
        except (RayActorError, DeploymentUnavailableError) as error:
            raise TargetLostError(str(error).partition("\n")[0]) from None
        finally:
            if not is_finished:
                response.cancel()

    async def complete(self, request: GenerationRequest, session_key: str = "") -> Emission | Refusal:
        handle = self._complete.options(session_id=session_key) if session_key else self._complete
        response: Any = handle.remote(request)
        is_finished = False
        try:
            result: Emission | Refusal = await response
            is_finished = True
            return result
        except BackPressureError as error:
            raise OverloadedError(str(error)) from None
        except (RayActorError, DeploymentUnavailableError) as error:
            raise TargetLostError(str(error).partition("\n")[0]) from None
        finally:
            if not is_finished:
                response.cancel()

    async def card(self) -> ModelCard:
        card: ModelCard = await self._handle.card.remote()
        return card

    async def snapshots(self, callers_own: Snapshot) -> tuple[Snapshot, ...]:
        try:
            snapshots: tuple[Snapshot, ...] = await self._handle.snapshots.remote(callers_own)
        except (RayActorError, DeploymentUnavailableError) as error:
            raise TargetLostError(str(error).partition("\n")[0]) from None
        return snapshots

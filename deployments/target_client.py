"""The ingress's seam to the target: one protocol, and a fake for tests. Serve's handle is in serve_target.py."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from deployments.http_errors import TargetLostError
from deployments.messages import ModelCard, Refusal, Snapshot, merged
from ssd_core.types import Emission, GenerationRequest


class TargetClient(Protocol):
    """Raises TargetLostError and OverloadedError."""

    def generate(self, request: GenerationRequest, session_key: str = "") -> AsyncGenerator[Emission | Refusal, None]:
        """Closing the iterator cancels the session."""

    async def complete(self, request: GenerationRequest, session_key: str = "") -> Emission | Refusal:
        """The whole result. Cancelling the call cancels the session."""

    async def check_alive(self) -> None:
        """Raises TargetLostError unless a replica can answer now. Takes seconds at most."""

    async def card(self) -> ModelCard:
        """Returns when a replica is ready."""

    async def snapshots(self, callers_own: Snapshot) -> tuple[Snapshot, ...]: ...


class FakeTarget:
    """Answers every request with the same emissions, or a refusal, or an exception after them. Notes what it was asked."""

    def __init__(self, card: ModelCard, script: Sequence[Emission | Refusal | Exception]) -> None:
        self._card = card
        self._script = tuple(script)
        self.requests: list[GenerationRequest] = []
        self.num_closed_early = 0
        self.is_alive = True

    async def generate(self, request: GenerationRequest, session_key: str = "") -> AsyncGenerator[Emission | Refusal, None]:
        self.requests.append(request)
        is_finished = False
        try:
            for item in self._script:
                if isinstance(item, Exception):
                    raise item
                is_finished = isinstance(item, Refusal) or item.finish_reason is not None
                yield item
        finally:
            self.num_closed_early += not is_finished

    async def complete(self, request: GenerationRequest, session_key: str = "") -> Emission | Refusal:
        emissions: list[Emission] = []
        async for emission in self.generate(request, session_key):
            if isinstance(emission, Refusal):
                return emission
            emissions.append(emission)
        return merged(emissions)

    async def check_alive(self) -> None:
        if not self.is_alive:
            raise TargetLostError("its loop has died")

    async def card(self) -> ModelCard:
        return self._card

    async def snapshots(self, callers_own: Snapshot) -> tuple[Snapshot, ...]:
        return (callers_own,)

"""What the ingress does for a checked request, without HTTP: sessions out, pieces of text in."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from deployments.assembler import Assembler
from deployments.config import ServiceConfig
from deployments.http_errors import ApiError, ErrorInfo, TargetLostError, of_refusal
from deployments.messages import Chunk, Refusal, Snapshot
from deployments.metric_tables import INGRESS
from deployments.metrics import samples
from deployments.openai_requests import Plan, RequestParser
from deployments.target_client import TargetClient
from deployments.vocabulary import Vocabulary
from ssd_core.types import Emission, FinishReason, GenerationRequest

logger = logging.getLogger(__name__)

Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk of one choice of a request."""

    index: int
    chunk: Chunk
    num_tokens: int
    """Of this choice, up to here."""


@dataclass(slots=True)
class ServiceCounters:
    """Written by the event loop only."""

    requests: dict[tuple[str, int], int] = field(default_factory=dict)
    """By route and status."""
    running: int = 0
    """Completions and chats that are being answered over HTTP."""
    pieces: int = 0

    def count(self, route: str, status: int) -> None:
        self.requests[route, status] = self.requests.get((route, status), 0) + 1

    @contextmanager
    def answering(self) -> Iterator[None]:
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1


class Service:
    """One model behind one target client. `connect` must have returned before anything is generated."""

    def __init__(self, config: ServiceConfig, target: TargetClient, name: str = "ingress") -> None:
        self.config = config
        self.target = target
        self.counters = ServiceCounters()
        self._name = name
        self._vocabulary: Vocabulary | None = None
        self._parser: RequestParser | None = None

    async def connect(self) -> None:
        """Returns when the target is ready."""
        card = await self.target.card()
        self._vocabulary = Vocabulary(card)
        self._parser = RequestParser(self._vocabulary, self.config.model_name, self.config.speculation, self.config.max_choices)

    async def check_ready(self) -> None:
        """Raises ApiError 503 unless the model is loaded and a target replica answers now."""
        self._loaded(self._parser)
        try:
            await self.target.check_alive()
        except TargetLostError:
            raise ApiError(503, "no replica of the target answers", code="not_ready") from None

    @property
    def vocabulary(self) -> Vocabulary:
        return self._loaded(self._vocabulary)

    @property
    def parser(self) -> RequestParser:
        return self._loaded(self._parser)

    async def run(self, plan: Plan) -> list[Chunk]:
        """Every choice whole. Raises ApiError. Cancelling it cancels all sessions."""
        async with asyncio.timeout(self.config.request_timeout_s), _all_or_none() as group:
            tasks = [group.create_task(self._whole(plan, index)) for index in range(len(plan.choices))]
        return [task.result() for task in tasks]

    async def stream(self, plan: Plan) -> AsyncGenerator[Piece, None]:
        """Pieces of all choices as they come. Raises ApiError, and TimeoutError when the time is over. Closing it
        cancels all sessions."""
        arrived: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()

        async def forward(index: int) -> None:
            try:
                async with aclosing(self._pieces(plan, index)) as pieces:
                    async for piece in pieces:
                        arrived.put_nowait(piece)
            except Exception as error:  # handed to the reader, who raises it
                arrived.put_nowait(error)
            else:
                arrived.put_nowait(None)

        tasks = [asyncio.create_task(forward(index)) for index in range(len(plan.choices))]

        def expire() -> None:
            """Ends the sessions even if the reader is stuck; the reader finds out after what has come."""
            for task in tasks:
                task.cancel()
            arrived.put_nowait(TimeoutError())

        deadline = asyncio.get_running_loop().call_later(self.config.request_timeout_s, expire)
        try:
            num_running = len(tasks)
            while num_running:
                item = await arrived.get()
                if isinstance(item, Exception):
                    raise item
                if item is None:
                    num_running -= 1
                else:
                    yield item
        finally:
            deadline.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @staticmethod
    def _loaded(part: Part | None) -> Part:
        if part is None:
            raise ApiError(503, "the model is being loaded", code="not_ready")
        return part

    async def snapshots(self) -> tuple[Snapshot, ...]:
        return await self.target.snapshots(self.snapshot())

    def snapshot(self) -> Snapshot:
        """The ingress's own."""
        return Snapshot(self._name, samples(INGRESS, self.counters, (("ingress", self._name),)))

    async def _whole(self, plan: Plan, index: int) -> Chunk:
        result = await self.target.complete(self._request(plan, index), plan.session_key)
        return self._assembler(plan, index).push(_checked(result))

    async def _pieces(self, plan: Plan, index: int) -> AsyncGenerator[Piece, None]:
        assembler = self._assembler(plan, index)
        async with aclosing(self.target.generate(self._request(plan, index), plan.session_key)) as emissions:
            async for emission in emissions:
                chunk = assembler.push(_checked(emission))
                self.counters.pieces += 1
                yield Piece(index, chunk, assembler.num_tokens)

    def _assembler(self, plan: Plan, index: int) -> Assembler:
        choice = plan.choices[index]
        return Assembler(self.vocabulary.tokenizer, choice.prompt, choice.sampling)

    def _request(self, plan: Plan, index: int) -> GenerationRequest:
        choice = plan.choices[index]
        return GenerationRequest(uuid.uuid4().hex, choice.prompt, choice.sampling, plan.speculation)


class _all_or_none:
    """A task group that raises the first error itself, not a group of them."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> asyncio.TaskGroup:
        return await self._group.__aenter__()

    async def __aexit__(self, *error: object) -> None:
        try:
            await self._group.__aexit__(*error)  # type: ignore[arg-type]
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None


def _checked(answer: Emission | Refusal) -> Emission:
    if isinstance(answer, Refusal):
        raise api_error(of_refusal(answer))
    if answer.finish_reason is FinishReason.ERROR:
        # The reason may quote another client's text: it is for the log.
        logger.error("session %s failed: %s", answer.session_id, answer.error)
        raise ApiError(500, "generation failed; the log has the reason under this request's id", code="engine_error")
    if answer.finish_reason is FinishReason.CANCELLED:
        raise ApiError(503, "the request was cancelled by the service", code="cancelled")
    return answer


def api_error(info: ErrorInfo) -> ApiError:
    return ApiError(info.status, info.message, info.param, info.code)

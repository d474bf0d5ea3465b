"""The target replica without Ray: an engine's loop in its thread, and coroutines that hand its emissions to callers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial

from deployments.config import ServiceConfig
from deployments.engines import load_engine, load_tokenizer
from deployments.loop_thread import LoopThread
from deployments.messages import ModelCard, Refusal, RefusalKind
from deployments.outbox import Collector, Mailbox, Outbox
from ssd_core.engine.measure import measure_step_times
from ssd_core.errors import CapacityError, EngineError, InvalidRequestError
from ssd_core.link import DraftLink, NoDraft
from ssd_core.loop_stats import LoopStats
from ssd_core.session import Sink
from ssd_core.target_loop import TargetLoop
from ssd_core.timeline import Span
from ssd_core.types import Emission, GenerationRequest

logger = logging.getLogger(__name__)

LOOP_DIED = "the target's loop has died"
_MEASURE_CONTEXT = 128
_MEASURE_REPEATS = 9


class TargetServer:
    """Takes requests on the event loop it was built in; the engine runs in a thread of its own."""

    def __init__(self, config: ServiceConfig, make_link: Callable[[], DraftLink]) -> None:
        """`make_link` gives the seam to the drafts."""
        target = config.target
        engine = load_engine(target.engine)
        step_times = measure_step_times(engine, target.engine.step_times_nodes, _MEASURE_CONTEXT, _MEASURE_REPEATS)
        loaded = load_tokenizer(target.engine.model)
        link = make_link()
        self._loop = TargetLoop(
            engine,
            link,
            step_times,
            eos_token_ids=loaded.eos_token_ids,
            tokenizer=loaded.tokenizer,
            max_sessions=target.max_sessions,
            max_queued=target.max_queued_sessions,
            prefill_chunk_tokens=target.engine.prefill_chunk_tokens,
            draft_timeout_s=target.draft_timeout_s,
            ingests_early=engine.device.type == "cuda" and not isinstance(link, NoDraft),
        )
        self.card = ModelCard(
            loaded.tokenizer.to_str(),
            loaded.eos_token_ids,
            loaded.chat_template,
            engine.vocab_size,
            engine.max_model_len,
            loaded.special_tokens,
        )
        self._outbox = Outbox(asyncio.get_running_loop(), target.stream_interval_s)
        self._thread = LoopThread(
            "target",
            self._loop.step,
            self._loop.wait,
            num_threads=target.engine.num_threads,
            on_failure=partial(self._loop.abort, LOOP_DIED),
        )
        self._thread.start()
        logger.info("target ready: %s, pass of one node %.2f ms", engine, 1000 * step_times.at(1))

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Emission | Refusal, None]:
        """An emission per round, or of several if the caller is slow; the last one carries the end. Closing it cancels the session."""
        mailbox = Mailbox()
        return self._emissions(request, mailbox, partial(self._outbox.put, mailbox))

    async def complete(self, request: GenerationRequest) -> Emission | Refusal:
        """The whole result in one message."""
        mailbox = Mailbox()
        async with aclosing(self._emissions(request, mailbox, Collector(self._outbox, mailbox))) as emissions:
            return await anext(emissions)

    def stats(self) -> LoopStats:
        return self._loop.stats()

    @property
    def spans(self) -> tuple[Span, ...]:
        return self._loop.timeline.spans()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive

    def check_health(self) -> None:
        """Raises when the engine's thread has died, and says why: for operators."""
        if not self.is_alive:
            raise EngineError(f"{LOOP_DIED}: {self._thread.failure}")

    def check_alive(self) -> None:
        """Raises when the engine's thread has died, in words that any client may read."""
        if not self.is_alive:
            raise EngineError(LOOP_DIED)

    def stop(self) -> None:
        self._thread.stop()

    async def _emissions(self, request: GenerationRequest, mailbox: Mailbox, sink: Sink) -> AsyncGenerator[Emission | Refusal, None]:
        refusal = self._add(request, sink)
        if refusal is not None:
            yield refusal
            return
        is_finished = False
        try:
            while not is_finished:
                emission = await mailbox.take()
                is_finished = emission.finish_reason is not None
                yield emission
        finally:
            if not is_finished:
                self._loop.cancel(request.session_id)

    def _add(self, request: GenerationRequest, sink: Sink) -> Refusal | None:
        self.check_alive()
        try:
            self._loop.add(request, sink)
        except InvalidRequestError as error:
            return Refusal(RefusalKind.INVALID, str(error).removeprefix(f"{error.field}: "), error.field)
        except CapacityError as error:
            return Refusal(RefusalKind.CAPACITY, str(error))
        self.check_alive()  # a loop that died meanwhile may have ended its sessions before this one came
        return None

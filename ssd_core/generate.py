"""Plain Python, one process, no Ray: for notebooks and tests.

    from ssd_core.generate import Pair
    pair = Pair.load()
    for chunk in pair.stream("def fibonacci(", preset="ssd-tree", max_tokens=64):
        print(chunk.text, end="")

Draft and target take turns on the same cores here (the draft a fixed number of growth steps per target pass), so this shows what is
computed, not how fast it is when both work at once: that is what the service is for.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from tokenizers import Tokenizer

from ssd_core.config import EngineConfig, PresetName, SamplingParams, SpeculationConfig
from ssd_core.draft_loop import DraftLoop
from ssd_core.engine.base import Engine
from ssd_core.errors import EngineError, InvalidRequestError
from ssd_core.lockstep import LockstepLink
from ssd_core.target_loop import TargetLoop
from ssd_core.text import TextStream, prompt_ids, stream_of
from ssd_core.types import Emission, FinishReason, GenerationRequest, SessionStats, StepTimes, TokenLogprob

STEPS_PER_WINDOW = 5  # growth steps beside one target pass: about what the embedded pair has time for on two cores


@dataclass(frozen=True)
class Chunk:
    """One round's output."""

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    stats: SessionStats | None = None


@dataclass(frozen=True)
class Completion:
    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    stats: SessionStats
    logprobs: tuple[TokenLogprob, ...] = field(default=(), repr=False)


def sampling_params(**fields: Any) -> SamplingParams:
    """SamplingParams, with the field's name in the error."""
    try:
        return SamplingParams(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidRequestError(".".join(str(part) for part in first["loc"]) or "request", first["msg"]) from error


class Pair:
    """A target and a draft with the same vocabulary, ready to generate. Not thread-safe.

    A text is tokenised as the service tokenises a completion's prompt, special tokens included."""

    def __init__(
        self,
        target: Engine,
        draft: Engine,
        tokenizer: Tokenizer,
        eos_token_ids: Sequence[int],
        *,
        step_times: StepTimes,
        steps_per_window: int = STEPS_PER_WINDOW,
        prefill_chunk_tokens: int = 256,
    ) -> None:
        self.tokenizer = tokenizer
        draft_loop = DraftLoop(draft, eos_token_ids=eos_token_ids, prefill_chunk_tokens=prefill_chunk_tokens)
        self.loop = TargetLoop(
            target,
            LockstepLink(draft_loop, steps_per_window),
            step_times,
            eos_token_ids=eos_token_ids,
            tokenizer=tokenizer,
            prefill_chunk_tokens=prefill_chunk_tokens,
        )

    @classmethod
    def load(cls, target: EngineConfig | None = None, draft: EngineConfig | None = None) -> Pair:
        """Load models (the embedded pair by default) and measure T_verify(n). Raises ConfigError."""
        from ssd_core.engine.loader import check_same_tokens
        from ssd_core.engine.measure import measure_step_times
        from ssd_core.engine.preflight import check_model
        from ssd_core.engine.torch_engine import TorchEngine

        target = target or EngineConfig()
        draft = draft or EngineConfig(model="embedded:draft")
        loaded = check_model(target)
        check_same_tokens(target.model, loaded.tokenizer, draft.model, check_model(draft).tokenizer)
        engine = TorchEngine.load(target)
        step_times = measure_step_times(engine, target.step_times_nodes, context=256, repeats=5)
        return cls(engine, TorchEngine.load(draft), loaded.tokenizer, loaded.eos_token_ids, step_times=step_times)

    def stream(
        self,
        prompt: str | Sequence[int],
        *,
        preset: PresetName = "ssd-tree",
        speculation: SpeculationConfig | None = None,
        **sampling: Any,
    ) -> Iterator[Chunk]:
        """Generate, a chunk a round. `sampling`: the fields of SamplingParams. Raises InvalidRequestError, naming the field."""
        params = sampling_params(**sampling)
        request = self._request(prompt, speculation or SpeculationConfig(preset=preset, self_tuning=False), params)
        emissions: list[Emission] = []
        self.loop.add(request, emissions.append)
        text = stream_of(self.tokenizer, request.prompt, params)
        is_over = False
        try:
            while not is_over:
                if not self.loop.step():
                    self.loop.wait(0.01)
                for emission in emissions:
                    is_over = emission.finish_reason is not None
                    yield self._chunk(emission, text)
                emissions.clear()
        finally:
            if not is_over:
                self.loop.cancel(request.session_id)
                self.loop.step()

    def generate(self, prompt: str | Sequence[int], **arguments: Any) -> Completion:
        """The whole of `stream` at once."""
        chunks = list(self.stream(prompt, **arguments))
        last = chunks[-1]
        assert last.finish_reason is not None and last.stats is not None
        return Completion(
            text="".join(chunk.text for chunk in chunks),
            tokens=tuple(token for chunk in chunks for token in chunk.tokens),
            finish_reason=last.finish_reason,
            stats=last.stats,
            logprobs=tuple(logprob for chunk in chunks for logprob in chunk.logprobs),
        )

    def _request(self, prompt: str | Sequence[int], speculation: SpeculationConfig, sampling: SamplingParams) -> GenerationRequest:
        ids = prompt_ids(self.tokenizer, prompt) if isinstance(prompt, str) else tuple(prompt)
        return GenerationRequest(uuid.uuid4().hex, ids, sampling, speculation)

    def _chunk(self, emission: Emission, text: TextStream) -> Chunk:
        if emission.finish_reason is FinishReason.ERROR:
            raise EngineError(emission.error)
        delta = text.push(emission.tokens)
        rest = text.finish() if emission.finish_reason is not None and not delta.is_stopped else ""
        return Chunk(delta.text + rest, emission.tokens, emission.logprobs, emission.finish_reason, emission.stats)


def generate(prompt: str | Sequence[int], *, pair: Pair | None = None, **arguments: Any) -> Completion:
    """`Pair.generate` with the embedded pair, which is loaded at each call unless given."""
    return (pair or Pair.load()).generate(prompt, **arguments)

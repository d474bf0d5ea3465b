"""From the emissions of one session to pieces of text. State is a function of the emitted ids alone."""

from __future__ import annotations

from tokenizers import Tokenizer

from deployments.messages import Chunk
from ssd_core.config import SamplingParams
from ssd_core.text import TextStream
from ssd_core.types import Emission


class Assembler:
    """Feed it every emission of a session in order."""

    def __init__(self, tokenizer: Tokenizer, sampling: SamplingParams) -> None:
        self._stream = TextStream(tokenizer, sampling.stop, sampling.include_stop_str_in_output, min_tokens=sampling.min_tokens)
        self.num_tokens = 0

    def push(self, emission: Emission) -> Chunk:
        """Text may be empty: an unfinished character, or what may become a stop string."""
        delta = self._stream.push(emission.tokens)
        text = delta.text
        if emission.finish_reason is not None and not delta.is_stopped:
            text += self._stream.finish()
        self.num_tokens += len(emission.tokens)
        return Chunk(text, emission.tokens, emission.logprobs, emission.finish_reason, emission.stats, emission.error)

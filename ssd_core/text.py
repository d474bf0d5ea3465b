"""A prompt's text to token ids, and an output's tokens to text, with the search for stop strings on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from ssd_core.config import SamplingParams
from ssd_core.detokenizer import Detokenizer


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str
    """New text that can no longer become part of a stop string."""
    num_tokens: int
    """Tokens of the push that belong to the output: all, or those up to the end of a stop string."""
    is_stopped: bool


def prompt_ids(tokenizer: Tokenizer, text: str, add_special_tokens: bool = True) -> tuple[int, ...]:
    """The token ids of a prompt's text.

    `add_special_tokens`: with what the tokenizer puts around a text, such as a token for its beginning."""
    return tuple(tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)


class TextStream:
    """The text of one session after its prompt. Text that may yet turn out to be the beginning of a stop string
    is held back until `finish`. Raises TextError only.

    A stop string is looked for in generated text only, never across the prompt's end. It ends the output with
    the token that completes it, although that token's text may be open yet: nothing follows that could change it.
    One that is complete before a token beyond the first `min_tokens` has come ends nothing, as in vLLM."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int] = (),
        stop: Sequence[str] = (),
        include_stop: bool = False,
        skip_special_tokens: bool = True,
        min_tokens: int = 0,
    ) -> None:
        self._detokenizer = Detokenizer(tokenizer, prompt, skip_special_tokens)
        self._stop = tuple(stop)
        self._include_stop = include_stop
        self._num_early = min_tokens
        """Tokens still to come that cannot complete a stop string."""
        self._held = ""
        """Settled text that is not given out yet."""
        self._early_end = 0
        """Up to where the text was there when no stop string counted yet, from the beginning of what is held."""

    def push(self, tokens: Sequence[int]) -> TextDelta:
        """Take in tokens. Nothing may be pushed after `is_stopped`."""
        out = ""
        for i, token in enumerate(tokens):
            self._held += self._detokenizer.push(token)
            if self._stop:
                text = self._held + self._detokenizer.open_text
                if self._num_early > 0:
                    self._num_early -= 1
                    self._early_end = len(text)
                end = self._stop_end(text)
                if end is not None:
                    return TextDelta(out + text[:end], i + 1, True)
            keep = self._possible_stop_start()
            out, self._held = out + self._held[:keep], self._held[keep:]
            self._early_end = max(0, self._early_end - keep)
        return TextDelta(out, len(tokens), False)

    def finish(self) -> str:
        """What is still held back, an incomplete character as U+FFFD."""
        held, self._held = self._held + self._detokenizer.finish(), ""
        return held

    def _stop_end(self, text: str) -> int | None:
        """Where the output ends, if `text` holds a stop string (the one that begins first) which ends beyond what came early."""
        found = [(start, len(stop)) for stop in self._stop if (start := text.find(stop, max(0, self._early_end - len(stop) + 1))) >= 0]
        if not found:
            return None
        start, length = min(found)
        return start + length if self._include_stop else start

    def _possible_stop_start(self) -> int:
        """First index of the held text from which it is a proper prefix of some stop string."""
        return min(
            (len(self._held) - n for stop in self._stop for n in range(1, len(stop)) if self._held.endswith(stop[:n])),
            default=len(self._held),
        )


def stream_of(tokenizer: Tokenizer, prompt: Sequence[int], sampling: SamplingParams) -> TextStream:
    """The text of a request's output, as its parameters want it."""
    return TextStream(
        tokenizer, prompt, sampling.stop, sampling.include_stop_str_in_output, sampling.skip_special_tokens, sampling.min_tokens
    )

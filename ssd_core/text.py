"""From token ids to text, incrementally and byte-safely, and the search for stop strings on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


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
    """The text of one session. Text that may yet turn out to be the beginning of a stop string is held back until `finish`.

    A stop string is looked for in generated text only, never across the prompt's end. One that is complete before a token
    beyond the first `min_tokens` has come ends nothing, as in vLLM."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        include_stop: bool = False,
        skip_special_tokens: bool = True,
        min_tokens: int = 0,
    ) -> None:
        self._tokenizer = tokenizer
        self._decoder = DecodeStream(skip_special_tokens=skip_special_tokens)
        self._stop = tuple(stop)
        self._include_stop = include_stop
        self._num_early = min_tokens
        """Tokens still to come that cannot complete a stop string."""
        self._held = ""
        self._early_end = 0
        """Up to where the held text was there when no stop string counted yet."""
        self._unfinished: list[int] = []  # ids of an incomplete UTF-8 sequence
        self._skip_special_tokens = skip_special_tokens

    def push(self, tokens: Sequence[int]) -> TextDelta:
        """Take in tokens. Nothing may be pushed after `is_stopped`."""
        out = ""
        for i, token in enumerate(tokens):
            piece = self._decoder.step(self._tokenizer, token)
            is_early = self._num_early > 0
            self._num_early -= is_early
            if piece is None:
                self._unfinished.append(token)
                continue
            self._unfinished.clear()
            self._held += piece
            if is_early:
                self._early_end = len(self._held)
            end = self._stop_end()
            if end is not None:
                return TextDelta(out + self._held[:end], i + 1, True)
            keep = self._possible_stop_start()
            out, self._held = out + self._held[:keep], self._held[keep:]
            self._early_end = max(0, self._early_end - keep)
        return TextDelta(out, len(tokens), False)

    def finish(self) -> str:
        """What is still held back, an incomplete character as U+FFFD."""
        rest = self._tokenizer.decode(self._unfinished, skip_special_tokens=self._skip_special_tokens) if self._unfinished else ""
        held, self._held = self._held + rest, ""
        self._unfinished.clear()
        return held

    def _stop_end(self) -> int | None:
        """Where the output ends in the held text, if it holds a stop string (the one that begins first)."""
        found = [(start, len(stop)) for stop in self._stop if (start := self._find(stop)) >= 0]
        if not found:
            return None
        start, length = min(found)
        return start + length if self._include_stop else start

    def _find(self, stop: str) -> int:
        """Where it first begins in the held text and ends beyond what came early; -1: nowhere."""
        return self._held.find(stop, max(0, self._early_end - len(stop) + 1))

    def _possible_stop_start(self) -> int:
        """First index of the held text from which it is a proper prefix of some stop string."""
        return min(
            (len(self._held) - n for stop in self._stop for n in range(1, len(stop)) if self._held.endswith(stop[:n])),
            default=len(self._held),
        )

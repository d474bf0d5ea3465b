"""The text of a growing sequence of token ids, in the context of the prompt before it.

Only text that no further token can change is given out. Two things keep text open: in a byte-level
vocabulary an incomplete character; in a vocabulary with byte fallback (`<0xC3>`) a whole run of byte
tokens, because one byte that does not fit makes U+FFFD of every byte of its run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile

from tokenizers import Tokenizer

from ssd_core.errors import TextError

REPLACEMENT = "\ufffd"
NUM_CONTEXT_TOKENS = 4
"""Tokens decoded before new ones. A decoder treats the first token of a text specially (its leading space
is dropped), and an incomplete character has at most three bytes, which are at most three tokens."""
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True, slots=True)
class TokenKinds:
    """What the ids of a tokenizer are to its decoder."""

    special: frozenset[int]
    byte_of: Mapping[int, int]
    """The byte that a byte-fallback token stands for."""


@lru_cache(maxsize=8)
def token_kinds(tokenizer: Tokenizer) -> TokenKinds:
    special = frozenset(i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special)
    named = {i: found for name, i in tokenizer.get_vocab().items() if (found := _BYTE_TOKEN.fullmatch(name))}
    is_fallback = any(tokenizer.decode([i]) != found.group() for i, found in named.items() if i not in special)
    return TokenKinds(special, {i: int(found[1], 16) for i, found in named.items()} if is_fallback else {})


class Detokenizer:
    """The pieces of `push` and `finish` together are what `decode(prompt + ids)` has beyond the prompt's text.

    A character that the prompt leaves incomplete belongs to what follows. Raises TextError only."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = (), skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skips_special = skip_special_tokens
        self._kinds = token_kinds(tokenizer)
        self._run = b""
        """Bytes of the byte tokens at the window's end."""
        self._window = self._context(prompt)
        self._taken = self._decode()
        """The beginning of the window's text that was given out, or is the prompt's."""

    def push(self, token: int) -> str:
        """The text that is settled by this token."""
        if self._is_silent(token):
            return ""
        self._window.append(token)
        byte = self._kinds.byte_of.get(token)
        if byte is not None:
            self._run += bytes((byte,))
            return ""
        self._run = b""
        text = self._decode()
        settled = text.removesuffix(REPLACEMENT)
        piece = self._take(settled)
        if len(self._window) > 2 * NUM_CONTEXT_TOKENS:
            del self._window[:-NUM_CONTEXT_TOKENS]
            shorter = self._decode()
            self._taken = shorter[: len(shorter) - (len(text) - len(settled))]
        return piece

    @property
    def open_text(self) -> str:
        """Text after the settled one, if the output ended here: that of an open run that is valid so far."""
        if not self._run:
            return ""
        try:
            self._run.decode()
        except UnicodeDecodeError:
            return ""
        text = self._decode()
        rest = text[len(self._taken) :]
        return rest if text.startswith(self._taken) and REPLACEMENT not in rest else ""

    def finish(self) -> str:
        """The rest, an incomplete character as U+FFFD."""
        return self._take(self._decode())

    def _take(self, settled: str) -> str:
        """What `settled` has beyond what was taken before; both are beginnings of the window's text."""
        start = len(self._taken)
        if not settled.startswith(self._taken):
            pairs = zip(self._taken, settled, strict=False)
            start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self._taken = settled
        return settled[start:]

    def _context(self, prompt: Sequence[int]) -> list[int]:
        """The last tokens of a prompt that have text. A valid run of bytes at its end is complete, and stays
        out of the window as long as anything else is in it."""
        byte_of = self._kinds.byte_of
        spoken: list[int] = []
        run: list[int] = []
        for token in reversed(prompt):
            if self._is_silent(token):
                continue
            if not spoken and token in byte_of:
                run.append(token)
                continue
            spoken.append(token)
            if len(spoken) == NUM_CONTEXT_TOKENS:
                break
        spoken.reverse()
        run.reverse()
        try:
            bytes(byte_of[token] for token in run).decode()
        except UnicodeDecodeError:
            return spoken + run
        return spoken or run

    def _is_silent(self, token: int) -> bool:
        """Skipped by the decoder as if it were not there: special, or an id without a token."""
        return (self._skips_special and token in self._kinds.special) or self._tokenizer.id_to_token(token) is None

    def _decode(self) -> str:
        try:
            return self._tokenizer.decode(self._window, skip_special_tokens=self._skips_special)
        except Exception as error:  # tokenizers raises nothing more special
            # The tokenizer's own words may quote the text, which is one client's.
            raise TextError(f"the tokenizer cannot decode these tokens ({type(error).__name__})") from None

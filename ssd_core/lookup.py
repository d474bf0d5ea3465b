"""Prompt look-up: what followed the last time these tokens stood here? The longest match counts, however far back it lies.

Saxena 2023, *Prompt lookup decoding*. The draft guesses with it which nodes are worth evaluating a step early; the target, what may follow
where the draft has not grown yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ssd_core.suffix import SuffixAutomaton

MIN_MATCH_LENGTH = 2
"""Tokens that must agree. After one alone three guesses in four are wrong, and to verify or evaluate them costs what they bring."""

MAX_OPINIONS = 2**16


class Guess(NamedTuple):
    """Tokens that may follow, and how many before the first of them agreed where they were found."""

    tokens: list[int]
    match_length: int


class PromptLookup:
    def __init__(self, tokens: Sequence[int]) -> None:
        self._sequence = SuffixAutomaton(tokens)
        self._opinions: dict[tuple[int, ...], int] = {}

    def extend(self, tokens: Iterable[int]) -> None:
        """Take in tokens that were added to the sequence."""
        self._sequence.extend(tokens)

    def remember(self, context: tuple[int, int], follower: int) -> None:
        """A model thought that `follower` comes after `context`, here or on a path not taken. Asked where the sequence itself is silent."""
        if len(self._opinions) >= MAX_OPINIONS:
            self._opinions.clear()  # the newest are of use, and they come again
        self._opinions[context] = follower

    def guess(self, path: Sequence[int], limit: int) -> Guess:
        """Up to `limit` tokens that may follow the sequence continued by `path`; none where nothing matches."""
        tokens: list[int] = []
        match_length = 0
        while len(tokens) < limit:
            text = [*path, *tokens]
            match = self._sequence.match(text)
            if match.length >= MIN_MATCH_LENGTH:
                more = self._sequence.following(match, text, limit - len(tokens))
            elif (opinion := self._opinion(text)) is not None:
                more = [opinion]
            else:
                break
            match_length = match_length or max(match.length, MIN_MATCH_LENGTH)
            tokens += more
        return Guess(tokens, match_length)

    def _opinion(self, path: Sequence[int]) -> int | None:
        return self._opinions.get(tuple([*self._sequence.tokens[-MIN_MATCH_LENGTH:], *path][-MIN_MATCH_LENGTH:]))

"""Prompt look-up: what followed the last time these tokens stood here? Constant time per token, however long the context.

Saxena 2023, *Prompt lookup decoding*. The draft guesses with it which nodes are worth evaluating a step early; the target, what may follow
where the draft has not grown yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

ORDERS = (4, 2)  # tokens of context that must agree: four are rarely wrong, two often tell

MAX_OPINIONS = 2**16


class PromptLookup:
    def __init__(self, tokens: Sequence[int]) -> None:
        self._tail: list[int] = []
        self._followers: dict[tuple[int, ...], int] = {}
        self._opinions: dict[tuple[int, int], int] = {}
        self.extend(tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Take in tokens that were added to the sequence."""
        for token in tokens:
            for order in ORDERS:
                if len(self._tail) >= order:
                    self._followers[tuple(self._tail[-order:])] = token
            self._tail = [*self._tail[1 - ORDERS[0] :], token] if len(self._tail) >= ORDERS[0] else [*self._tail, token]

    def remember(self, context: tuple[int, int], follower: int) -> None:
        """A model thought that `follower` comes after `context`, here or on a path not taken. Asked where the sequence itself is silent."""
        if len(self._opinions) >= MAX_OPINIONS:
            self._opinions.clear()  # the newest are of use, and they come again
        self._opinions[context] = follower

    def guess(self, path: Sequence[int], limit: int) -> list[int]:
        """Up to `limit` tokens that may follow the sequence continued by `path`; fewer where nothing matches."""
        context = [*self._tail, *path]
        guessed: list[int] = []
        while len(guessed) < limit:
            token = self._follower(context)
            if token is None:
                break
            guessed.append(token)
            context.append(token)
        return guessed

    def _follower(self, context: list[int]) -> int | None:
        for order in ORDERS:
            if (token := self._followers.get(tuple(context[-order:]))) is not None:
                return token
        return self._opinions.get((context[-2], context[-1])) if len(context) > 1 else None

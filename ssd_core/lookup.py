"""Prompt look-up: what followed the last time these tokens stood here? Constant time per token, however long the context.

Saxena 2023, *Prompt lookup decoding*. Here it guesses nodes that are worth evaluating a step early, not tokens to submit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

ORDERS = (4, 2)  # tokens of context that must agree: four are rarely wrong, two often tell


class PromptLookup:
    def __init__(self, tokens: Sequence[int]) -> None:
        self._tail: list[int] = []
        self._followers: dict[tuple[int, ...], int] = {}
        self.extend(tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Take in tokens that were added to the sequence."""
        for token in tokens:
            for order in ORDERS:
                if len(self._tail) >= order:
                    self._followers[tuple(self._tail[-order:])] = token
            self._tail = [*self._tail[1 - ORDERS[0] :], token] if len(self._tail) >= ORDERS[0] else [*self._tail, token]

    def guess(self, path: Sequence[int], limit: int) -> list[int]:
        """Up to `limit` tokens that may follow the sequence continued by `path`; fewer where nothing matches."""
        context = [*self._tail, *path]
        guessed: list[int] = []
        while len(guessed) < limit:
            followers = (self._followers.get(tuple(context[-order:])) for order in ORDERS)
            token = next((follower for follower in followers if follower is not None), None)
            if token is None:
                break
            guessed.append(token)
            context.append(token)
        return guessed

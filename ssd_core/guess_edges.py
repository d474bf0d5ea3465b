"""How often a guess by prompt look-up is right, by how many tokens agreed before it: learned on line."""

from __future__ import annotations

from ssd_core.lookup import MIN_MATCH_LENGTH, Guess
from ssd_core.samples import learns

START_EDGES = (0.45, 0.6, 0.7, 0.8, 0.87, 0.92, 0.97)
"""For 2, 3, 4, up to 8, 16, 32 and more tokens, until a session's own guesses tell: as measured in the embedded target's text."""

MEMORY = 0.05
"""Weight of the newest guess."""


class GuessEdges:
    def __init__(self) -> None:
        self._edges = list(START_EDGES)

    def along(self, guess: Guess) -> list[float]:
        """How often each token is right where those before it are: with every one of them a longer match has proved itself."""
        return [self._edges[_bucket(guess.match_length + i)] for i in range(len(guess.tokens))]

    @learns
    def observe(self, match_length: int, is_right: bool) -> None:
        """A guess after `match_length` tokens was right or wrong."""
        bucket = _bucket(match_length)
        self._edges[bucket] += MEMORY * (is_right - self._edges[bucket])


def _bucket(match_length: int) -> int:
    """2, 3 and 4 stand alone; then twice as many share one."""
    assert match_length >= MIN_MATCH_LENGTH, match_length
    return match_length - 2 if match_length <= 4 else min((match_length - 1).bit_length(), len(START_EDGES) - 1)

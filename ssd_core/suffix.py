"""Suffix automaton of a growing sequence of tokens: where did the longest suffix stand before, and what came after it?

Blumer, Blumer, Haussler, Ehrenfeucht, Chen, Seiferas 1985, *The smallest automaton recognizing the subwords of a text*. A state stands for
the substrings that end at the same places; its link leads to the longest of their suffixes that ends elsewhere, too. A token costs
amortised constant time and at most two states and three transitions, however long the sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

START = 0  # the empty string
NO_STATE = -1

MAX_LINKS = 32
"""Links tried for one token of a path before it counts as new. In text and code no state is 15 links from the start; in a long run of
one token each length of it is a link."""


class Match(NamedTuple):
    """The longest suffix of a text that stands somewhere in the sequence, other than as its own end. Length 0: there is none."""

    length: int
    end: int
    """Index in the sequence of what came after it."""


class SuffixAutomaton:
    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self.tokens: list[int] = []
        self._next: list[dict[int, int]] = []
        self._link: list[int] = []
        self._length: list[int] = []  # of a state's longest string
        self._end: list[int] = []  # where its string ended when it last was the longest match; before that, one of its first ends
        self._whole = self._add({}, NO_STATE, 0, 0)  # the state of the whole sequence
        self._match = Match(0, 0)
        self.extend(tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Take in tokens that were added to the sequence."""
        for token in tokens:
            self._append(token)

    def match(self, path: Sequence[int]) -> Match:
        """Of the sequence continued by `path`. Of several places, that where it last was the longest match: one assignment a token keeps
        it, and it guesses as well as the newest of all, which would need one for every link."""
        state, (length, end) = self._link[self._whole], self._match
        for token in path:
            for _ in range(MAX_LINKS):
                if state == NO_STATE or token in self._next[state]:
                    break
                state = self._link[state]
                length = self._length[state]
            else:
                state = NO_STATE
            if state == NO_STATE:
                state, length = START, 0
            else:
                state = self._next[state][token]
                length += 1
                end = self._end[state]
        return Match(length, end)

    def following(self, match: Match, path: Sequence[int], limit: int) -> list[int]:
        """The `limit` tokens that came after the match of the sequence and `path`; on into `path`, and around from there, where the match
        lies so close to the end."""
        assert match.length, "nothing follows where nothing matches"
        said = [*self.tokens[match.end : match.end + limit], *path][:limit]
        period = len(said)
        while len(said) < limit:
            said.append(said[-period])
        return said

    def _append(self, token: int) -> None:
        self.tokens.append(token)
        state, end = self._whole, len(self.tokens)
        new = self._whole = self._add({}, START, end, end)
        while state != NO_STATE and token not in self._next[state]:
            self._next[state][token] = new
            state = self._link[state]
        if state != NO_STATE:
            self._link[new] = self._reached(state, token)
        longest = self._link[new]
        self._match = Match(self._length[longest], self._end[longest])
        self._end[longest] = end

    def _reached(self, state: int, token: int) -> int:
        """The state of `state`'s longest string and `token`. Where longer strings share it, it gets one of its own: it has just ended
        at a place where they do not."""
        shared = self._next[state][token]
        length = self._length[state] + 1
        if self._length[shared] == length:
            return shared
        own = self._add(self._next[shared].copy(), self._link[shared], length, self._end[shared])
        self._link[shared] = own
        while state != NO_STATE and self._next[state].get(token) == shared:
            self._next[state][token] = own
            state = self._link[state]
        return own

    def _add(self, transitions: dict[int, int], link: int, length: int, end: int) -> int:
        self._next.append(transitions)
        self._link.append(link)
        self._length.append(length)
        self._end.append(end)
        return len(self._next) - 1

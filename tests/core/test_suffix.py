"""The suffix automaton against a search by hand, and what it costs."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_core.suffix import MAX_LINKS, Match, SuffixAutomaton

few_tokens = st.integers(0, 3)


def places_of_longest_suffix(sequence: list[int], path: list[int]) -> list[Match]:
    """By hand: where the longest suffix of sequence and path stands in the sequence elsewhere."""
    text = sequence + path
    for length in range(len(text), 0, -1):
        ends = range(length, min(len(sequence), len(text) - 1) + 1)
        if places := [Match(length, end) for end in ends if text[end - length : end] == text[-length:]]:
            return places
    return []


@settings(deadline=None)
@given(st.lists(few_tokens, max_size=40), st.lists(few_tokens | st.just(9), max_size=6))
def test_the_longest_suffix_is_found_and_what_followed_it(sequence: list[int], path: list[int]) -> None:
    automaton = SuffixAutomaton(sequence)
    match = automaton.match(path)
    places = places_of_longest_suffix(sequence, path)
    assert match in places if places else match.length == 0
    if places:
        said = automaton.following(match, path, 8)
        text = sequence + path + said
        assert said == text[match.end : match.end + 8], "a copy, which may run into what it has just written"
        assert automaton.following(match, path, 3) == said[:3]


@settings(deadline=None)
@given(st.lists(few_tokens, max_size=40))
def test_in_pieces_or_whole_the_automaton_is_the_same(sequence: list[int]) -> None:
    whole, pieces = SuffixAutomaton(sequence), SuffixAutomaton()
    for i in range(0, len(sequence), 3):
        pieces.extend(sequence[i : i + 3])
    for path in ([], [0], [1, 2]):
        assert whole.match(path) == pieces.match(path)


def test_what_followed_last_counts_and_not_what_followed_first() -> None:
    automaton = SuffixAutomaton([1, 2, 7, 5, 1, 2, 8, 6, 1, 2])
    assert automaton.match(()) == Match(2, 6)
    assert automaton.following(automaton.match(()), (), 2) == [8, 6]


class CountingDict(dict[int, int]):
    """A state's transitions that count how often any of them is asked for or set."""

    num_operations = 0

    def __contains__(self, key: object) -> bool:
        CountingDict.num_operations += 1
        return super().__contains__(key)

    def __setitem__(self, key: int, value: int) -> None:
        CountingDict.num_operations += 1
        super().__setitem__(key, value)

    def copy(self) -> CountingDict:
        CountingDict.num_operations += len(self)
        return CountingDict(self)


class CountingAutomaton(SuffixAutomaton):
    def _add(self, transitions: dict[int, int], link: int, length: int, end: int) -> int:
        return super()._add(CountingDict(transitions), link, length, end)


@pytest.mark.parametrize("kind", ["random", "one token", "no token twice", "halves alike", "text"])
def test_a_token_costs_no_more_in_a_long_context(kind: str) -> None:
    num_tokens = 8000
    generator = random.Random(0)
    sequence = {
        "random": [generator.randrange(4) for _ in range(num_tokens)],
        "one token": [0] * num_tokens,
        "no token twice": list(range(num_tokens)),
        "halves alike": [generator.randrange(1000) for _ in range(num_tokens // 2)] * 2,
        "text": [min(int(generator.paretovariate(0.5)), 4000) for _ in range(num_tokens)],
    }[kind]
    automaton = CountingAutomaton()
    CountingDict.num_operations = 0
    automaton.extend(sequence)
    assert CountingDict.num_operations <= 10 * num_tokens
    path = [0, 5, 9999, 0, 0, 9999]
    CountingDict.num_operations = 0
    automaton.match(path)
    assert CountingDict.num_operations <= MAX_LINKS * len(path)

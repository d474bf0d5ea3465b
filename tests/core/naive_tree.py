"""A speculation tree as a plain dictionary of sequences: slow, and obviously right. What the real one is compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ssd_core.tree import Node, SpeculationTree

Tokens = tuple[int, ...]
LEAST_EDGE = 1e-9  # what the tree takes an edge for that is said to be impossible


class NaiveTree:
    def __init__(self, tokens: Sequence[int]) -> None:
        self.root: Tokens = tuple(tokens)
        self.edges: dict[Tokens, float] = {}
        """The probability of the last step of every sequence that is a node below the root."""
        self.guesses: set[Tokens] = set()

    def has(self, sequence: Tokens) -> bool:
        return sequence == self.root or sequence in self.edges

    def add(self, sequence: Tokens, probability: float) -> None:
        self.edges[sequence] = probability

    def guess(self, end: Tokens, tokens: Sequence[int], probability: float) -> None:
        for i in range(len(tokens)):
            sequence = (*end, *tokens[: i + 1])
            self.add(sequence, probability)
            self.guesses.add(sequence)

    def confirm(self, guess: Tokens, probability: float) -> None:
        self.edges[guess] = probability
        self.guesses.remove(guess)

    def advance(self, tokens: Sequence[int]) -> None:
        self.root = (*self.root, *tokens)
        self.edges = {s: p for s, p in self.edges.items() if len(s) > len(self.root) and s[: len(self.root)] == self.root}
        self.guesses &= self.edges.keys()

    def children(self, sequence: Tokens) -> list[Tokens]:
        return [s for s in self.edges if s[:-1] == sequence]

    def reach(self, sequence: Tokens) -> float:
        return math.prod(max(self.edges[sequence[:end]], LEAST_EDGE) for end in range(len(self.root) + 1, len(sequence) + 1))

    def sequence_of(self, tree: SpeculationTree, node: Node) -> Tokens:
        return (*self.root, *tree.path_to(node))

    def assert_equals(self, tree: SpeculationTree) -> None:
        """The same nodes, guesses and reaches; and what the tree says of them is what sorting and walking say."""
        tree.check_integrity()
        nodes = {self.sequence_of(tree, node): node for node in tree.nodes.values()}
        assert tree.length == len(self.root) and tree.root.token == self.root[-1]
        assert nodes.keys() == {self.root, *self.edges}
        assert {sequence for sequence in self.edges if nodes[sequence].is_guess} == self.guesses
        for sequence, node in nodes.items():
            assert 0 <= tree.reach(node) <= 1 and (node.parent is None or tree.reach(node) <= tree.reach(node.parent))
            assert math.isclose(tree.reach(node), self.reach(sequence), rel_tol=1e-9)
        self._assert_best_first(tree)
        self._assert_best_chain(tree)

    def _assert_best_first(self, tree: SpeculationTree) -> None:
        by_sorting = sorted(map(self.reach, self.edges), reverse=True)
        for limit in (1, 4, len(tree)):
            taken = tree.best_first(limit)
            assert len({node.id for node in taken}) == len(taken) == min(limit, len(self.edges))
            for node, reach in zip(taken, by_sorting, strict=False):
                assert math.isclose(tree.reach(node), reach, rel_tol=1e-9)
            before = {tree.root.id}
            for node in taken:
                assert node.parent.id in before, "a parent comes before its children"
                before.add(node.id)

    def _assert_best_chain(self, tree: SpeculationTree) -> None:
        for limit in (1, 4, len(tree)):
            end = self.root
            for node in tree.best_chain(limit):
                end = (*end, node.token)
                best = max(map(self.reach, self.children(end[:-1])))
                assert math.isclose(self.reach(end), best, rel_tol=1e-9), "the likeliest child, or one as likely"
            assert len(end) == len(self.root) + limit or not self.children(end), "it ends where it must"

"""What a draft evaluates next: one object per preset, chosen when a session is opened."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from typing import Protocol

from ssd_core.config import SpeculationConfig
from ssd_core.tree import Node, SpeculationTree, by_reach


class GrowPolicy(Protocol):
    @property
    def num_children(self) -> int:
        """Children proposed below an evaluated node."""

    @property
    def min_edge(self) -> float:
        """Children less likely than this are not proposed, but for the first."""

    @property
    def lookup_tokens(self) -> int:
        """Tokens guessed by prompt look-up after the best chosen node and evaluated in the same step."""

    def choose(self, tree: SpeculationTree, submitted: Sequence[Node], num_steps: int) -> list[Node]:
        """Unevaluated nodes in falling order of worth; empty when the plan for this root is fulfilled. The root is evaluated already.

        `submitted`: nodes below the root that the target verifies now, parents first. `num_steps`: growth steps since the root moved.
        """


class GrowChain:
    """`sd`: the likeliest chain of K tokens. K evaluations, the root's included."""

    min_edge = 0.0
    num_children = 1
    lookup_tokens = 0

    def __init__(self, lookahead: int) -> None:
        self._lookahead = lookahead

    def choose(self, tree: SpeculationTree, submitted: Sequence[Node], num_steps: int) -> list[Node]:
        return [node for node in tree.best_chain(self._lookahead - 1) if not node.is_evaluated][:1]


class GrowBestFirst:
    """`ssd-tree`: wherever the target's choices are likeliest to pass, as deep as time allows. With `max_steps` it is `tree`: that many
    growth steps after the root's own, then the target's turn."""

    min_reach = 0.04  # what is less likely to be reached is not worth a step; 0.01 to 0.08 measure alike
    min_edge = 0.05  # a child below one in twenty costs a record, and is rarely chosen

    def __init__(self, branching: int, width: int, lookup_tokens: int = 0, max_steps: int | None = None) -> None:
        self.num_children = branching
        self.lookup_tokens = lookup_tokens
        self._width = width
        self._max_steps = max_steps

    def choose(self, tree: SpeculationTree, submitted: Sequence[Node], num_steps: int) -> list[Node]:
        if self._max_steps is not None and num_steps >= self._max_steps:
            return []
        least = tree.root.log_reach + math.log(self.min_reach)
        frontier = (node for node in tree.nodes.values() if not node.is_evaluated and node.log_reach >= least)
        return heapq.nlargest(self._width, frontier, key=by_reach)


class GrowFanOut:
    """`ssd` (Saguaro): for every place where the submitted chain may end, the F likeliest other tokens, each followed by a chain of K.

    A guessed bonus after k < K acceptances is never the token that was itself submitted there (algorithm.md section 5)."""

    min_edge = 0.0
    lookup_tokens = 0

    def __init__(self, lookahead: int, fan_out: int, width: int) -> None:
        self.num_children = fan_out + 1
        self._lookahead = lookahead
        self._fan_out = fan_out
        self._width = width

    def choose(self, tree: SpeculationTree, submitted: Sequence[Node], num_steps: int) -> list[Node]:
        return heapq.nlargest(self._width, self._tips(tree, submitted), key=by_reach)

    def _tips(self, tree: SpeculationTree, submitted: Sequence[Node]) -> Iterator[Node]:
        """The next node to evaluate of the chain itself and of every guessed outcome's chain."""
        for k, end in enumerate([tree.root, *submitted]):
            if not end.is_evaluated:
                yield end
                return
            follower = submitted[k] if k < len(submitted) else None
            others = [child for child in end.children.values() if child is not follower]
            for bonus in heapq.nlargest(self._fan_out, others, key=by_reach):
                if tip := self._tip(bonus):
                    yield tip

    def _tip(self, bonus: Node) -> Node | None:
        node: Node | None = bonus
        for _ in range(self._lookahead):
            if node is None or not node.is_evaluated:
                return node
            node = node.best_child()
        return None


def build_grow_policy(speculation: SpeculationConfig) -> GrowPolicy:
    match speculation.preset:
        case "sd":
            return GrowChain(speculation.lookahead)
        case "tree":
            return GrowBestFirst(
                speculation.branching, speculation.growth_width, speculation.lookup_tokens, max_steps=speculation.lookahead - 1
            )
        case "ssd":
            return GrowFanOut(speculation.lookahead, speculation.fan_out, speculation.growth_width)
        case "ssd-tree":
            return GrowBestFirst(speculation.branching, speculation.growth_width, speculation.lookup_tokens)
        case "ar":
            raise ValueError("ar has no draft")

"""The rolling speculation tree of one session.

                 root (newest committed token)
                /     \\
           a (.8)      b (.1)         edge: estimated probability that the target chooses this child
           /   \\
      c (.7)   d (.2)                 reach of c = .8 * .7

Draft and target each hold one; nodes carry the same ids on both sides (see `types.child_id`). When the target has chosen, the root moves
down the chosen path, what hangs below it stays, and the rest is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from itertools import count, pairwise
from operator import attrgetter
from typing import NamedTuple

from ssd_core.lookup import Guess
from ssd_core.types import Draw, NodeId, child_id, sequence_id

NOT_EVALUATED = -1

by_reach = attrgetter("log_reach")
"""Orders nodes of one tree."""


_NO_CHILDREN: dict[int, Node] = {}
"""Shared by all leaves, which most nodes stay, and never written to: a dict apiece would double what the garbage collector walks."""


class Node:
    """A token after a path. `children` are in the order they were proposed, likeliest first."""

    __slots__ = ("candidates", "children", "draw", "grown_in", "id", "index", "log_reach", "match_length", "parent", "position", "token")

    def __init__(self, node_id: NodeId, token: int, position: int, parent: Node | None, log_reach: float) -> None:
        self.id = node_id
        self.token = token
        self.position = position
        self.parent = parent
        self.log_reach = log_reach
        self.children: dict[int, Node] = _NO_CHILDREN
        self.grown_in = 0
        """How many outcomes the tree had seen when this node was hung into it."""
        self.index = NOT_EVALUATED
        """Draft side: number of the node in the engine's tree region."""
        self.candidates: Candidates | None = None
        """Draft side: what this node's evaluation proposed, kept for calibration."""
        self.draw: Draw | None = None
        """Rejection sampling: the child that the draft drew here."""
        self.match_length = 0
        """Of a guess: how many tokens before it agreed where prompt look-up found it. 0: the draft has proposed it."""

    @property
    def is_guess(self) -> bool:
        """Hung here by prompt look-up, and not (yet) proposed by the draft."""
        return self.match_length > 0

    @property
    def is_evaluated(self) -> bool:
        """Draft side: the model has run on it."""
        return self.index != NOT_EVALUATED

    @property
    def edge(self) -> float:
        """Estimated probability that the target chooses this child after its parent."""
        return math.exp(self.log_reach - self.parent.log_reach) if self.parent else 1.0

    def best_child(self) -> Node | None:
        """How a chain goes on: with the child that was drawn, where one was, else with the likeliest."""
        if self.draw is not None:
            return self.children.get(self.draw.token)
        return max(self.children.values(), key=by_reach, default=None)

    def __repr__(self) -> str:
        return f"Node({self.token}@{self.position}, reach {math.exp(self.log_reach):.3f}, {len(self.children)} children)"


class Candidates(NamedTuple):
    """The likeliest next tokens after a node, best first, with the draft's scores."""

    tokens: tuple[int, ...]
    scores: tuple[float, ...]
    depth: int
    """Levels from the root of that time to the node."""


class SpeculationTree:
    """Tree over one session's committed tokens. `log_reach` is relative to an old root; compare by `reach`."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.root = Node(sequence_id(tokens), tokens[-1], len(tokens) - 1, None, 0.0)
        self.nodes: dict[NodeId, Node] = {self.root.id: self.root}
        self.num_outcomes = 0
        self._left: list[Node] = []
        """Nodes beside the last path of the root."""

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def length(self) -> int:
        """Committed tokens."""
        return self.root.position + 1

    def reach(self, node: Node) -> float:
        """Estimated probability, in [0, 1], that the target's choices pass through `node`."""
        return math.exp(node.log_reach - self.root.log_reach)

    def reaches(self, nodes: Sequence[Node]) -> list[float]:
        origin = self.root.log_reach
        return [math.exp(node.log_reach - origin) for node in nodes]

    def depth(self, node: Node) -> int:
        """Levels from the root to `node`."""
        return node.position - self.root.position

    def add(self, parent: Node, token: int, edge_probability: float) -> Node | None:
        """Propose a child. None if it is there already."""
        if token in parent.children:
            return None
        log_reach = parent.log_reach + math.log(max(edge_probability, 1e-9))
        node = Node(child_id(parent.id, token), token, parent.position + 1, parent, log_reach)
        node.grown_in = self.num_outcomes
        if not parent.children:
            parent.children = {}
        parent.children[token] = node
        self.nodes[node.id] = node
        return node

    def guess(self, end: Node, guess: Guess, edges: Sequence[float]) -> list[Node]:
        """Hang a chain of guessed tokens below `end`, which has no children."""
        chain = [end]
        for i, (token, edge) in enumerate(zip(guess.tokens, edges, strict=True)):
            node = self.add(chain[-1], token, edge)
            assert node is not None, "guesses go where nothing is yet"
            node.match_length = guess.match_length + i
            chain.append(node)
        return chain[1:]

    def confirm(self, guess: Node, edge_probability: float) -> None:
        """The draft proposes a guessed node: its edge is known now, and what hangs below it moves along."""
        assert guess.parent is not None
        shift = guess.parent.log_reach + math.log(max(edge_probability, 1e-9)) - guess.log_reach
        for node in self.below(guess):
            assert node.parent is not None
            node.log_reach = min(node.log_reach + shift, node.parent.log_reach)  # rounding must not let a child reach further
        guess.match_length = 0

    def advance(self, tokens: Sequence[int]) -> list[Node]:
        """Move the root along `tokens`. Returns the nodes passed, old root first, new root last; those not in the tree are made new."""
        path = [self.root]
        for token in tokens:
            parent = path[-1]
            node = parent.children.get(token)
            if node is None:
                node = Node(child_id(parent.id, token), token, parent.position + 1, parent, parent.log_reach)
            path.append(node)
        self.num_outcomes += 1
        self.root = path[-1]
        for node in path:
            node.parent = None
        self._left = [child for passed, following in pairwise(path) for child in passed.children.values() if child is not following]
        self.nodes = {node.id: node for node in self.below(self.root)}
        return path

    def let_go(self) -> None:
        """Free what the last `advance` has left behind. Parents and children know each other, and would lie about until the collector
        found them: every old root holds the next, so once one has grown old, only a full collection frees any of them, in tens of
        milliseconds."""
        for start in self._left:
            for node in self.below(start):
                node.parent = None
        self._left = []

    def below(self, start: Node) -> list[Node]:
        """`start` and all its descendants, parents first."""
        found: list[Node] = []
        stack = [start]
        while stack:
            node = stack.pop()
            found.append(node)
            if node.children:
                stack.extend(node.children.values())
        return found

    def best_first(self, limit: int) -> list[Node]:
        """Up to `limit` nodes below the root by falling reach. A child never reaches further than its parent, so parents come first."""
        taken: list[Node] = []
        order = count()  # of two that reach as far, the one that was met first
        frontier = [(-child.log_reach, next(order), child) for child in self.root.children.values()]
        heapify(frontier)
        while frontier and len(taken) < limit:
            _, _, best = heappop(frontier)
            for child in best.children.values():
                heappush(frontier, (-child.log_reach, next(order), child))
            taken.append(best)
        return taken

    def best_chain(self, limit: int) -> list[Node]:
        """The likeliest child of the root, its likeliest child, and so on, up to `limit` nodes."""
        chain: list[Node] = []
        node = self.root.best_child()
        while node is not None and len(chain) < limit:
            chain.append(node)
            node = node.best_child()
        return chain

    def grown_levels(self, limit: int) -> int:
        """How many levels, at most `limit`, the likeliest path proposed by the draft has."""
        node, levels = self.root, 0
        while levels < limit and (proposed := [child for child in node.children.values() if not child.is_guess]):
            node = max(proposed, key=by_reach)
            levels += 1
        return levels

    def path_to(self, node: Node) -> list[int]:
        """Tokens from below the root to `node`."""
        path: list[int] = []
        while node is not self.root:
            path.append(node.token)
            assert node.parent is not None, "a node of this tree hangs below its root"
            node = node.parent
        return path[::-1]

    def check_integrity(self, is_allowed: Callable[[Node], bool] = lambda node: True) -> None:
        """Every node is listed once, hangs below the root, and agrees with its parent."""
        listed = list(self.below(self.root))
        assert len(listed) == len(self.nodes), (len(listed), len(self.nodes))
        for node in listed:
            assert self.nodes.get(node.id) is node, node
            assert is_allowed(node), node
            for token, child in node.children.items():
                assert child.parent is node and child.token == token, (node, child)
                assert child.position == node.position + 1 and child.id == child_id(node.id, token), (node, child)
                assert child.log_reach <= node.log_reach, (node, child)

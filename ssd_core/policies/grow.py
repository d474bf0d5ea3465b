"""What a draft evaluates next: one object per preset, chosen when a session is opened."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import attrgetter
from typing import Protocol

from ssd_core.config import SpeculationConfig
from ssd_core.policies.fan_out import BestFirst, Estimates, FanOut, Geometric, Uniform
from ssd_core.tree import NOT_EVALUATED, Node, SpeculationTree, by_reach


@dataclass(frozen=True, slots=True)
class Window:
    """What a draft knows of the verification that it grows beside."""

    submitted: Sequence[Node] = ()
    """Nodes below the root that the target verifies now, parents first."""
    num_steps: int = 0
    """Growth steps since the root moved."""
    is_after_hit: bool = False
    """The root had been prepared for when it became the outcome."""


class GrowPolicy(Protocol):
    @property
    def num_children(self) -> int:
        """Children proposed below an evaluated node."""

    @property
    def min_child_reach(self) -> float:
        """Children less likely to be reached than this are not proposed, but for the first."""

    @property
    def lookup_tokens(self) -> int:
        """Tokens guessed by prompt look-up after the best chosen node and evaluated in the same step."""

    @property
    def is_sized(self) -> bool:
        """Whether fewer of the chosen may be evaluated in a step, by what they are worth against its time."""

    @property
    def learns_outcomes(self) -> bool:
        """Whether it wants `Estimates` of what becomes of submitted chains."""

    def choose(self, tree: SpeculationTree, window: Window) -> list[Node]:
        """Unevaluated nodes in falling order of worth; empty when the plan for this root is fulfilled. The root is evaluated already."""


class GrowChain:
    """`sd`: the likeliest chain of K tokens. K evaluations, the root's included."""

    min_child_reach = 0.0
    num_children = 1
    lookup_tokens = 0
    is_sized = False
    learns_outcomes = False

    def __init__(self, lookahead: int) -> None:
        self._lookahead = lookahead

    def choose(self, tree: SpeculationTree, window: Window) -> list[Node]:
        return [node for node in tree.best_chain(self._lookahead - 1) if not node.is_evaluated][:1]


class GrowBestFirst:
    """`ssd-tree`: wherever the target's choices are likeliest to pass, as deep as time allows. With `max_steps` it is `tree`: that many
    growth steps after the root's own, then the target's turn."""

    min_reach = 0.005  # what is less likely to be reached is not worth a step; up to 0.08 measures alike where steps are of few nodes
    learns_outcomes = False
    min_child_reach = 0.001  # nor, though the root may come nearer, a record

    def __init__(self, branching: int, width: int, lookup_tokens: int = 0, max_steps: int | None = None, is_sized: bool = False) -> None:
        self.num_children = branching
        self.is_sized = is_sized
        self.lookup_tokens = lookup_tokens
        self._width = width
        self._max_steps = max_steps

    def choose(self, tree: SpeculationTree, window: Window) -> list[Node]:
        if self._max_steps is not None and window.num_steps >= self._max_steps:
            return []
        least = tree.root.log_reach + math.log(self.min_reach)
        frontier = [node for node in tree.nodes.values() if node.index == NOT_EVALUATED and node.log_reach >= least]
        return sorted(frontier, key=by_reach, reverse=True)[: self._width]


class GrowFanOut:
    """`ssd` and `saguaro`: for every place where the submitted chain may end some other tokens, each followed by a chain of K."""

    min_child_reach = 0.0
    lookup_tokens = 0
    is_sized = False
    learns_outcomes = True

    def __init__(self, lookahead: int, fan_out: FanOut, width: int) -> None:
        self._lookahead = lookahead
        self._fan_out = fan_out
        self._width = width

    @property
    def num_children(self) -> int:
        return self._fan_out.num_children

    def choose(self, tree: SpeculationTree, window: Window) -> list[Node]:
        return heapq.nlargest(self._width, self._tips(tree, window), key=by_reach)

    def _tips(self, tree: SpeculationTree, window: Window) -> Iterator[Node]:
        """The next node to evaluate of the chain itself and of every guessed outcome's chain."""
        chain = [tree.root, *window.submitted]
        ends = list(takewhile(attrgetter("is_evaluated"), chain))
        followers = [*window.submitted[: len(ends)], None][: len(ends)]
        if len(ends) < len(chain):
            yield chain[len(ends)]
        for bonus in self._fan_out.bonuses(ends, followers, window.is_after_hit):
            if tip := self._tip(bonus):
                yield tip

    def _tip(self, bonus: Node) -> Node | None:
        node: Node | None = bonus
        for _ in range(self._lookahead):
            if node is None or not node.is_evaluated:
                return node
            node = node.best_child()
        return None


def build_grow_policy(speculation: SpeculationConfig, estimates: Estimates) -> GrowPolicy:
    """`estimates`: of the outcomes of sessions like this one."""
    match speculation.preset:
        case "sd":
            return GrowChain(speculation.lookahead)
        case "tree":
            return GrowBestFirst(
                speculation.branching, speculation.growth_width, speculation.lookup_tokens, max_steps=speculation.lookahead - 1
            )
        case "ssd" | "saguaro":
            return GrowFanOut(speculation.lookahead, _build_fan_out(speculation, estimates), speculation.growth_width)
        case "ssd-tree":
            is_sized = speculation.growth_choice == "by-gain"
            return GrowBestFirst(speculation.branching, speculation.growth_width, speculation.lookup_tokens, is_sized=is_sized)
        case "ar":
            raise ValueError("ar has no draft")


def _build_fan_out(speculation: SpeculationConfig, estimates: Estimates) -> FanOut:
    match speculation.fan_out_shape or ("geometric" if speculation.preset == "saguaro" else "uniform"):
        case "uniform":
            return Uniform(speculation.fan_out)
        case "geometric":
            return Geometric(speculation.fan_out, estimates)
        case "best-first":
            return BestFirst(speculation.fan_out)

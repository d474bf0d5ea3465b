"""What the target submits for verification, and whether it waits for its draft first: one object per preset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ssd_core.config import SpeculationConfig
from ssd_core.store import StoredSession
from ssd_core.tree import Node, SpeculationTree


class SubmitPolicy(Protocol):
    @property
    def uses_draft(self) -> bool: ...

    @property
    def waits(self) -> bool:
        """Whether draft and target take turns."""

    @property
    def max_nodes(self) -> int:
        """Most nodes it ever submits: what a session must reserve."""

    @property
    def is_sized(self) -> bool:
        """Whether fewer of `nodes` may be submitted, by what they are worth against T_verify(n)."""

    def is_ready(self, stored: StoredSession) -> bool:
        """Whether a round may begin with what the draft has given so far."""

    def nodes(self, tree: SpeculationTree) -> list[Node]:
        """The nodes it would submit, parents first, by falling reach where `is_sized`."""


class SubmitNothing:
    """`ar`."""

    uses_draft = False
    waits = False
    max_nodes = 0
    is_sized = False

    def is_ready(self, stored: StoredSession) -> bool:
        return True

    def nodes(self, tree: SpeculationTree) -> list[Node]:
        return []


class SubmitChain:
    """`sd` (waits until the chain is whole) and `ssd` (takes what is there)."""

    uses_draft = True
    is_sized = False

    def __init__(self, lookahead: int, waits: bool) -> None:
        self.max_nodes = lookahead
        self.waits = waits

    def is_ready(self, stored: StoredSession) -> bool:
        return not self.waits or stored.is_exhausted or len(stored.tree.best_chain(self.max_nodes)) == self.max_nodes

    def nodes(self, tree: SpeculationTree) -> list[Node]:
        return tree.best_chain(self.max_nodes)


class SubmitTree:
    """`tree` (waits until the draft has done its steps) and `ssd-tree` (takes what is there)."""

    uses_draft = True
    is_sized = True

    def __init__(self, max_nodes: int, waits: bool) -> None:
        self.max_nodes = max_nodes
        self.waits = waits

    def is_ready(self, stored: StoredSession) -> bool:
        return not self.waits or stored.is_exhausted

    def nodes(self, tree: SpeculationTree) -> list[Node]:
        return tree.best_first(self.max_nodes)


def build_submit_policy(speculation: SpeculationConfig) -> SubmitPolicy:
    match speculation.preset:
        case "ar":
            return SubmitNothing()
        case "sd":
            return SubmitChain(speculation.lookahead, waits=True)
        case "tree":
            return SubmitTree(speculation.tree_nodes, waits=True)
        case "ssd" | "saguaro":
            return SubmitChain(speculation.lookahead, waits=False)
        case "ssd-tree":
            return SubmitTree(speculation.tree_nodes, waits=False)


def policy_of(preset: str) -> SubmitPolicy:
    """Of a preset as it is when nothing else is configured."""
    return build_submit_policy(SpeculationConfig.model_validate({"preset": preset}))


def worthwhile(gains: Sequence[float], base_gain: float, seconds: Callable[[int], float]) -> int:
    """How many of the optional nodes, offered by falling `gains` (each the probability of one more token), to submit.

    Chosen to maximise expected tokens per second of the whole round: (base_gain + sum of gains) / seconds(number of them submitted).
    """
    best_count, expected = 0, base_gain
    best_rate = base_gain / seconds(0)
    for count, gain in enumerate(gains, start=1):
        expected += gain
        rate = expected / seconds(count)
        if rate > best_rate:
            best_count, best_rate = count, rate
    return best_count

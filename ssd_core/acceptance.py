"""Which of a session's submitted nodes the target accepts, and what comes after them: one object per session, chosen when it is opened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from ssd_core.config import SamplingParams, SpeculationConfig
from ssd_core.rejection import is_accepted, residual, sample
from ssd_core.sampling import TokenRule
from ssd_core.tree import Node


class Walk(NamedTuple):
    """The outcome of a round: the accepted nodes, and one token more than they are."""

    accepted: list[Node]
    tokens: list[int]


class Acceptance(Protocol):
    def walk(self, root: Node, nodes: Sequence[Node], choices: Sequence[int], logits: torch.Tensor) -> Walk:
        """`nodes` were submitted below `root`, parents first. Row 0 of the target's `logits` [1 + nodes, V] follows the root, row 1 + i
        `nodes[i]`; `choices` are the token rule's at the same rows."""


class BySharedNoise:
    """A node is accepted if it is the token that the rule chooses there: any tree, any temperature."""

    def walk(self, root: Node, nodes: Sequence[Node], choices: Sequence[int], logits: torch.Tensor) -> Walk:
        row_of = {node.id: 1 + i for i, node in enumerate(nodes)}
        node, accepted, tokens = root, list[Node](), [choices[0]]
        while (child := node.children.get(tokens[-1])) is not None and child.id in row_of:
            node = child
            accepted.append(node)
            tokens.append(choices[row_of[node.id]])
        return Walk(accepted, tokens)


class ByRejection:
    """Rejection sampling along a chain. A node counts if it is known what it was drawn from: the draft's distribution, or, for a guess by
    prompt look-up, itself alone."""

    def __init__(self, rule: TokenRule, seed: int) -> None:
        self._rule = rule
        self._seed = seed

    def walk(self, root: Node, nodes: Sequence[Node], choices: Sequence[int], logits: torch.Tensor) -> Walk:
        tokens = [node.token for node in nodes]
        positions = range(root.position + 1, root.position + 2 + len(nodes))
        p = self._rule.probabilities(logits, positions, [tokens[:i] for i in range(len(positions))])
        node, accepted = root, list[Node]()
        for i, child in enumerate(nodes):
            drawn_from = _drawn_from(child)
            if child.parent is not node or drawn_from is None:
                break
            support, q = drawn_from
            if not is_accepted(float(p[i, child.token]), q[support.index(child.token)], child.position, self._seed):
                bonus = sample(residual(p[i], support, q), self._rule.noise(child.position))
                return Walk(accepted, [*tokens[:i], bonus])
            accepted.append(child)
            node = child
        # A sample of p at the row of the last accepted node: its noise is independent of all that was drawn and accepted.
        return Walk(accepted, [*tokens[: len(accepted)], choices[len(accepted)]])


def _drawn_from(node: Node) -> tuple[Sequence[int], Sequence[float]] | None:
    """Tokens and probabilities of the distribution that gave this node."""
    draw = node.parent.draw if node.parent else None
    if draw is not None and draw.token == node.token:
        return draw.tokens, draw.probabilities
    return ((node.token,), (1.0,)) if node.is_guess else None


def uses_rejection(sampling: SamplingParams, speculation: SpeculationConfig) -> bool:
    """At temperature 0 both rules are the same: the target's choice is one token, and a draft draws its likeliest."""
    return speculation.verification == "rejection" and sampling.temperature > 0


def build_acceptance(rule: TokenRule, sampling: SamplingParams, speculation: SpeculationConfig) -> Acceptance:
    return ByRejection(rule, sampling.seed) if uses_rejection(sampling, speculation) else BySharedNoise()

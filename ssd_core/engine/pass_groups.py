"""Which parts of a pass run together: all short ones, in a few passes if need be, and each long one by itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from ssd_core.engine.runner import Work


def grouped(num_new: Sequence[int], max_nodes: int) -> list[list[int]]:
    """Every part in one group. A group of several has no more than `max_nodes` nodes."""
    together: list[list[int]] = []
    alone: list[list[int]] = []
    room = 0
    for part, new in enumerate(num_new):
        if new > max_nodes:
            alone.append([part])
        elif new <= room:
            together[-1].append(part)
            room -= new
        else:
            together.append([part])
            room = max_nodes - new
    return together + alone


def taken(work: Work, parts: Sequence[int]) -> tuple[Work, list[int]]:
    """Some parts of it, and how many rows of logits each of them wants."""
    firsts = [0, *accumulate(work.num_new)]
    ranges = [range(firsts[part], firsts[part + 1]) for part in parts]
    nodes = [node for nodes in ranges for node in nodes]
    place = {node: i for i, node in enumerate(nodes)}
    some = Work(
        sessions=[work.sessions[part] for part in parts],
        num_new=[work.num_new[part] for part in parts],
        tokens=[work.tokens[node] for node in nodes],
        positions=[work.positions[node] for node in nodes],
        kept=[place[node] for node in work.kept if node in place],
    )
    return some, [sum(node in nodes for node in work.kept) for nodes in ranges]

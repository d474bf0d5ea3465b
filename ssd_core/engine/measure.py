"""Measures how long a pass takes by its number of nodes. The planner and the submit policy stand on these numbers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import accumulate

from ssd_core.engine.base import TRUNK_END, Engine, Part
from ssd_core.types import StepTimes

FILL_TOKENS = 256
"""Trunk tokens evaluated in one pass."""
NODES_OF_ONE = 64
"""What one session submits at most, as a rule: an engine may run more of one session in other ways than as many of several."""


def measure_step_times(engine: Engine, nodes: Sequence[int], context: int, repeats: int, nodes_of_one: int = NODES_OF_ONE) -> StepTimes:
    """Seconds of the quickest of `repeats` passes over each of `nodes` nodes, made non-decreasing: of one session, or of as few as have
    no more than `nodes_of_one` each. Whatever else the machine does makes passes slower, never quicker.

    Where the engine has no room for so long trunks or so many nodes, the trunks are shorter and the largest sizes are left out.
    Gives everything back, and leaves the other sessions alone.
    """
    room, longest = engine.num_free_cells, engine.max_model_len
    passes = {size: _shares(size, nodes_of_one) for size in sorted(set(nodes))}
    sizes = [size for size, shares in passes.items() if size + len(shares) <= room and shares[0] < longest]
    assert sizes, f"no room for any of {nodes} nodes: {room} cells"
    most = passes[sizes[-1]]
    context = min(context, (room - sizes[-1]) // len(most), longest - most[0])
    names = [f"measure-step-times-{i}" for i in range(len(most))]
    try:
        for name, share in zip(names, most, strict=True):
            engine.open(name, context + share)
            fill_trunk(engine, name, context)
        for size in sizes:  # warm up: the first pass of a size may build what later ones reuse
            _time_pass(engine, names, passes[size])
        rounds = [[_time_pass(engine, names, passes[size]) for size in sizes] for _ in range(repeats)]
    finally:
        for name in names:
            engine.close(name)
    quickest = [min(seconds) for seconds in zip(*rounds, strict=True)]
    return StepTimes(nodes=tuple(sizes), seconds=tuple(accumulate(quickest, max)), context=context)


def _shares(size: int, nodes_of_one: int) -> list[int]:
    """By session, the largest first."""
    return [min(nodes_of_one, size - first) for first in range(0, size, nodes_of_one)]


def fill_trunk(engine: Engine, session_id: str, context: int) -> None:
    """Give an open session a trunk of so many tokens without meaning."""
    for first in range(0, context, FILL_TOKENS):
        size = min(FILL_TOKENS, context - first)
        engine.evaluate([Part(session_id, _tokens(engine, size), range(TRUNK_END, size - 1), logits_from=size)])
        engine.advance(session_id, range(size))


def _time_pass(engine: Engine, names: Sequence[str], shares: Sequence[int]) -> float:
    """Seconds of one pass over so many nodes of the first sessions, until its result is on the host: that waits for any device."""
    parts = [Part(name, _tokens(engine, size), _tree_parents(size)) for name, size in zip(names, shares, strict=False)]
    began = time.perf_counter()
    engine.evaluate(parts).argmax(-1).tolist()
    elapsed = time.perf_counter() - began
    for part in parts:
        engine.advance(part.session_id, ())
    return elapsed


def _tokens(engine: Engine, size: int) -> list[int]:
    return [(i * 31 + 7) % engine.vocab_size for i in range(size)]


def _tree_parents(size: int) -> list[int]:
    """A chain on which every third node is a sibling that leads nowhere."""
    parents, end = [], TRUNK_END
    for node in range(size):
        parents.append(end)
        if node % 3 != 2:
            end = node
    return parents

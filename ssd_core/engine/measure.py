"""Measures how long a pass takes by its number of nodes. The planner and the submit policy stand on these numbers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import accumulate

from ssd_core.engine.base import TRUNK_END, Engine, Part
from ssd_core.types import StepTimes

SESSION_ID = "measure-step-times"
FILL_TOKENS = 256
"""Trunk tokens evaluated in one pass."""


def measure_step_times(engine: Engine, nodes: Sequence[int], context: int, repeats: int) -> StepTimes:
    """Seconds of the quickest of `repeats` passes of one session over each of `nodes` nodes, made non-decreasing. Whatever else the machine
    does makes passes slower, never quicker.

    Where the engine has no room for so long a trunk or so many nodes, the trunk is shorter and the largest sizes are left out.
    Gives everything back, and leaves the other sessions alone.
    """
    room = min(engine.num_free_cells, engine.max_model_len)
    sizes = [size for size in sorted(set(nodes)) if size < room]
    assert sizes, f"no room for any of {nodes} nodes: {room} cells"
    context = max(1, min(context, room - sizes[-1]))
    engine.open(SESSION_ID, context + sizes[-1])
    try:
        fill_trunk(engine, SESSION_ID, context)
        for size in sizes:  # warm up: the first pass of a size may build what later ones reuse
            _time_pass(engine, size)
        rounds = [[_time_pass(engine, size) for size in sizes] for _ in range(repeats)]
    finally:
        engine.close(SESSION_ID)
    quickest = [min(seconds) for seconds in zip(*rounds, strict=True)]
    return StepTimes(nodes=tuple(sizes), seconds=tuple(accumulate(quickest, max)), context=context)


def fill_trunk(engine: Engine, session_id: str, context: int) -> None:
    """Give an open session a trunk of so many tokens without meaning."""
    for first in range(0, context, FILL_TOKENS):
        size = min(FILL_TOKENS, context - first)
        engine.evaluate([Part(session_id, _tokens(engine, size), range(TRUNK_END, size - 1), logits_from=size)])
        engine.advance(session_id, range(size))


def _time_pass(engine: Engine, size: int) -> float:
    """Seconds of one pass, until its result is on the host: that waits for any device."""
    part = Part(SESSION_ID, _tokens(engine, size), _tree_parents(size))
    began = time.perf_counter()
    engine.evaluate([part]).argmax(-1).tolist()
    elapsed = time.perf_counter() - began
    engine.advance(SESSION_ID, ())
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

"""Measures Costs on this machine, in one process: passes by themselves, then both loops for a while to see what our own work takes.

The latency of a message cannot be seen in one process: it is given.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from cluster.bench.machine import this_machine
from cluster.experiments.costs import Costs, LoopCosts
from ssd_core.config import SamplingParams, SpeculationConfig
from ssd_core.draft_loop import DraftLoop
from ssd_core.engine.base import Engine
from ssd_core.engine.measure import measure_step_times
from ssd_core.lockstep import LockstepLink
from ssd_core.loop_stats import LoopStats
from ssd_core.target_loop import TargetLoop
from ssd_core.types import GenerationRequest, StepTimes

LATENCY_S = 0.0003
"""Through the socket between two processes of a node. Measured with `deployments/link_times.py`."""
ROUND_NODES, PROMPT_NODES = (1, 2, 4, 6, 8, 12, 16, 24, 32), (64, 128, 256)
"""Measured apart: a long pass drives the weights out of the caches, and the next one pays for it."""
CONTEXT_TOKENS = 256
REPEATS = 15
NUM_SESSIONS = (1, 4, 8)
"""Passes of so many sessions say what a further one takes."""
NODES_OF_EACH = 4
MANY = 4
"""Sessions in the second run of the loops; the first has one."""


def measure_costs(target: Engine, draft: Engine, prompts: Sequence[tuple[int, ...]], max_tokens: int = 96) -> Costs:
    """A few seconds. Gives everything back."""
    target_times, draft_times = map(_pass_times, (target, draft))
    target_session_s, draft_session_s = (_per_session_s(engine, times) for engine, times in ((target, target_times), (draft, draft_times)))
    one, many = (_OwnWork.of(_run_loops(target, draft, target_times, prompts[:count], max_tokens), draft_times) for count in (1, MANY))
    further = many.num_sessions - one.num_sessions
    return Costs(
        origin=f"measured at the beginning, in one process: {this_machine()}; the latency is given",
        target=_loop_costs(target_times, target_session_s, one.round_s, (many.round_s - one.round_s) / further),
        draft=_loop_costs(draft_times, draft_session_s, one.step_s, (many.step_s - one.step_s) / further - draft_session_s),
        latency_s=LATENCY_S,
    )


def _pass_times(engine: Engine) -> StepTimes:
    short, long = (
        measure_step_times(engine, nodes, CONTEXT_TOKENS, REPEATS, nodes_of_one=nodes[-1]) for nodes in (ROUND_NODES, PROMPT_NODES)
    )
    return StepTimes(short.nodes + long.nodes, short.seconds + long.seconds, CONTEXT_TOKENS)


def _loop_costs(times: StepTimes, session_s: float, overhead_s: float, overhead_session_s: float) -> LoopCosts:
    """To microseconds. Differences of what is measured may fall below 0 by noise."""
    return LoopCosts(
        pass_nodes=times.nodes,
        pass_s=tuple(round(seconds, 6) for seconds in times.seconds),
        per_session_s=round(max(0.0, session_s), 6),
        overhead_s=round(max(0.0, overhead_s), 6),
        overhead_per_session_s=round(max(0.0, overhead_session_s), 6),
    )


def _per_session_s(engine: Engine, times: StepTimes) -> float:
    """Slope of what passes of several sessions take beyond one of as many nodes, by the sessions after the first."""
    sizes = [count * NODES_OF_EACH for count in NUM_SESSIONS]
    several = measure_step_times(engine, sizes, CONTEXT_TOKENS, REPEATS, nodes_of_one=NODES_OF_EACH)
    further = [count - 1 for count in NUM_SESSIONS]
    return statistics.linear_regression(further, [several.at(size) - times.at(size) for size in sizes]).slope


def _run_loops(target: Engine, draft: Engine, times: StepTimes, prompts: Sequence[tuple[int, ...]], max_tokens: int) -> LoopStats:
    """`ssd-tree` with all prompts at a time, target and draft in turns in this thread, to the end."""
    draft_loop = DraftLoop(draft)
    loop = TargetLoop(target, LockstepLink(draft_loop), times)
    sampling = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
    speculation = SpeculationConfig(self_tuning=False, backup="none")  # nothing waits: all steps lie between two passes
    for i, prompt in enumerate(prompts):
        loop.add(GenerationRequest(f"measure-costs-{i}", prompt, sampling, speculation), lambda emission: None)
    while not loop.is_idle:
        loop.step()
    while draft_loop.step() is not None:  # let it hear of what was closed
        pass
    return loop.stats()


class _OwnWork(NamedTuple):
    """What the loops took besides their engines' passes."""

    num_sessions: float
    """In a pass, on average."""
    round_s: float
    step_s: float
    """Of the draft; what its passes take more for further sessions is in it."""

    @classmethod
    def of(cls, stats: LoopStats, draft_times: StepTimes) -> _OwnWork:
        """In turns, the draft's steps lie between two passes of the target. Those that read prompts are few, and taken like the
        others."""
        nodes_of_step = stats.draft_nodes / stats.draft_steps
        return cls(
            num_sessions=stats.rounds / stats.passes,
            round_s=(stats.gap.total_s - stats.draft_busy_s) / sum(stats.gap.counts),
            step_s=stats.draft_busy_s / stats.draft_steps - draft_times.at(nodes_of_step),
        )

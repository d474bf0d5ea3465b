"""More and more load, until the service gives no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from cluster.loadtest.arrivals import poisson
from cluster.loadtest.requests import Outcome
from cluster.loadtest.run import OpenLoop
from cluster.loadtest.summary import Objectives, Summary, summary

KEEPS_UP = 0.9
"""Share of the offered requests that a service answers in the time in which they come, if it keeps up."""

Step = tuple[Summary, Sequence[Outcome]]


def ramp(
    run: Callable[[OpenLoop], Sequence[Outcome]],
    objectives: Objectives,
    prompts: Sequence[str],
    *,
    rate: float,
    factor: float,
    most_steps: int,
    seconds: float,
    max_tokens: int,
    seed: int,
) -> Iterator[Step]:
    """Poisson loads of `rate`, `rate * factor`, ... requests a second, each alone. The last is the first that is not kept up with."""
    for number in range(most_steps):
        arrivals = poisson(rate * factor**number, seconds, prompts, max_tokens, seed + number)
        if not arrivals:
            continue  # so low a rate that nobody came
        outcomes = run(OpenLoop(tuple(arrivals)))
        step = summary(outcomes, objectives)
        yield step, outcomes
        if step.throughput < KEEPS_UP * step.offered and step.attainment < KEEPS_UP:
            return

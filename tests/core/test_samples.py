"""No sample ruins an estimator: what is no number is left out, whichever estimator it comes to."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd_core.average import Average
from ssd_core.calibration import Corrections, EdgeCalibration, Observed, edge_probabilities, shifted
from ssd_core.draft_loop import _with_drawn_first
from ssd_core.guess_edges import START_EDGES, GuessEdges
from ssd_core.linear_fit import LinearFit
from ssd_core.lookup import Guess
from ssd_core.loop_stats import Histogram, LoopCounters, Reliability
from ssd_core.policies.backup import MissEstimates
from ssd_core.policies.fan_out import OutcomeEstimates
from ssd_core.round_cost import RoundCost
from ssd_core.samples import LARGEST, is_sample
from ssd_core.switch import Switch
from ssd_core.tree import Candidates
from ssd_core.types import GrowthReport, StepTimes

NO_SAMPLES = (math.nan, math.inf, -math.inf, 1e300, -1e300, 1e38, 2 * LARGEST)
samples = st.one_of(st.floats(0.0, 10.0), st.sampled_from((0.0, 5e-324, 1e-300, 1e-38, 1.0, LARGEST)))


class Kind(NamedTuple):
    """An estimator, how it is given a number that is to be learned, and all that is asked of it."""

    make: Callable[[], Any]
    feed: Callable[[Any, float], object]
    read: Callable[[Any], list[float]]
    wrong: tuple[float, ...] = NO_SAMPLES
    """Of these it takes none in, however given."""


def cost() -> RoundCost:
    return RoundCost(StepTimes((1, 8, 16), (0.25, 0.25, 0.375)))


def feed_misses(estimates: MissEstimates, number: float) -> None:
    estimates.observe_round(True, False, number)  # type: ignore[arg-type]
    estimates.observe_round(False, True, number)  # type: ignore[arg-type]
    estimates.observe_round(False, False, number)  # type: ignore[arg-type]
    estimates.hit_rate.add(number)
    estimates.wait_s.add(number)


def feed_outcomes(estimates: OutcomeEstimates, number: float) -> None:
    estimates.observe(number, True, 0)  # type: ignore[arg-type]
    estimates.observe(2, False, number)  # type: ignore[arg-type]


def feed_line(line: LinearFit, number: float) -> None:
    line.observe(number, 0.5)
    line.observe(3.0, number)


def feed_switch(switch: Switch, number: float) -> None:
    switch.observe(number, 0.05, 10.0)  # type: ignore[arg-type]
    switch.observe(3, number, 10.0)
    switch.observe(3, 0.05, number)


def feed_reports(counters: LoopCounters, number: float) -> None:
    counters.count_report(GrowthReport((), num_steps=1, num_nodes=1, busy_s=number))


def feed_edges(edges: EdgeCalibration, number: float) -> None:
    """First, and behind a number that is one."""
    edges.observe([Observed(Candidates((4, 5, 6), (number, min(number, 0.0), -math.inf), 0), 4)])
    edges.observe([Observed(Candidates((4, 5, 6), (2.0, number, 0.0), 3), 6)])


def read_edges(edges: EdgeCalibration) -> list[float]:
    corrections = Corrections.at([edges, edges], [0, 3])
    table = edge_probabilities(np.array([[3.0, 2.0, 1.0], [5.0, -math.inf, -math.inf]]), corrections)
    return [edges.scale, *edges._losses.tolist(), *table.flatten().tolist()]


KINDS = {
    "average": Kind(lambda: Average(0.5), Average.add, lambda average: [average.value]),
    "line": Kind(lambda: LinearFit((1.0, 0.5), slope=0.1, doubt=1.0), feed_line, lambda line: [*line.line(), line.at(5.0)]),
    "round cost": Kind(
        cost,
        lambda cost, number: (cost.observe(1, 4, number), cost.less_prompts(number, 1, 1, 1)),
        lambda cost: [cost.seconds(n, 4) for n in (1, 2)] + [cost._prompt_token_s.value],
    ),
    "guesses": Kind(
        GuessEdges,
        lambda edges, number: edges.observe(3, number),
        lambda edges: edges.along(Guess([1] * len(START_EDGES), 2)),
    ),
    "outcomes": Kind(OutcomeEstimates, feed_outcomes, lambda found: [found.acceptance, *found.miss_rates(), found.exponent]),
    "misses": Kind(
        MissEstimates,
        feed_misses,
        lambda found: [found.tokens_per_round, found.tokens_after_wait.value, found.wait_s.value],
    ),
    "switch": Kind(
        Switch,
        feed_switch,
        lambda switch: [switch.is_on, switch._hold_s, switch._turned_s, *(r.value for r in switch._rates.values())],
    ),
    "edges": Kind(EdgeCalibration, feed_edges, read_edges, tuple(n for n in NO_SAMPLES if not n < 0.0)),
    "histogram": Kind(Histogram, Histogram.add, lambda histogram: [histogram.total_s, *histogram.counts]),
    "reliability": Kind(
        Reliability,
        lambda reliability, number: reliability.add(number, True),
        lambda reliability: [*reliability.expected, *reliability.edges],
    ),
    "reports": Kind(LoopCounters, feed_reports, lambda counters: [counters.draft_busy_s, counters.draft_steps]),
}


@pytest.mark.parametrize("name", KINDS)
@given(data=st.data(), learned=st.lists(samples, max_size=40))
def test_what_is_no_sample_leaves_an_estimator_as_it_is(name: str, data: st.DataObject, learned: list[float]) -> None:
    kind = KINDS[name]
    estimator = kind.make()
    for number in learned:
        kind.feed(estimator, number)
    before = deepcopy(estimator)
    kind.feed(estimator, data.draw(st.sampled_from(kind.wrong)))
    assert kind.read(estimator) == kind.read(before)


@pytest.mark.parametrize("name", KINDS)
@given(learned=st.lists(samples, max_size=200))
def test_whatever_was_learned_is_finite(name: str, learned: list[float]) -> None:
    kind = KINDS[name]
    estimator = kind.make()
    for number in learned:
        kind.feed(estimator, number)
    assert all(map(math.isfinite, kind.read(estimator)))


def test_a_sample_is_a_number_that_can_have_been_measured() -> None:
    assert not any(map(is_sample, NO_SAMPLES))
    assert all(map(is_sample, (0, 1, True, -1.5, 5e-324, LARGEST)))


@given(
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=4),
    st.lists(st.floats(-30.0, 30.0), min_size=4, max_size=4),
)
def test_shifted_edges_are_probabilities(edges: list[float], shifts: list[float]) -> None:
    """Where all other candidates are masked an edge is 1, and rounding must not make it more."""
    for some in (edges, [1.0] * len(edges), [math.nextafter(1.0, 0.0)] * len(edges)):
        result = shifted(np.array([some]), np.array([shifts]))
        assert ((result >= 0.0) & (result <= 1.0)).all()


@given(st.floats(0.0, 1.0), st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6), st.floats(0.02, 0.98))
def test_edges_beside_a_drawn_child_are_probabilities(drawn: float, others: list[float], acceptance: float) -> None:
    """The estimates of several candidates need not sum to one."""
    edges = _with_drawn_first(dict(enumerate([drawn, *others])), 0, acceptance)
    assert all(0.0 <= edge <= 1.0 for edge in edges.values())

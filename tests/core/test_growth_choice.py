"""Growth by gain: how many nodes a step is worth, and what becomes of what was grown."""

from __future__ import annotations

import pytest

from ssd_core.engine.fake import FakeEngine
from ssd_core.linear_fit import LinearFit
from tests.core.driver import drive, requests


def learned(base_s: float, per_node_s: float) -> LinearFit:
    line = LinearFit((1.0, 0.001), slope=0.00005, doubt=1.0)
    for i in range(400):
        num_nodes = 1 + i % 12
        line.observe(num_nodes, base_s + per_node_s * num_nodes)
    return line


def test_what_a_step_costs_is_learned_from_steps() -> None:
    cost = learned(0.002, 0.0003)
    assert cost.at(1) == pytest.approx(0.0023, rel=0.1) and cost.at(32) == pytest.approx(0.0116, rel=0.1)


def test_steps_of_one_size_leave_the_slope_as_it_was_and_time_is_never_negative() -> None:
    line = LinearFit((1.0, 0.001), slope=0.00005, doubt=1.0)
    for _ in range(1000):
        line.observe(4, 0.003)
    assert line.at(4) == pytest.approx(0.003) and line.at(8) == pytest.approx(0.0032, rel=0.01)
    falling = learned(0.003, -0.0002)
    assert 0.0 < falling.at(64) == falling.at(1)


def test_growth_by_gain_evaluates_less_where_nodes_are_dear_and_changes_no_token() -> None:
    plain = drive(requests(4, "ar", temperature=0.8, max_tokens=150))

    def nodes_per_step(node_s: float) -> float:
        draft = FakeEngine(seed=3, noise=1.0, delay_s=lambda num_nodes: 0.0002 + node_s * num_nodes)
        speculation = {"growth_choice": "by-gain", "growth_width": 16, "lookup_tokens": 0}
        run = drive(requests(4, "ssd-tree", temperature=0.8, max_tokens=150, speculation=speculation), draft=draft)
        assert run.tokens == plain.tokens and run.stats.accepted > 0
        return run.stats.draft_nodes / run.stats.draft_steps

    assert nodes_per_step(0.004) < 0.8 * nodes_per_step(0.0)


def test_what_was_grown_two_outcomes_ahead_is_counted() -> None:
    """A draft that grows faster than the target takes has what follows the next outcome, too. One that takes turns never has."""
    ahead = drive(requests(2, "ssd-tree", max_tokens=200, speculation={"tree_nodes": 2}), draft=FakeEngine(seed=3)).stats
    assert 0 < ahead.deep_hits <= ahead.hits and 0 < ahead.deep_accepted <= ahead.accepted
    turns = drive(requests(2, "sd", max_tokens=200)).stats
    assert turns.deep_accepted == 0 and turns.deep_hits == 0


def test_the_reliability_of_edges_is_counted_by_what_the_target_chose() -> None:
    stats = drive(requests(4, "ssd-tree", temperature=0.8, max_tokens=200), draft=FakeEngine(seed=3, noise=0.4)).stats
    reliability = stats.reliability
    assert all(0 <= chosen <= edges for chosen, edges in zip(reliability.chosen, reliability.edges, strict=True))
    for i, (edges, expected) in enumerate(zip(reliability.edges, reliability.expected, strict=True)):
        assert i / 10 * edges - 1e-6 <= expected <= (i + 1) / 10 * edges + 1e-6
    assert sum(reliability.chosen) >= stats.accepted * 0.5
    sure, unlikely = reliability.chosen[9] / reliability.edges[9], reliability.chosen[0] / max(reliability.edges[0], 1)
    assert sure > 0.8 > 0.3 > unlikely

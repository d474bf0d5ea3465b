"""How many outcomes are prepared for, and which."""

from __future__ import annotations

import random

import pytest

from ssd_core.policies.fan_out import (
    MAX_FAN_OUT,
    BestFirst,
    Geometric,
    OutcomeEstimates,
    Uniform,
    fitted_exponent,
    geometric,
    geometric_shares,
)
from ssd_core.tree import Node, SpeculationTree


@pytest.mark.parametrize(
    ("acceptance", "expected"),
    [
        (0.8, [3.9, 3.5, 3.1, 2.8, 2.5, 2.2, 2.0, 4.0]),
        (0.9, [2.9, 2.8, 2.6, 2.5, 2.4, 2.3, 2.1, 6.4]),
    ],
)
def test_shares_of_the_worked_rows(acceptance: float, expected: list[float]) -> None:
    assert geometric_shares(7, 24, acceptance, 1.0) == pytest.approx(expected, abs=0.051)  # given to one place: 2.2499 as 2.3


def test_shares_by_hand() -> None:
    # r = 1: weights 1, sqrt(.25), and .25^(2/2) / sqrt(.75) = .28868 after full acceptance; together 1.78868.
    assert geometric_shares(2, 17.8868, 0.25, 1.0) == pytest.approx([10.0, 5.0, 2.8868], abs=1e-3)
    # No chain: everything is guessed after the root.
    assert geometric_shares(0, 5, 0.8, 1.0) == pytest.approx([5.0])


def test_whole_numbers_by_largest_remainders() -> None:
    # 3.897 3.486 3.118 2.789 2.494 2.231 1.995 3.991: the whole parts are 19, and the five largest remainders begin at .494.
    assert geometric(7, 24, 0.8, 1.0) == [4, 3, 3, 3, 3, 2, 2, 4]
    # 2.928 2.778 2.635 2.500 2.372 2.250 2.134 6.403
    assert geometric(7, 24, 0.9, 1.0) == [3, 3, 3, 3, 2, 2, 2, 6]


@pytest.mark.parametrize("lookahead", [0, 1, 4, 8])
@pytest.mark.parametrize("acceptance", [0.02, 0.5, 0.8, 0.98])
@pytest.mark.parametrize("exponent", [0.05, 1.0, 3.0])
def test_whole_numbers_spend_the_budget_and_keep_the_cap(lookahead: int, acceptance: float, exponent: float) -> None:
    room = MAX_FAN_OUT * (lookahead + 1)
    for budget in (1, lookahead + 1, 3 * (lookahead + 1), room - 1, room, room + 7):
        fan_outs = geometric(lookahead, budget, acceptance, exponent)
        assert len(fan_outs) == lookahead + 1
        assert sum(fan_outs) == min(budget, room) and min(fan_outs) >= 0 and max(fan_outs) <= MAX_FAN_OUT


def test_what_the_cap_cuts_off_goes_to_the_others() -> None:
    # At a = .98 the end of the chain would have 23.3 of 30, and the others 3.4 and 3.3.
    assert geometric_shares(2, 30, 0.98, 1.0)[-1] > MAX_FAN_OUT
    assert geometric(2, 30, 0.98, 1.0) == [10, 9, MAX_FAN_OUT]


def expected_hits(fan_outs: list[float], acceptance: float, exponent: float) -> float:
    """Under the power law: an outcome after k tokens, times how seldom F_k guesses miss its bonus."""
    lookahead = len(fan_outs) - 1
    reached = [acceptance**k * (1.0 - acceptance) for k in range(lookahead)] + [acceptance**lookahead]
    return sum(p * (1.0 - f**-exponent) for p, f in zip(reached, fan_outs, strict=True))


@pytest.mark.parametrize("acceptance", [0.3, 0.8, 0.95])
@pytest.mark.parametrize("exponent", [0.3, 1.0, 2.0])
def test_no_other_shares_of_the_budget_hit_more_often(acceptance: float, exponent: float) -> None:
    generator = random.Random(0)
    shares = geometric_shares(5, 18, acceptance, exponent)
    best = expected_hits(shares, acceptance, exponent)
    assert best > expected_hits([3.0] * 6, acceptance, exponent)
    for spread in (0.01, 0.3, 2.0):  # near the optimum, and far from it
        for _ in range(200):
            other = [share * generator.lognormvariate(0.0, spread) for share in shares]
            other = [18 * share / sum(other) for share in other]
            assert expected_hits(other, acceptance, exponent) < best


# ------------------------------------------------------------ what is learned


@pytest.mark.parametrize("acceptance", [0.4, 0.8, 0.95])
@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
def test_estimates_find_the_acceptance_and_the_exponent_of_what_they_see(acceptance: float, exponent: float) -> None:
    generator = random.Random(1)
    estimates, lookahead = OutcomeEstimates(), 5
    for _ in range(5000):
        num_accepted = next((k for k in range(lookahead) if generator.random() >= acceptance), lookahead)
        rank = int(generator.random() ** (-1.0 / exponent))  # at least F with probability F^-r
        estimates.observe(num_accepted, num_accepted < lookahead, rank)
    assert estimates.acceptance == pytest.approx(acceptance, abs=0.04)
    assert estimates.exponent == pytest.approx(exponent, rel=0.25)


def test_estimates_begin_with_what_is_usual_and_never_reach_the_ends() -> None:
    estimates = OutcomeEstimates()
    assert (estimates.acceptance, estimates.exponent) == (0.8, 1.0)
    for _ in range(19):
        estimates.observe(0, True, 0)
    assert estimates.exponent == 1.0, "a handful of rounds says nothing of rare misses"
    for _ in range(5000):
        estimates.observe(0, True, 0)
    assert estimates.acceptance == 0.02 and estimates.exponent > 0
    for _ in range(5000):
        estimates.observe(5, False, MAX_FAN_OUT)
    assert estimates.acceptance == 0.98 and estimates.exponent == pytest.approx(0.05, abs=0.05)


def test_miss_rates_count_the_bonuses_beyond_f_guesses() -> None:
    estimates = OutcomeEstimates()
    estimates.observe(2, True, 1)
    assert estimates.miss_rates()[:3] == pytest.approx([0.75, 0.25, 0.25]), "it was missed by one guess, and not by two"


def test_a_power_law_is_fitted_exactly() -> None:
    assert fitted_exponent([0.4 * f**-1.3 for f in range(1, 12)]) == pytest.approx(1.3)
    assert fitted_exponent([0.5] * 11) == 0.05, "guesses that never help still count as falling a little"


# ------------------------------------------------------------ which outcomes


def chain() -> tuple[list[Node], list[Node | None]]:
    """The root's children 1 2 3 4, of which 1 is submitted, and 5 6 7 after it: where a chain of one may end, and its followers there."""
    tree = SpeculationTree((9,))
    for token, edge in ((4, 0.1), (1, 0.5), (2, 0.21), (3, 0.19)):  # not in order of reach
        tree.add(tree.root, token, edge)
    submitted = tree.root.children[1]
    for token, edge in ((5, 0.6), (6, 0.3), (7, 0.1)):
        tree.add(submitted, token, edge)
    return [tree.root, submitted], [submitted, None]


def tokens(nodes: list[Node]) -> list[int]:
    return [node.token for node in nodes]


def test_uniform_takes_the_likeliest_at_every_place_but_not_the_follower() -> None:
    assert tokens(Uniform(1).bonuses(*chain(), True)) == [2, 5]
    assert tokens(Uniform(2).bonuses(*chain(), True)) == [2, 3, 5, 6]
    assert tokens(Uniform(9).bonuses(*chain(), True)) == [2, 3, 4, 5, 6, 7], "there are no more"


def test_best_first_takes_the_likeliest_of_all_places_but_not_the_follower() -> None:
    # Reach: 5 .30, 2 .21, 3 .19, 6 .15, 4 .10, 7 .05; the submitted 1, with .50, is not an outcome.
    assert tokens(BestFirst(1).bonuses(*chain(), True)) == [5, 2]
    assert tokens(BestFirst(2).bonuses(*chain(), True)) == [5, 2, 3, 6]
    assert tokens(BestFirst(9).bonuses(*chain(), True)) == [5, 2, 3, 6, 4, 7]


def test_geometric_shares_out_by_what_was_learned_after_hits_and_after_misses() -> None:
    after_hits, after_misses = OutcomeEstimates(), OutcomeEstimates()
    for _ in range(19):  # too few to move the exponent from 1
        after_hits.observe(99, True, 0)
        after_misses.observe(0, True, 0)
    policy = Geometric(2, {True: after_hits, False: after_misses})
    # a = .98: weights 1 and sqrt(.98 / .02) = 7, of four guesses .5 and 3.5. a = 8 / 29: weights 1 and .62, so 2.47 and 1.53.
    assert tokens(policy.bonuses(*chain(), True))[-3:] == [5, 6, 7]
    assert tokens(policy.bonuses(*chain(), False)) == [2, 3, 5, 6]

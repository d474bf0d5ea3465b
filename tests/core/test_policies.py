"""What is grown and what is submitted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ssd_core.calibration import Corrections, EdgeCalibration, Observed, edge_probabilities, softmax
from ssd_core.config import SamplingParams, SpeculationConfig
from ssd_core.guess_edges import START_EDGES, GuessEdges
from ssd_core.lookup import Guess, PromptLookup
from ssd_core.policies.fan_out import Uniform
from ssd_core.policies.grow import GrowBestFirst, GrowChain, GrowFanOut, Window
from ssd_core.policies.submit import SubmitTree, worthwhile
from ssd_core.round_cost import START_S, RoundCost
from ssd_core.sampling import TokenRule
from ssd_core.session import TargetSession
from ssd_core.tree import Candidates, SpeculationTree
from ssd_core.types import GenerationRequest, StepTimes


def evaluated_root(*children: tuple[int, float]) -> SpeculationTree:
    tree = SpeculationTree((9,))
    tree.root.index = 0
    for token, edge in children:
        tree.add(tree.root, token, edge)
    return tree


def test_a_chain_grows_one_node_at_a_time_and_stops_at_k() -> None:
    tree = evaluated_root((1, 0.9))
    policy = GrowChain(3)
    node = tree.root
    for depth in range(2):
        (node,) = policy.choose(tree, Window(num_steps=depth))
        node.index = depth + 1
        tree.add(node, 1, 0.9)
    assert policy.choose(tree, Window(num_steps=2)) == []
    assert len(tree.best_chain(9)) == 3


def test_best_first_takes_the_likeliest_places_wherever_they_are() -> None:
    tree = evaluated_root((1, 0.6), (2, 0.3))
    first = tree.root.children[1]
    first.index = 1
    tree.add(first, 3, 0.6)
    tree.add(first, 4, 0.1)
    chosen = GrowBestFirst(branching=4, width=2).choose(tree, Window())
    assert [n.token for n in chosen] == [3, 2]
    assert GrowBestFirst(branching=4, width=2, max_steps=1).choose(tree, Window(num_steps=1)) == []


def test_fan_out_guesses_f_other_tokens_at_every_place_the_chain_may_end() -> None:
    tree = evaluated_root((1, 0.7), (2, 0.2), (3, 0.1))
    submitted = tree.root.children[1]
    submitted.index = 1
    for token, edge in ((4, 0.5), (5, 0.3), (6, 0.2)):
        tree.add(submitted, token, edge)
    policy = GrowFanOut(lookahead=2, fan_out=Uniform(2), width=8)
    heads = policy.choose(tree, Window([submitted]))
    assert sorted(n.token for n in heads) == [2, 3, 4, 5], "never the submitted token itself, F of the rest at each place"
    head = next(n for n in heads if n.token == 4)
    head.index = 2
    tree.add(head, 7, 0.9)
    assert 7 in [n.token for n in policy.choose(tree, Window([submitted], 1))], "a guessed outcome goes on as a chain"
    head.children[7].index = 3
    tree.add(head.children[7], 8, 0.9)
    assert 8 not in [n.token for n in policy.choose(tree, Window([submitted], 2))], "and ends after K evaluations"


def test_fan_out_first_evaluates_the_end_of_the_chain() -> None:
    tree = evaluated_root((1, 0.7), (2, 0.2))
    chain_end = tree.root.children[1]
    assert chain_end in GrowFanOut(2, Uniform(1), 8).choose(tree, Window([chain_end]))


def test_nodes_are_submitted_while_they_are_worth_their_time() -> None:
    gains = [0.9, 0.8, 0.5, 0.2, 0.05]
    assert worthwhile(gains, 1.0, lambda n: 0.010) == 5, "free nodes are all worth it"
    assert worthwhile(gains, 1.0, lambda n: 0.010 * (1 + n)) == 0, "a node that costs as much as a pass never is"
    rates = [(1 + sum(gains[:n])) / (0.010 + 0.002 * n) for n in range(6)]
    assert worthwhile(gains, 1.0, lambda n: 0.010 + 0.002 * n) == max(range(6), key=rates.__getitem__)
    assert worthwhile([], 1.0, lambda n: 0.010) == 0


def test_of_a_round_with_prompts_only_what_they_take_beyond_the_usual_remains() -> None:
    """A draft that reads the prompts, too, and slows them by a fifth: that is counted as time, the rest is not."""
    cost = RoundCost(StepTimes((1, 11), (0.010, 0.020)))
    plain_s = cost.seconds(4, 4)
    for _ in range(200):
        usual = cost.less_prompts(plain_s + 100 * 0.0002, num_prompt_tokens=100, num_sessions=4, num_nodes=4)
    assert usual == pytest.approx(plain_s)
    slowed = cost.less_prompts(plain_s + 100 * 0.00024, num_prompt_tokens=100, num_sessions=4, num_nodes=4)
    assert slowed == pytest.approx(plain_s + 0.95 * 100 * 0.00004)
    assert cost.less_prompts(100 * 0.0002, num_prompt_tokens=100, num_sessions=0, num_nodes=0) < 0.2 * plain_s


def test_what_a_round_costs_is_learned_for_each_number_of_sessions() -> None:
    cost = RoundCost(StepTimes((1, 11), (0.010, 0.020)))
    assert cost.seconds(1, 1) == pytest.approx(0.010 + START_S) and cost.seconds(8, 11) == pytest.approx(0.020 + START_S)
    for _ in range(200):
        cost.observe(2, 6, 0.015 + 0.004)
    assert cost.seconds(2, 1) == pytest.approx(0.014, rel=1e-3) and cost.seconds(2, 11) == pytest.approx(0.024, rel=1e-3)
    assert cost.seconds(5, 1) == pytest.approx(0.014, rel=1e-3), "more sessions cost at least as much, until they have told themselves"
    assert cost.seconds(1, 1) == pytest.approx(0.010 + START_S), "one session costs no more for it"


def test_step_times_between_and_beyond_the_measured_sizes() -> None:
    times = StepTimes((2, 4, 8), (1.0, 2.0, 3.0))
    assert [times.at(n) for n in (1, 2, 3, 6, 8, 16)] == pytest.approx([1.0, 1.0, 1.5, 2.5, 3.0, 6.0])


def test_prompt_look_up_asks_the_sequence_first_and_opinions_after() -> None:
    lookup = PromptLookup((1, 2, 3, 4, 9, 1, 2))
    assert lookup.guess((), 3) == Guess([3, 4, 9], match_length=2), "what followed 1 2 the last time, and so on"
    assert lookup.guess((7,), 3).tokens == []
    lookup.remember((2, 7), 8)
    lookup.remember((1, 2), 5)
    assert lookup.guess((7,), 3) == Guess([8], match_length=2), "silent sequence: an opinion"
    assert lookup.guess((), 1).tokens == [3], "the sequence itself comes first"
    lookup.remember((7, 8), 3)
    lookup.remember((8, 3), 4)
    assert lookup.guess((7,), 5).tokens == [8, 3, 4, 9, 1], "opinions lead back to where the sequence speaks"
    assert lookup.guess((7, 1, 2), 3).tokens == [7, 1, 2], "a path is as good as committed: 1 2 was last followed by 7"


def test_prompt_look_up_prefers_the_longest_match_to_the_newest() -> None:
    lookup = PromptLookup((1, 2, 3, 4, 5, 8, 3, 4, 6, 1, 2, 3, 4))
    assert lookup.guess((), 2) == Guess([5, 8], match_length=4)
    assert lookup.guess((7, 3, 4), 1) == Guess([6], match_length=2), "of equal matches the newest"
    assert lookup.guess((7, 8), 2).tokens == [], "one token that agrees is too little"


def test_a_session_learns_what_its_guesses_are_worth() -> None:
    submit = SubmitTree(max_nodes=6, waits=False)
    request = GenerationRequest("a", (1, 2, 3, 1, 2), SamplingParams(), SpeculationConfig(backup_tokens=3))
    session = TargetSession(request, lambda emission: None, TokenRule(request.sampling, request.prompt, 5, 16, ()), submit, (), None, 0.0)
    reaches = []
    for _ in range(60):
        tree = SpeculationTree(request.prompt)
        session.guess(tree)
        (guess,) = tree.root.children.values()
        assert guess.token == 3 and guess.is_guess and guess.match_length == 2
        reaches.append(tree.reach(guess))
        session.learn_guess(tree.root, chosen=4)
    assert reaches[0] == pytest.approx(START_EDGES[0]) and reaches[-1] < 0.1, "always wrong: worth nothing"
    (after,) = guess.children.values()
    assert after.match_length == 3 and tree.reach(after) / tree.reach(guess) == pytest.approx(START_EDGES[1]), "not the longer matches"
    chain = SpeculationTree(request.prompt)
    session.guess(chain)
    session.guess(chain)
    assert len(chain) == 1 + 3, "never more guesses than backup_tokens stand at once"


def test_guesses_after_longer_matches_are_learned_apart() -> None:
    edges = GuessEdges()
    assert edges.along(Guess([7] * 4, match_length=2)) == list(START_EDGES[:4])
    assert edges.along(Guess([7, 7], match_length=8)) == [START_EDGES[3], START_EDGES[4]]
    assert edges.along(Guess([7, 7], match_length=32)) == [START_EDGES[5], START_EDGES[6]]
    assert edges.along(Guess([7], match_length=5000)) == [START_EDGES[-1]]
    for i in range(400):
        edges.observe(2, is_right=i % 4 == 0)
        edges.observe(6, is_right=True)
    learned = edges.along(Guess([7] * 7, match_length=2))
    assert learned[0] == pytest.approx(0.25, abs=0.05) and learned[3] == learned[6] == pytest.approx(1.0)
    assert learned[1:3] == list(START_EDGES[1:3]), "of which nothing was said"


def test_calibration_finds_the_scale_of_the_drafts_errors() -> None:
    import random

    generator = random.Random(0)
    gumbel = lambda: -math.log(-math.log(generator.random()))  # noqa: E731
    for true_scale in (0.5, 2.0):
        calibration = EdgeCalibration()
        assert calibration.scale == 1.0
        for _ in range(1500):
            scores = sorted((2.0 * gumbel() for _ in range(8)), reverse=True)
            noisy = [score + true_scale * gumbel() for score in scores]
            calibration.observe([Observed(Candidates(tuple(range(8)), tuple(scores), depth=0), noisy.index(max(noisy)))])
        assert true_scale / 1.6 <= calibration.scale <= true_scale * 1.6


def test_calibration_corrects_what_a_scale_cannot() -> None:
    """At the root the target follows the second candidate as often as the first, deeper only the first: no scale says both."""
    import random

    generator = random.Random(1)
    calibration, scores = EdgeCalibration(), (2.0, 1.0, 0.0, -1.0, -2.0)
    for _ in range(1500):
        calibration.observe([Observed(Candidates(tuple(range(5)), scores, depth=0), generator.choice((0, 1)))])
        calibration.observe([Observed(Candidates(tuple(range(5)), scores, depth=2), 0 if generator.random() < 0.9 else 4)])
    root, deep = edge_probabilities(np.array([scores, scores]), Corrections.at([calibration] * 2, [0, 2]))
    assert root[:2] == pytest.approx([0.5, 0.5], abs=0.08) and deep[:2] == pytest.approx([0.9, 0.0], abs=0.08)


def test_edge_probabilities_bear_masked_candidates() -> None:
    assert not np.isnan(edge_probabilities(np.array([[1.0, float("-inf")]]), Corrections.at([EdgeCalibration()], [0]))).any()
    assert softmax(np.array([1.0, 0.0, float("-inf")]), 1.0) == pytest.approx([0.7310586, 0.2689414, 0.0])

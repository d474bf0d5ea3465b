"""Rejection sampling gives exactly the target's distribution: every branch of small sessions is played, by the real functions.

The second half breaks one thing at a time, in ways in which others did, and shows that the same enumeration objects.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product, takewhile

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

import ssd_core.acceptance
import ssd_core.rejection
from ssd_core.acceptance import ByRejection, BySharedNoise, Walk
from ssd_core.config import SamplingParams, SpeculationConfig
from ssd_core.draft_loop import DraftLoop
from ssd_core.engine.fake import FakeEngine
from ssd_core.lockstep import LockstepLink
from ssd_core.noise import ACCEPT, DRAW, gumbel, uniform
from ssd_core.policies.fan_out import BestFirst, Geometric, OutcomeEstimates, Uniform
from ssd_core.rejection import sample
from ssd_core.sampling import Rows, TokenRule, choices, scores
from ssd_core.tree import Node, SpeculationTree
from ssd_core.types import Draw, GenerationRequest
from tests.core.driver import drive
from tests.core.enumeration import (
    SEED,
    Backup,
    Distribution,
    Draft,
    Game,
    Key,
    Oracle,
    RuleChoices,
    Script,
    Toy,
    branches,
    drawn,
    loops_played_by,
    total_variation,
)

EXACT = 1e-9
BROKEN = 1e-3
"""Total variation that tells a broken rule."""


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def sampling(max_tokens: int = 3, **fields: object) -> SamplingParams:
    return SamplingParams(**{"temperature": 1.0, "max_tokens": max_tokens, **fields})


# ------------------------------------------------------------ exact


@dataclass(frozen=True)
class Only:
    """Fan-out that prepares for one token, wherever the chain ends: misses come early enough for a backup to follow."""

    token: int
    num_children = 1

    def bonuses(self, ends: Sequence[Node], followers: Sequence[Node | None], is_after_hit: bool) -> list[Node]:
        return [end.children[self.token] for end in ends if self.token in end.children]


class DrawsElsewhere(Draft):
    """Draws from what it has thought of another token's followers. `is_honest`: and says so."""

    def __init__(self, is_honest: bool) -> None:
        super().__init__()
        self.is_honest = is_honest

    def draw(self, oracle: Oracle, game: Game, node: Node, tokens: Sequence[int], scores: Sequence[float]) -> Draw:
        other = game.toy.draft([(node.token + 1) % game.toy.vocab_size])[list(tokens)]
        draw = drawn(oracle, node.id, tokens, other.softmax(-1).numpy())
        return draw if self.is_honest else replace(draw, probabilities=tuple(torch.tensor(scores, dtype=torch.double).softmax(-1).tolist()))


def while_the_draft_is_sure(tree: SpeculationTree, limit: int) -> list[Node]:
    """Cuts a chain by the distributions, not by what was drawn from them."""
    return list(takewhile(lambda node: max(node.parent.draw.probabilities) > 0.5, tree.best_chain(limit)))


ESTIMATES = {True: OutcomeEstimates(), False: OutcomeEstimates()}
PENALTIES = {"repetition_penalty": 1.7, "presence_penalty": 0.5, "frequency_penalty": 0.75}
GAMES = {
    "a chain of three": Game(sampling(4), lookahead=3),
    "four tokens": Game(sampling(), Toy(4)),
    "one token, no chain": Game(sampling(1)),
    "always hits": Game(sampling(4), fan_out=Uniform(3)),
    "sparse q": Game(sampling(4), draft=Draft(num_candidates=2)),
    "sparse q of four tokens": Game(sampling(), Toy(4), Draft(num_candidates=2)),
    "one candidate": Game(sampling(), draft=Draft(num_candidates=1)),
    **{f"saguaro, C = {c}, F = {f}": Game(sampling(), draft=Draft(num_scaled=f, scale=c)) for c in (0.0, 0.3, 1.0) for f in (1, 2, 3)},
    "saguaro, sparse q": Game(sampling(), Toy(4), Draft(num_candidates=3, num_scaled=2, scale=0.2)),
    "nothing after a miss": Game(sampling(4), fan_out=Only(0)),
    "guesses after a miss": Game(sampling(4), fan_out=Only(0), backup=Backup(num_guesses=2)),
    "a wait after a miss": Game(sampling(4), fan_out=Only(0), backup=Backup(num_levels=1), lookahead=3),
    "guesses beyond a wait": Game(sampling(4), fan_out=Only(0), backup=Backup(num_levels=1, num_guesses=1)),
    "guesses beyond a wait, saguaro": Game(sampling(4), Toy(4), Draft(3, 1, 0.3), fan_out=Only(0), backup=Backup(1, 1)),
    "best-first fan-out": Game(sampling(), Toy(seed=3), fan_out=BestFirst(1)),
    "geometric fan-out": Game(sampling(4), fan_out=Geometric(1, ESTIMATES)),
    "temperature": Game(sampling(temperature=0.6)),
    "top_p": Game(sampling(top_p=0.8)),
    "top_k": Game(sampling(4, top_k=2)),
    "penalties": Game(sampling(4, **PENALTIES)),
    "everything": Game(
        sampling(4, temperature=0.8, top_p=0.9, **PENALTIES), Toy(seed=6), Draft(2, 1, 0.4), 3, Backup(num_guesses=2), BestFirst(1)
    ),
    "drawn from another path's distribution": Game(sampling(), draft=DrawsElsewhere(is_honest=True)),
    "cut without looking at what was drawn": Game(sampling(4), submitted=while_the_draft_is_sure),
    "shared noise, chains": Game(sampling(4), verifier=lambda rule, seed: BySharedNoise()),
    "shared noise, trees": Game(
        sampling(4), lookahead=3, submitted=SpeculationTree.best_first, verifier=lambda rule, seed: BySharedNoise()
    ),
}


@pytest.mark.parametrize("game", GAMES.values(), ids=GAMES.keys())
def test_the_output_has_the_distribution_of_plain_decoding(game: Game) -> None:
    output = game.distribution()
    assert sum(output.values()) == pytest.approx(1.0, abs=EXACT)
    assert total_variation(output, game.plain()) < EXACT


def test_the_games_hit_and_miss_accept_and_reject() -> None:
    """The table above would prove little if all of its rounds were alike."""
    seen = defaultdict(set)

    class Watched(ByRejection):
        def walk(self, root: Node, nodes: Sequence[Node], choices: Sequence[int], logits: torch.Tensor) -> Walk:
            walk = super().walk(root, nodes, choices, logits)
            seen["num_nodes"].add(len(nodes))
            seen["num_accepted"].add(len(walk.accepted))
            seen["is_guess"].update(node.is_guess for node in nodes)
            seen["is_rejected"].add(len(walk.accepted) < len(nodes))
            return walk

    replace(GAMES["guesses beyond a wait"], verifier=Watched).distribution()
    assert seen == {"num_nodes": {0, 1, 2}, "num_accepted": {0, 1, 2}, "is_guess": {False, True}, "is_rejected": {False, True}}


@pytest.mark.parametrize(
    ("preset", "speculation"),
    [("sd", {}), ("saguaro", {"saguaro_c": 0.3}), ("saguaro", {"fan_out_shape": "best-first"})],
    ids=str,
)
def test_the_output_of_both_loops_has_the_distribution_of_plain_decoding(preset: str, speculation: dict) -> None:
    config = SpeculationConfig(preset=preset, verification="rejection", lookahead=2, fan_out=1, growth_width=1, **speculation)
    request = GenerationRequest("a", (0, 1, 2), sampling(temperature=1.5, ignore_eos=True, stop_token_ids=(1,)), config)

    def make_link(draft: DraftLoop) -> LockstepLink:
        return LockstepLink(draft, steps_per_window=2)  # too few to prepare for all: some rounds miss

    def run(oracle: Oracle) -> tuple[int, ...]:
        with loops_played_by(oracle):
            engines = FakeEngine(3, seed=1, num_cells=64), FakeEngine(3, seed=1, noise=1.0, num_cells=64)
            return tuple(drive([request], make_link=make_link, target=engines[0], draft=engines[1]).tokens["a"])

    output: Distribution = defaultdict(float)
    for mass, tokens in branches(run, Script(), {}):
        output[tokens] += mass
    assert total_variation(output, plain_until_stop(request)) < 1e-6, "logits are float32 there"


def plain_until_stop(request: GenerationRequest) -> Distribution:
    target = FakeEngine(3, seed=1)
    running, ended = {(): 1.0}, {}
    for _ in range(request.sampling.max_tokens):
        grown = {}
        for sequence, probability in running.items():
            weights = np.exp(target.logits_after((*request.prompt, *sequence)) / request.sampling.temperature)
            for token, share in enumerate(weights / weights.sum()):
                (ended if token in request.sampling.stop_token_ids else grown)[*sequence, token] = probability * float(share)
        running = grown
    return {**running, **ended}


# ------------------------------------------------------------ what the oracle stands for


def test_a_sample_follows_its_weights() -> None:
    """By the real Gumbel noise, whose place the oracle takes."""
    weights = torch.tensor([0.5, 0.0, 0.3, 0.15, 0.05, 0.2])  # not normalised, as a residual
    noise = gumbel(7, range(20_000), len(weights), torch.device("cpu"))
    counts = np.bincount([sample(weights, row) for row in noise], minlength=len(weights))
    possible = weights > 0
    assert counts[1] == 0
    assert chisquare(counts[possible], (weights / weights.sum() * len(noise))[possible].double().numpy(), sum_check=False).pvalue > 1e-3


def test_draws_and_acceptances_have_uniform_noise_of_their_own() -> None:
    """By the real numbers, in pairs: of one place and two streams, and of two places."""
    places = range(2**63, 2**63 + 6400)  # as large as nodes' ids are
    drawing = np.array([uniform(3, place, DRAW) for place in places])
    accepting = np.array([uniform(3, place, ACCEPT) for place in places])
    for one, other in ((drawing, accepting), (drawing[:-1], drawing[1:])):
        cells = np.bincount((one * 8).astype(int) * 8 + (other * 8).astype(int), minlength=64)
        assert chisquare(cells).pvalue > 1e-3


def test_the_oracle_sees_that_a_number_is_used_twice() -> None:
    def run(oracle: Oracle) -> tuple[bool, bool]:
        first, second = (
            oracle.decide(lambda threshold=threshold: ssd_core.rejection.uniform(SEED, 1, DRAW) < threshold, (threshold,))
            for threshold in (0.5, 0.25)
        )
        return first, second

    found = {result: mass for mass, result in branches(run, Script(), {})}
    assert found == pytest.approx({(True, True): 0.25, (True, False): 0.25, (False, False): 0.5})
    with pytest.raises(AssertionError, match="would decide twice"):
        next(branches(lambda oracle: [oracle.token_at(torch.ones(2), position=4) for _ in range(2)], Script(), {}))


# ------------------------------------------------------------ shared noise


class OnGrid(TokenRule):
    """Noise of which each position has one row [V] of `rows`."""

    rows: dict[int, torch.Tensor]

    def noise(self, position: int) -> torch.Tensor:
        return self.rows[position]


def rule_choices(rows: dict[int, torch.Tensor], committed: Sequence[int], paths: Sequence[Sequence[int]]) -> list[int]:
    toy = Toy()
    rule = OnGrid(sampling(), committed, len(toy.prompt), toy.vocab_size, ())
    rule.rows = rows
    logits = torch.stack([toy.target([*committed, *path]) for path in paths])
    return choices(scores([Rows(rule, [len(committed) + len(path) for path in paths], paths)], logits))[0]


def tree_that_knows_the_noise(rows: dict[int, torch.Tensor], committed: Sequence[int], depth: int) -> SpeculationTree:
    """Two children everywhere, the likeliest by the draft's own scores with the target's noise."""
    tree = SpeculationTree(committed)
    for _ in range(depth):
        for leaf in [node for node in tree.nodes.values() if not node.children]:
            for token in (Toy().draft([leaf.token]) + rows[leaf.position + 1]).topk(2).indices.tolist():
                tree.add(leaf, token, 0.5)
    return tree


def test_tokens_accepted_are_the_rules_tokens_even_if_the_draft_knows_the_noise() -> None:
    """Each position's noise is one of four rows, in all 64 combinations."""
    grid = -(-torch.tensor([[0.2, 0.5, 0.8], [0.8, 0.2, 0.5], [0.5, 0.8, 0.2], [0.5, 0.5, 0.5]], dtype=torch.double).log()).log()
    prompt, num_accepted = Toy().prompt, 0
    for chosen in product(grid, repeat=3):
        rows = dict(enumerate(chosen, start=len(prompt)))
        plain, tokens = list(prompt), list(prompt)
        for _ in rows:
            plain += rule_choices(rows, plain, [()])
        while len(tokens) < len(plain):
            tree = tree_that_knows_the_noise(rows, tokens, len(plain) - len(tokens) - 1)
            nodes = tree.best_first(len(tree))
            chosen_there = rule_choices(rows, tokens, [tree.path_to(node) for node in (tree.root, *nodes)])
            walk = BySharedNoise().walk(tree.root, nodes, chosen_there, torch.empty(0))
            tokens += walk.tokens
            num_accepted += len(walk.accepted)
        assert tokens == plain
    assert num_accepted > len(grid) ** 3 / 2


# ------------------------------------------------------------ broken: one position

P, Q = torch.tensor([0.5, 0.3, 0.2], dtype=torch.double), np.array([0.6, 0.3, 0.1])
Verify = Callable[[Oracle, Node, Node], int]


def emitted(verify: Verify) -> list[float]:
    """Distribution of the first token, where the draft drew from Q and the target has P."""
    output = [0.0] * len(P)

    def run(oracle: Oracle) -> int:
        tree = SpeculationTree((0,))
        tree.root.draw = drawn(oracle, tree.root.id, (0, 1, 2), Q)
        child = tree.add(tree.root, tree.root.draw.token, 1.0)
        assert child is not None
        return verify(oracle, tree.root, child)

    for mass, token in branches(run, Script(), {}):
        output[token] += mass
    return output


def by_the_code(oracle: Oracle, root: Node, child: Node) -> int:
    rule = TokenRule(sampling(), (0,), 1, len(P), ())
    logits = P.log().repeat(2, 1)
    chosen = RuleChoices(oracle, rule, [1, 2], [(), (child.token,)], logits)
    return ByRejection(rule, SEED).walk(root, [child], chosen, logits).tokens[0]


def test_the_worked_example_gives_back_p() -> None:
    assert emitted(by_the_code) == pytest.approx([0.5, 0.3, 0.2], abs=1e-12)


def test_a_bonus_from_p_gives_another_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine in ten are accepted, as min(p, q); the tenth part should all be token 2, and is shared out by p."""
    monkeypatch.setattr(ssd_core.acceptance, "residual", lambda p, tokens, q: p)
    assert emitted(by_the_code) == pytest.approx([0.55, 0.33, 0.12], abs=1e-12)


def test_accepting_what_equals_the_argmax_gives_another_distribution() -> None:
    """Six in ten draws are the target's likeliest token and stand; the others are replaced by samples of p."""

    def by_argmax(oracle: Oracle, root: Node, child: Node) -> int:
        return child.token if child.token == int(P.argmax()) else oracle.token_at(P, child.position)

    assert emitted(by_argmax) == pytest.approx([0.80, 0.12, 0.08], abs=1e-12)


# ------------------------------------------------------------ broken: sessions


class ReportsBefore(Draft):
    """Draws after temperature and top_p, and reports what q was before."""

    def draw(self, oracle: Oracle, game: Game, node: Node, tokens: Sequence[int], scores: Sequence[float]) -> Draw:
        draw = super().draw(oracle, game, node, tokens, scores)
        before = game.toy.draft([node.token]).softmax(-1)
        return replace(draw, tokens=tuple(range(len(before))), probabilities=tuple(before.tolist()))


class WithoutTopP(TokenRule):
    """Verification that leaves out what plain decoding does."""

    def __init__(self, sampling: SamplingParams, *session: object) -> None:
        super().__init__(sampling.model_copy(update={"top_p": 1.0}), *session)


class WithoutPath(TokenRule):
    """Verification whose penalties count what is committed, and not what is speculated before a row."""

    def probabilities(self, logits: torch.Tensor, positions: Sequence[int], paths: Sequence[Sequence[int]]) -> torch.Tensor:
        return super().probabilities(logits, positions, [()] * len(paths))


class GuessesByArgmax(ByRejection):
    """A guess that equals the likeliest token stands; otherwise the target samples."""

    def walk(self, root: Node, nodes: Sequence[Node], choices: Sequence[int], logits: torch.Tensor) -> Walk:
        if not nodes or not nodes[0].is_guess:
            return super().walk(root, nodes, choices, logits)
        is_right = nodes[0].token == int(logits[0].argmax())
        return Walk([nodes[0]], [nodes[0].token, choices[1]]) if is_right else Walk([], [choices[0]])


def while_it_was_likely(tree: SpeculationTree, limit: int) -> list[Node]:
    """Drops a drawn token, and what follows it, because its own probability was small."""
    return list(
        takewhile(lambda node: node.parent.draw.probabilities[node.parent.draw.tokens.index(node.token)] > 0.3, tree.best_chain(limit))
    )


def one_number_for_draw_and_acceptance(stream: int, place: int, position: int) -> Key:
    return ACCEPT, position


def one_number_for_a_rounds_acceptances(stream: int, place: int, position: int) -> Key:
    """Place -1 is neither a position nor a node to come: every round has a fresh one."""
    return (ACCEPT, -1) if stream == ACCEPT else (stream, place)


def one_number_for_a_positions_draws(stream: int, place: int, position: int) -> Key:
    return stream, position


BROKEN_GAMES = {
    "q from before the temperature": Game(sampling(temperature=0.5), draft=ReportsBefore()),
    "q from before top_p": Game(sampling(top_p=0.7), draft=ReportsBefore()),
    "one number for draw and acceptance": Game(sampling(), key=one_number_for_draw_and_acceptance),
    "one number for the acceptances of a round": Game(sampling(), key=one_number_for_a_rounds_acceptances),
    "top_p in plain decoding alone": Game(sampling(top_p=0.7), verifying_rule=WithoutTopP),
    "penalties without the speculated prefix": Game(sampling(**PENALTIES), verifying_rule=WithoutPath),
    "a row drawn for one outcome and reported for another": Game(sampling(), draft=DrawsElsewhere(is_honest=False)),
    "guesses that equal the argmax": Game(
        sampling(4), Toy(seed=4), fan_out=Only(0), backup=Backup(num_guesses=1), verifier=GuessesByArgmax
    ),
    "cut by the token that was drawn": Game(sampling(), submitted=while_it_was_likely),
    # Which outcomes are prepared for hangs on what was drawn along the chain, and with it on what would be drawn after them.
    "one number for the draws of a position": Game(sampling(), Toy(seed=3), fan_out=BestFirst(1), key=one_number_for_a_positions_draws),
}


@pytest.mark.parametrize("game", BROKEN_GAMES.values(), ids=BROKEN_GAMES.keys())
def test_the_enumeration_objects_to(game: Game) -> None:
    output = game.distribution()
    assert sum(output.values()) == pytest.approx(1.0, abs=EXACT)
    assert total_variation(output, game.plain()) > BROKEN


def test_the_enumeration_objects_to_a_bonus_from_p(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssd_core.acceptance, "residual", lambda p, tokens, q: p)
    assert Game(sampling()).deviation() > BROKEN


def test_the_enumeration_objects_to_a_bonus_by_the_number_that_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is rejected has a high number: the residual's last tokens come too often."""

    def by_the_same_number(weights: torch.Tensor, position: int) -> int:
        shares = np.cumsum(weights.numpy()) / float(weights.sum())
        return min(int(np.searchsorted(shares, ssd_core.rejection.uniform(SEED, position, ACCEPT), side="right")), len(shares) - 1)

    monkeypatch.setattr(ssd_core.acceptance, "sample", by_the_same_number)
    assert Game(sampling()).deviation() > BROKEN

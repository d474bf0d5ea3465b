"""Exact enumeration: runs code that decides at random through every branch, each with its probability.

The oracle stands for the noise. Of a uniform number an interval is known, (0, 1) at first: a decision that asks for it is a step function,
whose steps are found by bisection of the real function, and the branch taken narrows the interval. A number that is used for two decisions
correlates them here as it does there. Gumbel noise is replaced by what it is for (the Gumbel-max theorem): a token with probability in
proportion to its weight; two decisions at one position may not have it.

The game on top of it is a session: rounds of the real tree, draws and walk, over toy models. Rounds that begin alike are played once.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import ssd_core.acceptance
import ssd_core.draft_loop
import ssd_core.rejection
import ssd_core.target_loop
from ssd_core.acceptance import Acceptance, ByRejection
from ssd_core.config import SamplingParams
from ssd_core.draft_loop import _with_drawn_first
from ssd_core.lookup import PromptLookup
from ssd_core.policies.fan_out import FanOut, Uniform
from ssd_core.rejection import draft_distribution
from ssd_core.sampling import Rows, TokenRule
from ssd_core.tree import Node, SpeculationTree
from ssd_core.types import Draw, NodeId

T = TypeVar("T")
Interval = tuple[float, float]
Key = tuple[int, int]
"""Stream and place of a uniform number."""
KeyRule = Callable[[int, int, int], Key]
"""Which number decides, given a decision's stream, place and position."""
Distribution = dict[tuple[int, ...], float]

SEED = 0
RESOLUTION = 1e-14
"""Relative width to which a step's end is found."""
NEGLIGIBLE = 1e-12
"""Branches below it are bisection's rounding."""


# ------------------------------------------------------------ the oracle


@dataclass
class Script:
    """Which branch to take at each decision. Shared by the runs of one enumeration, as are the steps found by bisection."""

    branches: list[int] = field(default_factory=list)
    step_ends: dict[tuple, list[float]] = field(default_factory=dict)


class Oracle:
    """All noise of one run."""

    def __init__(self, script: Script, intervals: dict[Key, Interval], key: KeyRule) -> None:
        self.intervals = dict(intervals)
        self.position_after: dict[NodeId, int] = {}
        """Position that is drawn below a node."""
        self.mass = 1.0
        self._script = script
        self._key = key
        self._num_decisions = 0
        self._num_alternatives: list[int] = []
        self._used_positions: set[int] = set()
        self._fraction = 0.5
        self._asked: Key | None = None

    def choose(self, masses: Sequence[float]) -> int:
        """An index with probability in proportion to `masses`."""
        possible = [i for i, mass in enumerate(masses) if mass > NEGLIGIBLE * sum(masses)]
        if self._num_decisions == len(self._script.branches):
            self._script.branches.append(0)
        index = possible[self._script.branches[self._num_decisions]]
        self._num_decisions += 1
        self._num_alternatives.append(len(possible))
        self.mass *= masses[index] / sum(masses)
        return index

    def token_at(self, weights: torch.Tensor, position: int) -> int:
        """What a position's Gumbel noise decides."""
        assert position not in self._used_positions, f"the noise of position {position} would decide twice"
        self._used_positions.add(position)
        return self.choose(weights.tolist())

    def uniform(self, seed: int, place: int, stream: int) -> float:
        self._asked = self._key(stream, place, self.position_after.get(place, place))
        low, high = self.intervals.get(self._asked, (0.0, 1.0))
        return low + self._fraction * (high - low)

    def decide(self, decision: Callable[[], T], arguments: tuple) -> T:
        """The result of `decision`, a step function of the one uniform number for which it asks. `arguments`: what else it depends on."""
        self._asked = None
        decision()
        key = self._asked
        assert key is not None, "a decision without noise"
        low, high = self.intervals.get(key, (0.0, 1.0))

        def at(fraction: float) -> T:
            self._fraction = fraction
            return decision()

        known = (*arguments, low, high)
        if known not in self._script.step_ends:
            self._script.step_ends[known] = [0.0, *_step_ends(at, RESOLUTION, 1.0 - RESOLUTION), 1.0]
        ends = self._script.step_ends[known]
        i = self.choose(np.diff(ends).tolist())
        self.intervals[key] = (low + ends[i] * (high - low), low + ends[i + 1] * (high - low))
        return at(0.5)

    def next_script(self) -> bool:
        """Go to the first branch of the last decision that has one left. False: all have been taken."""
        branches = self._script.branches
        while branches and branches[-1] + 1 == self._num_alternatives[len(branches) - 1]:
            branches.pop()
        if branches:
            branches[-1] += 1
        return bool(branches)


def _step_ends(at: Callable[[float], object], low: float, high: float) -> list[float]:
    """Where a monotone step function changes between `low` and `high`."""

    def between(low: float, high: float, at_low: object, at_high: object) -> list[float]:
        if at_low == at_high:
            return []
        if high - low < RESOLUTION:
            return [high]
        middle = (low + high) / 2
        at_middle = at(middle)
        return between(low, middle, at_low, at_middle) + between(middle, high, at_middle, at_high)

    return between(low, high, at(low), at(high))


def own_number(stream: int, place: int, position: int) -> Key:
    return stream, place


def branches(
    run: Callable[[Oracle], T], script: Script, intervals: dict[Key, Interval], key: KeyRule = own_number
) -> Iterator[tuple[float, T]]:
    """Every way in which `run` can go: probability and result."""
    script.branches.clear()
    with real_functions() as played_by:
        is_left = True
        while is_left:
            oracle = Oracle(script, intervals, key)
            played_by(oracle)
            result = run(oracle)
            yield oracle.mass, result
            is_left = oracle.next_script()


@contextmanager
def real_functions() -> Iterator[Callable[[Oracle], None]]:
    """The real functions, with the noise of the oracle that is named last."""
    now: deque[Oracle] = deque(maxlen=1)
    is_accepted, sample = ssd_core.acceptance.is_accepted, ssd_core.acceptance.sample

    def decided(p: float, q: float, position: int, seed: int) -> bool:
        return now[-1].decide(lambda: is_accepted(p, q, position, seed), (p, q))

    def sampled(weights: torch.Tensor, position: int) -> int:
        if sample is ssd_core.rejection.sample:
            return now[-1].token_at(weights, position)
        return now[-1].decide(lambda: sample(weights, position), tuple(weights.tolist()))  # a broken one, by a uniform

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssd_core.rejection, "uniform", lambda seed, place, stream: now[-1].uniform(seed, place, stream))
        patch.setattr(ssd_core.acceptance, "is_accepted", decided)
        patch.setattr(ssd_core.acceptance, "sample", sampled)
        patch.setattr(TokenRule, "noise", lambda rule, position: position)
        yield now.append


class RuleChoices(Sequence[int]):
    """The token rule's choice at each row, made when it is looked at: most rows never are."""

    def __init__(
        self, oracle: Oracle, rule: TokenRule, positions: Sequence[int], paths: Sequence[Sequence[int]], logits: torch.Tensor
    ) -> None:
        self._oracle = oracle
        self._positions = positions
        self._probabilities = rule.probabilities(logits, positions, paths)

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, row: int) -> int:
        return self._oracle.token_at(self._probabilities[row], self._positions[row])


def drawn(oracle: Oracle, parent: NodeId, tokens: Sequence[int], q: NDArray[np.float64]) -> Draw:
    """By the real function."""
    return oracle.decide(lambda: ssd_core.rejection.draw(parent, tokens, q, SEED), (tuple(tokens), q.tobytes()))


# ------------------------------------------------------------ the loops


@contextmanager
def loops_played_by(oracle: Oracle) -> Iterator[None]:
    """Draft and target loop of one session, with this oracle's noise."""

    def chosen(scored: tuple[Sequence[Rows], torch.Tensor]) -> tuple[LoopChoices, list[bool]]:
        (rows,), logits = scored
        return LoopChoices(oracle, rows.rule, rows.positions, rows.paths, logits), [True] * len(logits)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssd_core.draft_loop, "draw", lambda parent, tokens, q, seed: drawn(oracle, parent, tokens, q))
        patch.setattr(ssd_core.target_loop, "scores", lambda parts, logits: (parts, logits))
        patch.setattr(ssd_core.target_loop, "choices", chosen)
        yield


class LoopChoices(RuleChoices):
    def __getitem__(self, row: int | slice) -> int | LoopChoices:
        """The slice of the only session is everything."""
        return self if isinstance(row, slice) else super().__getitem__(row)


# ------------------------------------------------------------ the models


class Toy:
    """A target that looks at the last two tokens, and another draft, that looks at the last one."""

    def __init__(self, vocab_size: int = 3, seed: int = 5) -> None:
        generator = np.random.default_rng(seed)
        self.vocab_size = vocab_size
        self._target = torch.from_numpy(generator.normal(0.0, 1.2, (vocab_size,) * 3))
        self._draft = torch.from_numpy(generator.normal(0.0, 1.2, (vocab_size,) * 2))
        # Every pair of tokens stands in the prompt: prompt look-up always has a guess.
        self.prompt = tuple(token for a in range(vocab_size) for b in range(a, vocab_size) for token in ((a, b) if a != b else (a,)))
        self.prompt += self.prompt[:2]

    def target(self, tokens: Sequence[int]) -> torch.Tensor:
        """Logits [V]"""
        return self._target[tokens[-2], tokens[-1]]

    def draft(self, tokens: Sequence[int]) -> torch.Tensor:
        """Logits [V]"""
        return self._draft[tokens[-1]]


# ------------------------------------------------------------ the game


class Draft:
    """Evaluates nodes as a draft does: children, and one of them drawn. Broken drafts override a method."""

    def __init__(self, num_candidates: int = 64, num_scaled: int = 1, scale: float = 1.0) -> None:
        self.num_candidates = num_candidates
        self.num_scaled = num_scaled
        self.scale = scale

    def evaluate(self, oracle: Oracle, game: Game, tree: SpeculationTree, node: Node, committed: Sequence[int]) -> None:
        if node.is_evaluated:
            return
        path = tree.path_to(node)
        logits = game.toy.draft([*committed, *path])[None]
        z = game.rule(committed).processed(logits, [node.position + 1], [path])[0]
        best = (z / game.sampling.temperature).topk(min(self.num_candidates, game.toy.vocab_size))
        tokens, scores = best.indices.tolist(), best.values.tolist()
        oracle.position_after[node.id] = node.position + 1
        node.draw = self.draw(oracle, game, node, tokens, scores)
        likely = dict(zip(tokens, best.values.softmax(-1).tolist(), strict=True))
        for token, edge in _with_drawn_first(likely, node.draw.token, 0.8).items():
            tree.add(node, token, edge)
        node.index = 0

    def draw(self, oracle: Oracle, game: Game, node: Node, tokens: Sequence[int], scores: Sequence[float]) -> Draw:
        return drawn(oracle, node.id, tokens, draft_distribution(scores, self.num_scaled, self.scale))


class Backup(NamedTuple):
    """What is submitted after a miss: a shorter chain, if the draft is waited for, then guesses by prompt look-up."""

    num_levels: int = 0
    num_guesses: int = 0


class State(NamedTuple):
    """All that a round depends on."""

    tokens: tuple[int, ...]
    is_hit: bool
    intervals: tuple[tuple[Key, Interval], ...]
    """What is known already of noise that may be asked for again."""


@dataclass(frozen=True)
class Game:
    """A session. The last four are as they should be, or broken."""

    sampling: SamplingParams
    toy: Toy = field(default_factory=Toy)
    draft: Draft = field(default_factory=Draft)
    lookahead: int = 2
    backup: Backup = field(default_factory=Backup)
    fan_out: FanOut = field(default_factory=lambda: Uniform(1))
    submitted: Callable[[SpeculationTree, int], list[Node]] = SpeculationTree.best_chain
    verifier: Callable[[TokenRule, int], Acceptance] = ByRejection
    verifying_rule: type[TokenRule] = TokenRule
    key: KeyRule = own_number

    def rule(self, committed: Sequence[int], rule_type: type[TokenRule] = TokenRule) -> TokenRule:
        return rule_type(self.sampling, committed, len(self.toy.prompt), self.toy.vocab_size, ())

    def distribution(self) -> Distribution:
        """Of the output."""
        script = Script()
        waiting: dict[State, float] = {State((), True, ()): 1.0}
        output: Distribution = defaultdict(float)
        while waiting:
            state = min(waiting, key=lambda waiting: len(waiting.tokens))  # what comes before it has been played
            mass = waiting.pop(state)
            for share, after in branches(lambda oracle, state=state: self._round(oracle, state), script, dict(state.intervals), self.key):
                if len(after.tokens) == self.sampling.max_tokens:
                    output[after.tokens] += mass * share
                else:
                    waiting[after] = waiting.get(after, 0.0) + mass * share
        return output

    def _round(self, oracle: Oracle, state: State) -> State:
        committed = [*self.toy.prompt, *state.tokens]
        tree = SpeculationTree(committed)
        room = self.sampling.max_tokens - len(state.tokens)
        self._speculate(oracle, tree, committed, self.lookahead if state.is_hit else self.backup.num_levels)
        if not state.is_hit:
            self._guess(tree, committed)
        root, nodes = tree.root, self.submitted(tree, self.lookahead)[: room - 1]
        tokens = self._verify(oracle, tree, nodes, committed)
        if len(tokens) == room:
            return State((*state.tokens, *tokens), False, ())
        # While this was verified, the draft prepared for outcomes. It is played after the outcome because fewer branches come to here, and
        # what is drawn below a node does not hang on when.
        ends = [root, *nodes]
        for end in ends:
            self.draft.evaluate(oracle, self, tree, end, committed)
        prepared = self.fan_out.bonuses(ends, [*nodes, None], state.is_hit)
        tree.advance(tokens)
        return State((*state.tokens, *tokens), tree.root in prepared, self._known(oracle, tree))

    def _speculate(self, oracle: Oracle, tree: SpeculationTree, committed: Sequence[int], num_levels: int) -> None:
        node = tree.root
        for _ in range(num_levels):
            self.draft.evaluate(oracle, self, tree, node, committed)
            node = node.best_child()
            assert node is not None

    def _guess(self, tree: SpeculationTree, committed: Sequence[int]) -> None:
        end = [tree.root, *tree.best_chain(self.lookahead)][-1]
        guess = PromptLookup(committed).guess(tree.path_to(end), self.backup.num_guesses)
        tree.guess(end, guess, [0.7] * len(guess.tokens))

    def _verify(self, oracle: Oracle, tree: SpeculationTree, nodes: Sequence[Node], committed: Sequence[int]) -> list[int]:
        paths = [tree.path_to(node) for node in (tree.root, *nodes)]
        positions = [len(committed) + len(path) for path in paths]
        logits = torch.stack([self.toy.target([*committed, *path]) for path in paths])
        choices = RuleChoices(oracle, self.rule(committed), positions, paths, logits)
        return self.verifier(self.rule(committed, self.verifying_rule), SEED).walk(tree.root, nodes, choices, logits).tokens

    def _known(self, oracle: Oracle, tree: SpeculationTree) -> tuple[tuple[Key, Interval], ...]:
        """Of the positions to come and of the nodes that are left. Nobody will ask for the others again."""
        to_come = range(tree.length, len(self.toy.prompt) + self.sampling.max_tokens)
        return tuple(
            sorted(
                ((stream, place), known) for (stream, place), known in oracle.intervals.items() if place in to_come or place in tree.nodes
            )
        )

    # -------------------------------------------------------- what it must equal

    def plain(self) -> Distribution:
        """Of plain decoding: the product of the target's conditionals."""
        sequences: Distribution = {(): 1.0}
        for _ in range(self.sampling.max_tokens):
            sequences = {
                (*sequence, token): probability * share
                for sequence, probability in sequences.items()
                for token, share in enumerate(self._conditional(sequence))
            }
        return sequences

    def _conditional(self, generated: Sequence[int]) -> list[float]:
        """Written out once more, by itself: penalties, temperature, top_k, top_p."""
        sampling, tokens = self.sampling, [*self.toy.prompt, *generated]
        z = self.toy.target(tokens).tolist()
        for token in range(self.toy.vocab_size):
            if token in tokens:
                z[token] *= sampling.repetition_penalty if z[token] < 0 else 1 / sampling.repetition_penalty
            z[token] -= sampling.presence_penalty * (token in generated) + sampling.frequency_penalty * generated.count(token)
        weights = np.exp(np.array(z) / sampling.temperature)
        falling = sorted(range(len(z)), key=lambda token: -weights[token])
        kept = falling[: sampling.top_k] if sampling.top_k > 0 else falling
        total, mass = sum(weights[kept]), 0.0
        for i, token in enumerate(kept):
            if mass >= sampling.top_p * total:
                kept = kept[:i]
                break
            mass += weights[token]
        return [float(weights[token] / sum(weights[kept])) if token in kept else 0.0 for token in range(len(z))]

    def deviation(self) -> float:
        """Total variation between the output and plain decoding."""
        return total_variation(self.distribution(), self.plain())


def total_variation(one: Distribution, other: Distribution) -> float:
    return sum(abs(one.get(sequence, 0.0) - other.get(sequence, 0.0)) for sequence in {*one, *other}) / 2

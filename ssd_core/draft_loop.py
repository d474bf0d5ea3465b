"""The draft's loop: advance, choose, evaluate, publish. One growth step serves all sessions, of however many targets.

A step evaluates the nodes most worth it in one pass and publishes their likeliest children. Steps follow each other until nothing is
left to grow; outcomes are applied between steps, so the target never waits for more than it has use for.
"""

from __future__ import annotations

import queue
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import isfinite
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import torch

from ssd_core.acceptance import uses_rejection
from ssd_core.calibration import Corrections, EdgeCalibration, Observed, edge_probabilities
from ssd_core.chores import Chores
from ssd_core.config import PresetName
from ssd_core.engine.base import TRUNK_END, Engine, Part
from ssd_core.errors import CapacityError
from ssd_core.linear_fit import LinearFit
from ssd_core.lookup import PromptLookup
from ssd_core.policies.fan_out import OutcomeEstimates
from ssd_core.policies.grow import GrowPolicy, Window, build_grow_policy
from ssd_core.policies.submit import worthwhile
from ssd_core.rejection import NUM_DRAWN_FROM, draft_distribution, draw
from ssd_core.sampling import Rows, TokenRule, likeliest, on_host, scores
from ssd_core.timeline import Activity, Timeline
from ssd_core.tree import NOT_EVALUATED, Candidates, Node, SpeculationTree
from ssd_core.types import Draw, Growth, GrowthReport, Outcome, SessionOpen

STEP_S = 0.001  # a growth step, until steps have told; a further node is taken to cost a twentieth
NUM_CANDIDATES = 12  # scores kept per evaluated node, for edge probabilities and their calibration


@dataclass(frozen=True, slots=True)
class SessionClose:
    session_id: str


DraftMessage = SessionOpen | Outcome | SessionClose


class SessionKind(NamedTuple):
    """Sessions of one kind share what is learned on line."""

    preset: PresetName
    is_greedy: bool
    draws: bool
    """Its chains are drawn, for rejection sampling."""


class Learned:
    """Of the outcomes of one kind of sessions."""

    def __init__(self) -> None:
        self.edges = EdgeCalibration()
        self.outcomes = {is_after_hit: OutcomeEstimates() for is_after_hit in (True, False)}


class DraftSession:
    """A session as its draft sees it. The engine's tree region holds the root (index 0) and evaluated nodes below it, once
    the tokens before the root are in the trunk."""

    def __init__(self, opening: SessionOpen, rule: TokenRule, kind: SessionKind, learned: Learned, max_model_len: int) -> None:
        self.id = opening.session_id
        self.tokens = list(opening.tokens)
        self.rule = rule
        self.kind = kind
        self.learned = learned
        self.policy: GrowPolicy = build_grow_policy(opening.speculation, learned.outcomes)
        self.lookup = PromptLookup(self.tokens) if self.policy.lookup_tokens else None
        self.growth_limit = opening.speculation.growth_limit
        self.sampling = opening.sampling
        self.speculation = opening.speculation
        self.end = min(opening.num_prompt_tokens + opening.sampling.max_tokens - 1, max_model_len)
        """Nothing is evaluated from this position on: no token follows the session's last, and the draft's context may end before it."""
        self.tree = SpeculationTree(self.tokens)
        self.submitted: list[Node] = []
        self.is_after_hit = False
        self.num_region = 0
        self.num_steps = 0
        self.plan: list[Node] = []
        """What to evaluate next, best first; empty while the root is not evaluated, or when nothing is left to grow."""
        self.told_exhausted_at = -1

    def look_ahead(self, best: Node, step_room: int) -> list[Node]:
        """Guesses by prompt look-up of what follows the best chosen node, to be evaluated in the same step: where they are right, the tree
        grows several levels at once. Their edges are set by the draft's own logits right after."""
        room = min(step_room, self.growth_limit - self.num_region - len(self.plan), self.policy.lookup_tokens, self.end - 1 - best.position)
        if self.lookup is None or room <= 0:
            return []
        guess = self.lookup.guess(self.tree.path_to(best), room)
        return self.tree.guess(best, guess, [1.0] * len(guess.tokens))

    def remember(self, node: Node, follower: int) -> None:
        """What the draft thinks comes after `node`, so that it need not be asked again to look ahead where the same tokens meet."""
        if self.lookup is not None and node.position > 0:
            previous = node.parent.token if node.parent else self.tokens[-2]
            self.lookup.remember((previous, node.token), follower)

    @property
    def num_candidates(self) -> int:
        return NUM_DRAWN_FROM if self.kind.draws else NUM_CANDIDATES

    @property
    def score_unit(self) -> float:
        """What scores are divided by before they count as logarithms of weights: a drawn chain's are logits without noise."""
        return self.sampling.temperature if self.kind.draws else 1.0

    def draw(self, node: Node, candidates: Candidates) -> Draw:
        """What follows `node` in a chain for rejection sampling."""
        q = draft_distribution(candidates.scores, self.speculation.fan_out, self.speculation.saguaro_c)
        return draw(node.id, candidates.tokens, q, self.sampling.seed)

    @property
    def wants_root(self) -> bool:
        """The root is still to be evaluated, and the tokens before it that are not in the trunk."""
        return not self.tree.root.is_evaluated and self.tree.root.position < self.end

    @property
    def is_exhausted(self) -> bool:
        return not self.plan and not self.wants_root

    def renew_plan(self) -> None:
        room = self.growth_limit - self.num_region
        is_growing = self.tree.root.is_evaluated and room > 0
        window = Window(self.submitted, self.num_steps, self.is_after_hit)
        self.plan = self.policy.choose(self.tree, window)[:room] if is_growing else []


class Offer(NamedTuple):
    """A node that a session would have evaluated."""

    reach: float
    session: DraftSession
    node: Node


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step evaluates of one session: a stretch of committed tokens, or nodes of its tree."""

    session: DraftSession
    pending: tuple[int, ...]
    nodes: tuple[Node, ...]
    is_last_chunk: bool

    def part(self) -> Part:
        if self.nodes:
            return Part(self.session.id, [node.token for node in self.nodes], [_parent_index(node) for node in self.nodes])
        length = len(self.pending)
        return Part(self.session.id, self.pending, [TRUNK_END, *range(length - 1)], length - 1 if self.is_last_chunk else length)


class Proposal(NamedTuple):
    """What comes after one evaluated node, best first, NUM_CANDIDATES of each."""

    tokens: list[int]
    scores: list[float]
    probabilities: list[float]


def _parent_index(node: Node) -> int:
    assert node.parent is not None and node.parent.is_evaluated, node
    return node.parent.index


class DraftLoop:
    """Drives one draft engine. `receive` may be called from any thread; the rest from one."""

    def __init__(
        self,
        engine: Engine,
        *,
        eos_token_ids: Sequence[int] = (),
        max_step_nodes: int = 16,
        prefill_chunk_tokens: int = 256,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._engine = engine
        self._eos_token_ids = tuple(eos_token_ids)
        self._max_step_nodes = max_step_nodes
        self._prefill_chunk_tokens = prefill_chunk_tokens
        self._clock = clock
        self.timeline = Timeline(clock)
        self._inbox: queue.SimpleQueue[DraftMessage] = queue.SimpleQueue()
        self._sessions: dict[str, DraftSession] = {}
        self._foreign: set[str] = set()
        """Sessions that hold a token without an embedding here: nothing is grown for them."""
        self._waiting: dict[str, SessionOpen] = {}
        """Sessions there was no room for, the oldest first, with all tokens told since: each close may let some in."""
        self._step_cost = LinearFit((1.0, STEP_S), slope=STEP_S / 20, doubt=1.0)
        """Seconds of a growth step over its nodes."""
        self._learned: dict[SessionKind, Learned] = defaultdict(Learned)
        self._chores = Chores()
        """What is left to do of applied outcomes, in order, before edges are next estimated: what no pass need wait for."""

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def num_waiting(self) -> int:
        """Sessions that there was no room for yet."""
        return len(self._waiting)

    def receive(self, message: DraftMessage) -> None:
        self._inbox.put(message)

    def step(self) -> GrowthReport | None:
        """Apply what was received, then one growth step. None: nothing to do and nothing to say."""
        began = self._clock()
        said, unknown = self._advance()
        batches = self._choose()
        if batches:
            logits = self._evaluate(batches)
            said.extend(self._publish(batches, logits))
        else:
            self._chores.do()
        if not batches and not said and not unknown:
            return None
        num_nodes = sum(len(batch.nodes) + len(batch.pending) for batch in batches)
        if batches and not any(batch.pending for batch in batches):
            self._step_cost.observe(num_nodes, self._clock() - began)
        return GrowthReport(tuple(said), tuple(unknown), int(bool(batches)), num_nodes, self._clock() - began, time.time())

    def check_integrity(self) -> None:
        """Every session's tree is sound, and its evaluated nodes are numbered as in the engine's tree region."""
        for session in self._sessions.values():
            session.tree.check_integrity()
            assert session.tree.length == len(session.tokens), session.id
            indices = sorted(node.index for node in session.tree.nodes.values() if node.is_evaluated)
            assert indices == list(range(session.num_region)), (session.id, indices, session.num_region)

    # ------------------------------------------------------------ advance

    def _advance(self) -> tuple[list[Growth], list[str]]:
        """Apply the messages that have come. Returns what must be said at once, and the sessions nobody opened here."""
        said: list[Growth] = []
        unknown: list[str] = []
        while not self._inbox.empty():
            match self._inbox.get():
                case SessionOpen() as opening:
                    said.extend(self._open(opening))
                case SessionClose(session_id):
                    self._close(session_id)
                    self._let_in()
                case Outcome(session_id=session_id) as outcome if session_id in self._foreign:
                    said.append(Growth(session_id, outcome.length, (), (), (), is_exhausted=True))
                case Outcome(session_id=session_id) as outcome if not self._knows(outcome.tokens):
                    if session_id in self._sessions or session_id in self._waiting:
                        self._refuse(session_id)
                        said.append(Growth(session_id, outcome.length, (), (), (), is_exhausted=True))
                    else:
                        unknown.append(session_id)
                case Outcome(session_id=session_id) as outcome if session_id in self._sessions:
                    if not self._apply(self._sessions[session_id], outcome):
                        unknown.append(session_id)
                case Outcome(session_id=session_id) as outcome if session_id in self._waiting:
                    if self._keep_waiting(outcome):
                        said.append(_nothing_grown(self._waiting[session_id]))
                    else:
                        unknown.append(session_id)
                case Outcome(session_id=session_id):
                    unknown.append(session_id)
        said.extend(self._exhausted_notices())
        return said, unknown

    def _open(self, opening: SessionOpen) -> list[Growth]:
        """Take the session up, or have it wait for room and say that nothing is grown for it."""
        self._close(opening.session_id)
        if not self._knows(opening.tokens):
            self._refuse(opening.session_id)
            return [_nothing_grown(opening)]
        if self._take_up(opening):
            return []
        self._waiting[opening.session_id] = opening
        return [_nothing_grown(opening)]

    def _take_up(self, opening: SessionOpen) -> bool:
        """False: there is no room for it now."""
        sampling = opening.sampling
        longest = opening.num_prompt_tokens + sampling.max_tokens
        try:
            self._engine.open(opening.session_id, longest + opening.speculation.growth_limit + 1)
        except CapacityError:
            return False
        engine = self._engine
        kind = SessionKind(opening.speculation.preset, sampling.temperature == 0, uses_rejection(sampling, opening.speculation))
        rule = TokenRule(
            sampling,
            opening.tokens,
            opening.num_prompt_tokens,
            engine.vocab_size,
            self._eos_token_ids,
            engine.device,
            has_noise=not kind.draws,
        )
        self._sessions[opening.session_id] = DraftSession(opening, rule, kind, self._learned[kind], engine.max_model_len)
        return True

    def _keep_waiting(self, outcome: Outcome) -> bool:
        """Note what a session that waits for room has committed. False if tokens before it are missing here: it waits no more."""
        opening = self._waiting[outcome.session_id]
        length = len(opening.tokens)
        if outcome.base_length > length:
            del self._waiting[outcome.session_id]
            return False
        tokens = opening.tokens + outcome.tokens[length - outcome.base_length :]
        self._waiting[outcome.session_id] = replace(opening, tokens=tokens)
        return True

    def _let_in(self) -> None:
        """Room has been given back: take up those that wait, in order, as far as it goes."""
        for opening in list(self._waiting.values()):
            if self._take_up(opening):
                del self._waiting[opening.session_id]

    def _knows(self, tokens: Sequence[int]) -> bool:
        """Whether all of them have an embedding here. A target's may be padded further than its draft's."""
        return max(tokens, default=0) < self._engine.vocab_size

    def _refuse(self, session_id: str) -> None:
        """Nothing is grown for this session from now on."""
        self._close(session_id)
        self._foreign.add(session_id)
        self._let_in()

    def _close(self, session_id: str) -> None:
        self._foreign.discard(session_id)
        self._waiting.pop(session_id, None)
        if self._sessions.pop(session_id, None) is not None:
            self._engine.close(session_id)

    def _apply(self, session: DraftSession, outcome: Outcome) -> bool:
        """Move the session's root to the outcome. False if tokens before it are missing here."""
        length = len(session.tokens)
        if outcome.base_length > length:
            return False
        if outcome.length < length:
            return True  # late: a newer one has been applied
        tokens = outcome.tokens[length - outcome.base_length :]
        if tokens:
            self._move_root(session, tokens)
        nodes = session.tree.nodes
        session.submitted = [nodes[node_id] for node_id in outcome.submitted if node_id in nodes]
        session.renew_plan()
        return True

    def _move_root(self, session: DraftSession, tokens: tuple[int, ...]) -> None:
        path = session.tree.advance(tokens)
        self._chores.add(session.tree.let_go)
        observed = [Observed(node.candidates, chosen) for node, chosen in zip(path, tokens, strict=False) if node.candidates is not None]
        if observed:
            self._chores.add(session.learned.edges.observe, observed)
        if session.policy.learns_outcomes:
            self._learn_outcome(session, path, tokens)
        session.tokens.extend(tokens)
        if session.lookup is not None:
            session.lookup.extend(tokens)
        session.rule.commit(tokens, len(session.tokens))
        session.is_after_hit = path[-1].is_evaluated
        self._keep(session, path)
        session.num_steps = 0

    def _learn_outcome(self, session: DraftSession, path: list[Node], tokens: tuple[int, ...]) -> None:
        """What became of the submitted chain, if `tokens` are the outcome of one round."""
        chain = session.submitted
        num_accepted = sum(node is passed for node, passed in zip(chain, path[1:], strict=False))
        end = path[num_accepted].candidates
        if num_accepted != len(tokens) - 1 or end is None:
            return
        rejected = [chain[num_accepted].token] if num_accepted < len(chain) else []
        guesses = [token for token in end.tokens if token not in rejected]
        rank = guesses.index(tokens[-1]) if tokens[-1] in guesses else len(guesses)
        session.learned.outcomes[session.is_after_hit].observe(num_accepted, bool(rejected), rank)

    def _keep(self, session: DraftSession, path: list[Node]) -> None:
        """Tell the engine: the evaluated ones of the path go to the trunk, the new root and what is evaluated below it stay."""
        passed: list[int] = []
        for node in path[:-1]:
            if not node.is_evaluated:
                break
            passed.append(node.index)
        kept = [node for node in session.tree.nodes.values() if node.index != NOT_EVALUATED]  # parents first: the root has just moved
        self._engine.advance(session.id, passed, [node.index for node in kept])
        for index, node in enumerate(kept):
            node.index = index
        session.num_region = len(kept)

    def _exhausted_notices(self) -> list[Growth]:
        """For sessions that have nothing left to grow and have not said so at this length."""
        return [
            self._growth(session)
            for session in self._sessions.values()
            if session.is_exhausted and session.told_exhausted_at != len(session.tokens)
        ]

    # ------------------------------------------------------------ choose

    def _choose(self) -> list[Batch]:
        """Committed tokens that still have to be evaluated come first, within a budget; then the best nodes of all sessions; and where that
        leaves room in the step, guesses of what follows them."""
        batches: list[Batch] = []
        budget = self._prefill_chunk_tokens
        offers: list[Offer] = []
        for session in self._sessions.values():
            if session.wants_root:
                pending = session.tokens[self._engine.trunk_length(session.id) :]
                chunk = tuple(pending[:budget])
                budget -= len(chunk)
                if chunk:
                    batches.append(Batch(session, chunk, (), len(chunk) == len(pending)))
            reaches = session.tree.reaches(session.plan)
            offers += [Offer(reach, session, node) for reach, node in zip(reaches, session.plan, strict=True)]
        offers.sort(key=attrgetter("reach"), reverse=True)
        best_offers = self._worthwhile(offers[: self._max_step_nodes])
        room = self._max_step_nodes - len(best_offers)
        chosen: dict[str, list[Node]] = {}
        for offer in best_offers:
            chosen.setdefault(offer.session.id, []).append(offer.node)
        for session_id, nodes in chosen.items():
            session = self._sessions[session_id]
            ahead = session.look_ahead(nodes[0], room)
            room -= len(ahead)
            batches.append(Batch(session, (), (*nodes, *ahead), True))
        return batches

    def _worthwhile(self, offers: list[Offer]) -> list[Offer]:
        """Of the best offers, by falling reach, those that make the step's gain per second greatest: what is evaluated is of use if the
        target comes by. Offers of policies that are not sized stay."""
        sized = [offer for offer in offers if offer.session.policy.is_sized]
        if not sized:
            return offers
        fixed = [offer for offer in offers if not offer.session.policy.is_sized]
        gains, fixed_gain = [offer.reach for offer in sized], sum(offer.reach for offer in fixed)
        count = worthwhile(gains, fixed_gain, lambda num_sized: self._step_cost.at(len(fixed) + num_sized))
        return sorted(fixed + sized[:count], key=attrgetter("reach"), reverse=True)

    # ------------------------------------------------------------ evaluate

    def _evaluate(self, batches: Sequence[Batch]) -> torch.Tensor:
        for batch in batches:
            batch.session.num_steps += bool(batch.nodes)
            for node in batch.nodes:
                node.index = batch.session.num_region
                batch.session.num_region += 1
        parts = [batch.part() for batch in batches]
        self.timeline.turn(Activity.LAUNCH)
        logits = self._engine.evaluate(parts)
        self.timeline.turn(Activity.DEVICE)
        self._chores.do()
        for batch in batches:
            session = batch.session
            if not batch.nodes:
                last = len(batch.pending) - 1
                self._engine.advance(session.id, range(last if batch.is_last_chunk else last + 1), [last] if batch.is_last_chunk else ())
                session.num_region = int(batch.is_last_chunk)
                session.tree.root.index = 0 if batch.is_last_chunk else NOT_EVALUATED
        return logits

    # ------------------------------------------------------------ publish

    def _publish(self, batches: Sequence[Batch], logits: torch.Tensor) -> list[Growth]:
        batches = [batch for batch in batches if batch.is_last_chunk]
        if not batches:
            return []
        evaluated = [batch.nodes or (batch.session.tree.root,) for batch in batches]
        parts = [
            Rows(batch.session.rule, [node.position + 1 for node in nodes], [batch.session.tree.path_to(node) for node in nodes])
            for batch, nodes in zip(batches, evaluated, strict=True)
        ]
        sessions = [batch.session for batch, nodes in zip(batches, evaluated, strict=True) for _ in nodes]
        best, tokens = likeliest(scores(parts, logits), min(max(session.num_candidates for session in sessions), logits.shape[-1]))
        units = np.array([session.score_unit for session in sessions])[:, None]
        depths = [batch.session.tree.depth(node) for batch, nodes in zip(batches, evaluated, strict=True) for node in nodes]
        corrections = Corrections.at([session.learned.edges for session in sessions], depths)
        values, candidates = on_host(best, tokens)  # waits for the pass
        self.timeline.turn(Activity.HOST)
        values = values / units
        edges = edge_probabilities(values, corrections)
        proposals = map(Proposal, candidates, values.tolist(), edges.tolist())
        return [self._propose(batch.session, nodes, proposals) for batch, nodes in zip(batches, evaluated, strict=True)]

    def _propose(self, session: DraftSession, nodes: Sequence[Node], proposals: Iterator[Proposal]) -> Growth:
        """Hang the likeliest children below the evaluated nodes, and say so."""
        parents: list[int] = []
        tokens: list[int] = []
        edges: list[float] = []
        draws: list[Draw] = []
        tree, min_child_reach = session.tree, session.policy.min_child_reach
        num_candidates = session.num_candidates
        num_children = min(session.policy.num_children, num_candidates)
        for node, (candidates, node_scores, probabilities) in zip(nodes, proposals, strict=False):
            has_opinion = isfinite(node_scores[0])  # else NaN, beyond all numbers, or nothing allowed
            likely: dict[int, float] = {}
            if has_opinion and (node.children or session.kind.draws):
                likely = dict(zip(candidates[:num_candidates], probabilities, strict=False))
            for guess in node.children.values():
                tree.confirm(guess, likely.get(guess.token, 0.0))
            if not has_opinion:
                continue
            children: Iterable[tuple[int, float]] = zip(candidates[:num_children], probabilities, strict=False)
            session.remember(node, candidates[0])
            node.candidates = Candidates(tuple(candidates[:num_candidates]), tuple(node_scores[:num_candidates]), tree.depth(node))
            if session.kind.draws:
                node.draw = session.draw(node, node.candidates)
                draws.append(node.draw)
                acceptance = session.learned.outcomes[session.is_after_hit].acceptance
                children = islice(_with_drawn_first(likely, node.draw.token, acceptance).items(), num_children)
            reach = tree.reach(node)
            is_open = node.position + 1 < session.end  # else its children are the target's to use, and never ours to evaluate
            for rank, (token, edge) in enumerate(children):
                if rank == 0 or reach * edge >= min_child_reach:
                    if is_open:
                        tree.add(node, token, edge)
                    parents.append(node.id)
                    tokens.append(token)
                    edges.append(edge)
        session.renew_plan()
        return self._growth(session, parents, tokens, edges, draws)

    def _growth(
        self,
        session: DraftSession,
        parents: Sequence[int] = (),
        tokens: Sequence[int] = (),
        edges: Sequence[float] = (),
        draws: Sequence[Draw] = (),
    ) -> Growth:
        if session.is_exhausted:
            session.told_exhausted_at = len(session.tokens)
        return Growth(session.id, len(session.tokens), tuple(parents), tuple(tokens), tuple(edges), session.is_exhausted, tuple(draws))


def _nothing_grown(opening: SessionOpen) -> Growth:
    return Growth(opening.session_id, len(opening.tokens), (), (), (), is_exhausted=True)


def _with_drawn_first(likely: dict[int, float], drawn: int, acceptance: float) -> dict[int, float]:
    """Edges when one child has been drawn: it is accepted or, in proportion to their own, one of the others is taken instead."""
    rest = max(1.0 - likely[drawn], 1e-9)
    # Edges need not sum to one, so the others' may be more than the rest.
    others = {token: (1.0 - acceptance) * min(edge / rest, 1.0) for token, edge in likely.items() if token != drawn}
    return {drawn: acceptance, **others}

"""Any order of growth, advance, loss, repetition and reconnection keeps trees and store sound, and the tokens those of plain decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import NamedTuple

import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ssd_core.config import PRESETS, SamplingParams, SpeculationConfig
from ssd_core.draft_loop import DraftLoop
from ssd_core.engine.fake import FakeEngine
from ssd_core.lookup import Guess
from ssd_core.policies.submit import build_submit_policy
from ssd_core.sampling import Rows, TokenRule, choices, scores
from ssd_core.store import SpeculationStore, StoreCounters
from ssd_core.target_loop import TargetLoop
from ssd_core.tree import Node, SpeculationTree
from ssd_core.types import FinishReason, GenerationRequest, Growth, sequence_id
from tests.core.driver import EOS, Run, drive
from tests.core.naive_tree import NaiveTree, Tokens
from tests.core.scheduled_link import Fate, Schedule, ScheduledLink

# ------------------------------------------------------------ trees and store

VOCAB = 4
picks = st.integers(0, 1000)  # of a list that is not known yet: modulo its length
token_lists = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=4).map(tuple)
probabilities = st.one_of(st.floats(0.0, 1.0), st.sampled_from((0.0, 0.1, 0.3, 0.7, 1.0)))


def picked(items: Sequence, pick: int):
    return items[pick % len(items)]


@dataclass
class Session:
    """Both sides' trees as they should be, and the draft's as it is. The target's is in the store."""

    draft_tree: SpeculationTree
    draft: NaiveTree
    target: NaiveTree
    acknowledged_length: int
    exhausted_length: int = -1


@dataclass(frozen=True)
class Letter:
    """Growth on its way, with its parents as sequences: what their ids stand for."""

    growth: Growth
    parents: tuple[Tokens, ...]


class TreesAndStore(RuleBasedStateMachine):
    """Drafts grow trees and write letters about it; letters reach the store in any order, twice, or never; sessions end and come back."""

    def __init__(self) -> None:
        super().__init__()
        self.store = SpeculationStore(VOCAB)
        self.sessions: dict[str, Session] = {}
        self.letters: list[Letter] = []
        self.written: set[tuple[str, Tokens]] = set()
        """What was ever published or guessed."""
        self.counters = StoreCounters()
        self.num_delivered = 0

    def open(self, name: str, tokens: Tokens) -> None:
        tree = self.store.open(name, tokens).tree
        assert len(tree) == 1 and not self.store[name].is_exhausted and not self.store.look_up(name)
        self.sessions[name] = Session(SpeculationTree(tokens), NaiveTree(tokens), NaiveTree(tokens), len(tokens))

    def session(self, pick: int) -> tuple[str, Session]:
        return picked(list(self.sessions.items()), pick)

    def write(
        self, name: str, parents: Sequence[Tokens], tokens: Sequence[int], edges: Sequence[float], is_exhausted: bool = False
    ) -> None:
        length = len(self.sessions[name].draft.root)
        growth = Growth(name, length, tuple(map(sequence_id, parents)), tuple(tokens), tuple(edges), is_exhausted)
        self.letters.append(Letter(growth, tuple(parents)))
        self.written |= {(name, (*parent, token)) for parent, token in zip(parents, tokens, strict=True)}

    # ---- sessions

    @initialize(prompts=st.lists(token_lists, min_size=1, max_size=3))
    def sessions_open(self, prompts: list[Tokens]) -> None:
        for i, prompt in enumerate(prompts):
            self.open(f"s{i}", prompt)

    @rule(pick=picks, what=st.sampled_from(("draft lost", "reconnected", "over")), prompt=token_lists)
    def something_is_lost(self, pick: int, what: str, prompt: Tokens) -> None:
        """A session's draft, which begins anew; or both sides, which begin anew; or it ends, and another of its name comes."""
        name, session = self.session(pick)
        tokens = session.target.root
        if what == "draft lost":
            session.draft_tree, session.draft = SpeculationTree(tokens), NaiveTree(tokens)
            return
        self.store.close(name)
        del self.sessions[name]
        for letter in self.letters[:2]:
            self.ingest(letter)
        self.open(name, tokens if what == "reconnected" else prompt)

    # ---- the draft's side

    @rule(pick=picks, where=picks, edges=st.dictionaries(st.integers(0, VOCAB - 1), probabilities, min_size=1), is_exhausted=st.booleans())
    def the_draft_grows(self, pick: int, where: int, edges: dict[int, float], is_exhausted: bool) -> None:
        name, session = self.session(pick)
        node = picked(list(session.draft_tree.nodes.values()), where)
        parent = session.draft.sequence_of(session.draft_tree, node)
        for token, edge in edges.items():
            child = session.draft_tree.add(node, token, edge)
            assert (child is None) == session.draft.has((*parent, token))
            if child is not None:
                session.draft.add((*parent, token), edge)
        self.write(name, [parent] * len(edges), tuple(edges), tuple(edges.values()), is_exhausted)

    @rule(pick=picks, where=picks, tokens=token_lists, edge=probabilities)
    def the_draft_guesses(self, pick: int, where: int, tokens: Tokens, edge: float) -> None:
        _, session = self.session(pick)
        self.guess(session.draft_tree, session.draft, where, tokens, edge)

    @precondition(lambda self: any(session.draft.guesses for session in self.sessions.values()))
    @rule(pick=picks, where=picks, edge=probabilities)
    def the_draft_proposes_what_it_guessed(self, pick: int, where: int, edge: float) -> None:
        name, session = picked([(name, session) for name, session in self.sessions.items() if session.draft.guesses], pick)
        sequence = picked(sorted(session.draft.guesses), where)
        session.draft_tree.confirm(session.draft_tree.nodes[sequence_id(sequence)], edge)
        session.draft.confirm(sequence, edge)
        self.write(name, [sequence[:-1]], [sequence[-1]], [edge])

    @precondition(lambda self: any(session.draft.root != session.target.root for session in self.sessions.values()))
    @rule(pick=picks, how_many=st.integers(1, 8))
    def the_draft_hears_of_outcomes(self, pick: int, how_many: int) -> None:
        session = picked([session for session in self.sessions.values() if session.draft.root != session.target.root], pick)
        tokens = session.target.root[len(session.draft.root) :][:how_many]
        assert_path(session.draft_tree, session.draft, tokens, session.draft_tree.advance(tokens))
        session.draft.advance(tokens)

    # ---- letters

    @precondition(lambda self: self.letters)
    @rule(chosen=st.lists(picks, min_size=1, max_size=4), again=st.booleans())
    def letters_arrive(self, chosen: list[int], again: bool) -> None:
        for pick in chosen:
            if self.letters:
                letter = picked(self.letters, pick)
                self.ingest(letter)
                if not again:
                    self.letters.remove(letter)

    @precondition(lambda self: self.letters)
    @rule(pick=picks)
    def a_letter_is_lost(self, pick: int) -> None:
        self.letters.remove(picked(self.letters, pick))

    @precondition(lambda self: self.letters)
    @rule(pick=picks, other=picks)
    def a_letter_arrives_under_another_name(self, pick: int, other: int) -> None:
        name, _ = self.session(other)
        letter = picked(self.letters, pick)
        self.written |= {(name, (*parent, token)) for parent, token in zip(letter.parents, letter.growth.tokens, strict=True)}
        self.ingest(Letter(replace(letter.growth, session_id=name), letter.parents))

    @rule(
        pick=picks,
        where=picks,
        token=st.integers(-2, VOCAB + 1),
        edge=st.sampled_from((-0.1, 1.5, float("nan"), float("inf"), 0.5)),
        length=st.integers(0, 30),
    )
    def garbage_arrives(self, pick: int, where: int, token: int, edge: float, length: int) -> None:
        name, session = self.session(pick)
        parent = picked([session.target.root, *session.target.edges, (*session.target.root, VOCAB)], where)
        if 0 <= token < VOCAB:
            self.written.add((name, (*parent, token)))
        self.ingest(Letter(Growth(name, length, (sequence_id(parent),), (token,), (edge,)), (parent,)))

    # ---- the target's side

    @rule(pick=picks, where=picks, tokens=token_lists, edge=probabilities)
    def the_target_guesses(self, pick: int, where: int, tokens: Tokens, edge: float) -> None:
        name, session = self.session(pick)
        end = self.guess(self.store[name].tree, session.target, where, tokens, edge)
        self.written |= {(name, (*end, *tokens[: i + 1])) for i in range(len(tokens))}

    @precondition(lambda self: any(session.target.guesses for session in self.sessions.values()))
    @rule(pick=picks, where=picks, edge=probabilities)
    def what_the_target_guessed_is_proposed(self, pick: int, where: int, edge: float) -> None:
        name, session = picked([(name, session) for name, session in self.sessions.items() if session.target.guesses], pick)
        *parent, token = picked(sorted(session.target.guesses), where)
        self.ingest(Letter(Growth(name, 0, (sequence_id(parent),), (token,), (edge,)), (tuple(parent),)))

    @rule(pick=picks, accepted=st.lists(picks, max_size=3), beyond=st.lists(st.integers(0, VOCAB - 1), max_size=2))
    def the_target_chooses(self, pick: int, accepted: list[int], beyond: list[int]) -> None:
        """A path that the tree holds, then tokens that it may hold or not."""
        name, session = self.session(pick)
        end = session.target.root
        for choice in accepted:
            if children := session.target.children(end):
                end = picked(children, choice)
        tokens = (*end[len(session.target.root) :], *beyond)
        self.store.advance(name, tokens)
        session.target.advance(tokens)

    # ---- what holds

    @invariant()
    def store_and_trees_are_what_the_dictionaries_say(self) -> None:
        self.store.check_integrity()
        assert len(self.store) == len(self.sessions)
        for name, session in self.sessions.items():
            stored = self.store[name]
            session.target.assert_equals(stored.tree)
            session.draft.assert_equals(session.draft_tree)
            assert {(name, sequence) for sequence in session.target.edges} <= self.written, "from nowhere"
            proposed = set(session.target.children(session.target.root)) - session.target.guesses
            assert self.store.look_up(name) == bool(proposed)
            assert stored.acknowledged_length == session.acknowledged_length
            assert stored.is_exhausted == (session.exhausted_length == len(session.target.root))

    @invariant()
    def every_child_that_arrived_is_counted_once(self) -> None:
        assert self.store.counters == self.counters
        assert self.counters.ingested + self.counters.late + self.counters.garbage + self.counters.duplicate == self.num_delivered

    # ---- helpers

    def guess(self, tree: SpeculationTree, naive: NaiveTree, where: int, tokens: Tokens, edge: float) -> Tokens:
        """Guesses go below a node without children."""
        node = picked([node for node in tree.nodes.values() if not node.children], where)
        end = naive.sequence_of(tree, node)
        assert [guess.token for guess in tree.guess(node, Guess(list(tokens), match_length=2), [edge] * len(tokens))] == list(tokens)
        naive.guess(end, tokens, edge)
        return end

    def ingest(self, letter: Letter) -> None:
        growth = letter.growth
        self.store.ingest(growth)
        self.num_delivered += len(growth.tokens)
        session = self.sessions.get(growth.session_id)
        if session is None:
            self.counters.late += len(growth.tokens)
            return
        if growth.committed_length <= len(session.target.root):
            session.acknowledged_length = max(session.acknowledged_length, growth.committed_length)
        if growth.is_exhausted and growth.committed_length == len(session.target.root):
            session.exhausted_length = growth.committed_length
        for parent, token, edge in zip(letter.parents, growth.tokens, growth.edge_probabilities, strict=True):
            child = (*parent, token)
            if token not in range(VOCAB) or not 0 <= edge <= 1:
                self.counters.garbage += 1
            elif not session.target.has(parent):
                self.counters.late += 1
            elif child in session.target.guesses:
                session.target.confirm(child, edge)
                self.counters.ingested += 1
            elif session.target.has(child):
                self.counters.duplicate += 1
            else:
                session.target.add(child, edge)
                self.counters.ingested += 1


def assert_path(tree: SpeculationTree, naive: NaiveTree, tokens: Tokens, path: list[Node]) -> None:
    """What `advance` passed: the old root, then every token, the last of them the new root."""
    assert [node.token for node in path] == [naive.root[-1], *tokens]
    assert [node.id for node in path] == [sequence_id((*naive.root, *tokens[:i])) for i in range(len(tokens) + 1)]
    assert path[-1] is tree.root and tree.root.parent is None


test_trees_and_store_are_what_dictionaries_of_sequences_say = TreesAndStore.TestCase

# ------------------------------------------------------------ the two loops

ENGINE_VOCAB = 16
model_tokens = st.integers(0, ENGINE_VOCAB - 1)

fates = st.builds(Fate, delays=st.lists(st.integers(0, 4), max_size=2).map(tuple), overtakes=st.booleans())
garbling_fates = st.one_of(fates, fates, fates, st.just(Fate(is_garbled=True)))


def schedules(of: st.SearchStrategy[Fate]) -> st.SearchStrategy[Schedule]:
    return st.builds(
        Schedule,
        fates=st.lists(st.one_of(st.just(Fate()), st.just(Fate()), of), min_size=1, max_size=20).map(tuple),
        steps=st.lists(st.one_of(st.integers(2, 6), st.integers(0, 6)), min_size=1, max_size=6).map(tuple),
        losses=st.lists(st.integers(1, 60), max_size=2).map(tuple),
        away=st.integers(0, 5),
    )


samplings = st.builds(
    SamplingParams,
    max_tokens=st.one_of(st.integers(1, 16), st.integers(12, 24)),
    min_tokens=st.sampled_from((0, 0, 4)),
    temperature=st.sampled_from((0.0, 0.5, 1.0, 1.5)),
    top_k=st.sampled_from((0, 0, 3)),
    top_p=st.sampled_from((1.0, 1.0, 0.8)),
    min_p=st.sampled_from((0.0, 0.0, 0.05)),
    repetition_penalty=st.sampled_from((1.0, 1.3)),
    presence_penalty=st.sampled_from((0.0, 0.3)),
    frequency_penalty=st.sampled_from((0.0, 0.4)),
    logit_bias=st.dictionaries(model_tokens, st.sampled_from((-3.0, 1.0, 2.5)), max_size=2),
    seed=st.integers(0, 3),
    stop_token_ids=st.sampled_from(((), (), (11,))),
    ignore_eos=st.booleans(),
).map(lambda made: made.model_copy(update={"min_tokens": min(made.min_tokens, made.max_tokens)}))


BACKUPS = (None, "none", "ngram", "wait", "by-batch", "by-gain")


def speculations(presets: Sequence[str], backups: Sequence[str | None]) -> st.SearchStrategy[SpeculationConfig]:
    return st.builds(
        SpeculationConfig,
        preset=st.sampled_from(presets),
        lookahead=st.integers(1, 6),
        fan_out=st.integers(1, 4),
        tree_nodes=st.integers(1, 16),
        branching=st.integers(1, 4),
        growth_width=st.integers(1, 8),
        lookup_tokens=st.integers(0, 4),
        backup=st.sampled_from(backups),
        backup_tokens=st.integers(0, 6),
        backup_levels=st.integers(1, 3),
        fan_out_shape=st.sampled_from((None, "uniform", "geometric", "best-first")),
        growth_limit=st.sampled_from((30, 60, 30, 5)),
    )


@dataclass(frozen=True)
class Scenario:
    requests: tuple[GenerationRequest, ...]
    schedule: Schedule
    draft_noise: float
    order: int
    """Tokens of context that the models look at: the fewer, the more the text repeats itself."""
    arrivals: dict[str, int]
    cancellations: dict[str, int]
    max_sessions: int
    max_step_nodes: int
    prefill_chunk_tokens: int
    spare_target_cells: int
    """Beyond what the largest session needs."""
    num_draft_cells: int
    draft_model_len: int
    draft_timeout_s: float


@st.composite
def scenarios(
    draw: st.DrawFn,
    presets: Sequence[str] = PRESETS,
    backups: Sequence[str | None] = BACKUPS,
    of: st.SearchStrategy[Fate] = garbling_fates,
    **fixed: object,
) -> Scenario:
    prompts = draw(st.lists(st.lists(model_tokens, min_size=1, max_size=20).map(tuple), min_size=1, max_size=4))
    names = [f"s{i}" for i in range(len(prompts))]
    wanted = tuple(
        GenerationRequest(name, prompt, draw(samplings), draw(speculations(presets, backups)))
        for name, prompt in zip(names, prompts, strict=True)
    )
    rounds = st.dictionaries(st.sampled_from(names), st.integers(1, 20), max_size=1)
    parts = {
        "requests": st.just(wanted),
        "schedule": schedules(of),
        "draft_noise": st.sampled_from((0.3, 0.0, 1.0)),
        "order": st.integers(1, 3),
        "arrivals": rounds,
        "cancellations": rounds,
        "max_sessions": st.integers(1, 4),
        "max_step_nodes": st.sampled_from((16, 16, 5, 1)),
        "prefill_chunk_tokens": st.sampled_from((16, 16, 5, 1)),
        "spare_target_cells": st.sampled_from((0, 20, 200)),
        "num_draft_cells": st.sampled_from((400, 400, 400, 60)),
        "draft_model_len": st.sampled_from((200, longest(wanted), longest(wanted), 16)),
        "draft_timeout_s": st.sampled_from((2.0, 1.0, 2.0, 0.0)),
    }
    return draw(st.builds(Scenario, **{name: fixed.get(name, part) for name, part in parts.items()}))


def longest(wanted: Sequence[GenerationRequest]) -> int:
    return max(len(request.prompt) + request.sampling.max_tokens for request in wanted)


class Plain(NamedTuple):
    tokens: list[int]
    reason: FinishReason


def plain_decoding(request: GenerationRequest, model: FakeEngine) -> Plain:
    """One token after the other, each from nothing but the definition."""
    tokens, sampling = list(request.prompt), request.sampling
    ends = {*sampling.stop_token_ids, *(() if sampling.ignore_eos else (EOS,))}
    for num_output in range(sampling.max_tokens):
        rule = TokenRule(sampling, tokens, len(request.prompt), model.vocab_size, (EOS,))
        logits = torch.tensor(model.logits_after(tokens), dtype=torch.float32)[None]
        (token,), _ = choices(scores([Rows(rule, [len(tokens)], [[]])], logits))
        tokens.append(token)
        if token in ends and num_output >= sampling.min_tokens:
            return Plain(tokens[len(request.prompt) :], FinishReason.STOP)
    return Plain(tokens[len(request.prompt) :], FinishReason.LENGTH)


def play(scenario: Scenario) -> Run:
    """Run it, and assert all that must hold whatever happens."""
    wanted = {request.session_id: request for request in scenario.requests}
    num_cells = scenario.spare_target_cells + max(
        len(request.prompt) + request.sampling.max_tokens + build_submit_policy(request.speculation).max_nodes + 1
        for request in scenario.requests
    )
    model = {"vocab_size": ENGINE_VOCAB, "seed": 3, "order": scenario.order}
    target = FakeEngine(**model, num_cells=num_cells, max_model_len=longest(scenario.requests))
    draft = FakeEngine(**model, num_cells=scenario.num_draft_cells, max_model_len=scenario.draft_model_len, noise=scenario.draft_noise)
    plain = {name: plain_decoding(request, target) for name, request in wanted.items()}
    links: list[ScheduledLink] = []

    def make_link(draft_loop: DraftLoop) -> ScheduledLink:
        links.append(ScheduledLink(draft_loop, scenario.schedule))
        return links[0]

    def on_round(loop: TargetLoop, num_rounds: int) -> None:
        for name, cancelled_at in scenario.cancellations.items():
            if cancelled_at == num_rounds:
                loop.cancel(name)
        target.check_integrity()
        draft.check_integrity()
        for session in loop._running.values():
            assert target.held(session.id) == session.tokens[: target.trunk_length(session.id)]
        for session in links[0].draft._sessions.values():
            request = wanted[session.id]
            assert session.tokens == [*request.prompt, *plain[session.id].tokens][: len(session.tokens)], (
                "the draft believes something else"
            )
            for node in session.tree.nodes.values():
                if node.is_evaluated:
                    held = draft.held(session.id, node.index)
                    assert held == [*session.tokens, *session.tree.path_to(node)], "the cells hold another path than the tree"

    ticks = count()
    run = drive(
        scenario.requests,
        make_link=make_link,
        target=target,
        draft=draft,
        max_sessions=scenario.max_sessions,
        max_step_nodes=scenario.max_step_nodes,
        prefill_chunk_tokens=scenario.prefill_chunk_tokens,
        draft_timeout_s=scenario.draft_timeout_s,
        clock=lambda: next(ticks) * 0.02,  # no run may depend on the machine's speed
        arrivals=scenario.arrivals,
        on_round=on_round,
    )
    assert run.last.keys() == wanted.keys()
    for name, (tokens, reason) in plain.items():
        last = run.last[name]
        is_cut = name in scenario.cancellations and last.finish_reason is FinishReason.CANCELLED
        assert run.tokens[name] == (tokens[: len(run.tokens[name])] if is_cut else tokens)
        assert is_cut or last.finish_reason is reason
        surplus = last.stats.num_rounds + last.stats.num_accepted - last.stats.num_tokens
        assert surplus == 0 or (surplus == 1 and reason is FinishReason.STOP), "a round gives one token and what was accepted"
    return run


@given(scenarios())
def test_whatever_happens_between_target_and_draft_the_tokens_are_those_of_plain_decoding(scenario: Scenario) -> None:
    play(scenario)


@given(scenarios(presets=("sd", "ssd"), backups=("none", "wait"), of=fates, draft_noise=st.just(0.0)))
def test_a_draft_that_is_the_target_is_never_wrong_however_late_and_lossy_its_messages(scenario: Scenario) -> None:
    """Whatever chain it is that gets submitted, all of it is accepted."""
    run = play(scenario)
    for last in run.last.values():
        if last.finish_reason is not FinishReason.STOP:  # a stop token cuts what is accepted
            assert last.stats.num_accepted == last.stats.num_draft_tokens

"""The target's loop: submit, verify, commit, look up. One pass verifies what all running sessions submitted.

Sessions join and leave between rounds. Nothing here waits for a draft unless the session's preset says so, and then no longer than
`draft_timeout_s`: a lost message is a miss, never an error. Prompts are evaluated in chunks by the same passes.
"""

from __future__ import annotations

import logging
import queue
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile

import torch
from tokenizers import Tokenizer

from ssd_core.average import Average
from ssd_core.chores import Chores
from ssd_core.config import PresetName
from ssd_core.engine.base import TRUNK_END, Engine, Part
from ssd_core.errors import CapacityError, InvalidRequestError, TextError
from ssd_core.link import DraftLink
from ssd_core.loop_stats import BackupKind, LoopCounters, LoopStats
from ssd_core.policies.backup import Miss, MissEstimates
from ssd_core.policies.submit import build_submit_policy, worthwhile
from ssd_core.request_check import check_sampling, check_token_ids
from ssd_core.round_cost import RoundCost
from ssd_core.sampling import Rows, TokenRule, choices, scores
from ssd_core.session import Sink, TargetSession, logprobs_of
from ssd_core.store import SpeculationStore
from ssd_core.switch import Regime, Switch, load_level
from ssd_core.timeline import Activity, Timeline
from ssd_core.tree import Node
from ssd_core.types import Emission, FinishReason, GenerationRequest, Outcome, StepTimes, TokenLogprob

logger = logging.getLogger(__name__)

NOT_FINITE = "the target's logits are not finite"
EARLY_SHARE = 0.9
"""Of a pass's time, during which growth is taken in early. Prompts take more, but how much more was not measured: they do not count."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One session's share of a round: tokens not yet in the trunk (the root last), then the submitted nodes."""

    session: TargetSession
    pending: tuple[int, ...]
    nodes: tuple[Node, ...]
    is_last_chunk: bool
    """Logits are wanted: `pending` ends with the root."""

    def cut(self, reaches: Sequence[float], least: float) -> Entry:
        """Without the nodes that reach less far."""
        nodes = tuple(node for node, reach in zip(self.nodes, reaches, strict=True) if reach >= least)
        return Entry(self.session, self.pending, nodes, self.is_last_chunk)

    def part(self) -> Part:
        row_of = {node.id: len(self.pending) + i for i, node in enumerate(self.nodes)}
        root_row = len(self.pending) - 1
        chain = [TRUNK_END, *range(root_row)]
        parents = [row_of.get(node.parent.id, root_row) if node.parent else root_row for node in self.nodes]
        first_logits = root_row if self.is_last_chunk else len(self.pending)
        return Part(self.session.id, [*self.pending, *(node.token for node in self.nodes)], chain + parents, first_logits)


@dataclass(frozen=True, slots=True)
class Round:
    entries: tuple[Entry, ...]

    @property
    def num_nodes(self) -> int:
        return sum(len(entry.pending) + len(entry.nodes) for entry in self.entries)

    @property
    def num_prompt_tokens(self) -> int:
        return sum(len(entry.pending) for entry in self.entries if len(entry.pending) > 1)

    @property
    def num_decoding_nodes(self) -> int:
        return self.num_nodes - self.num_prompt_tokens

    @property
    def num_decoding(self) -> int:
        """Sessions whose prompts were evaluated before."""
        return sum(len(entry.pending) == 1 for entry in self.entries)


@dataclass(frozen=True, slots=True)
class Launch:
    """When a round's pass began."""

    at: float
    round: Round
    regime: Regime
    tokens_before: int
    """That the loop had emitted by then."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a pass gave, row by row: the root of a session and its submitted nodes, session by session."""

    logits: torch.Tensor
    """[R, V]"""
    tokens: list[int]
    is_finite: list[bool]

    def logits_of(self, rows: slice) -> torch.Tensor:
        """A session's own. To cut a tensor takes a third of the time of committing a session, and one alone has all rows."""
        return self.logits if rows.stop - rows.start == len(self.tokens) else self.logits[rows]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the target chose for one session: accepted tokens, then the bonus."""

    session: TargetSession
    tokens: tuple[int, ...]


class TargetLoop:
    """Drives one target engine. `add`, `cancel` and `stats` may be called from any thread; the rest from one."""

    def __init__(
        self,
        engine: Engine,
        link: DraftLink,
        step_times: StepTimes,
        *,
        eos_token_ids: Sequence[int] = (),
        tokenizer: Tokenizer | None = None,
        max_sessions: int = 32,
        max_queued: int = 128,
        prefill_chunk_tokens: int = 256,
        draft_timeout_s: float = 0.5,
        ingests_early: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`ingests_early`: the engine's passes run on a device of their own, and meanwhile growth is taken in and chores are done;
        `link.wait` must wait."""
        self._engine = engine
        self._ingests_early = ingests_early
        self._link = link
        self._step_times = step_times
        self._round_cost = RoundCost(step_times)
        self._eos_token_ids = tuple(eos_token_ids)
        self._tokenizer = tokenizer
        self._max_sessions = max_sessions
        self._max_queued = max_queued
        self._prefill_chunk_tokens = prefill_chunk_tokens
        self._draft_timeout_s = draft_timeout_s
        self._clock = clock
        self.timeline = Timeline(clock)
        self._store = SpeculationStore(engine.vocab_size)
        self._inbox: queue.SimpleQueue[TargetSession] = queue.SimpleQueue()
        self._cancelled: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._waiting: deque[TargetSession] = deque()
        self._running: dict[str, TargetSession] = {}
        self._live: dict[str, TargetSession] = {}
        """Running and waiting, by id. Written by whoever adds, and by the loop."""
        self._refused_tokens = 0
        self._counters = LoopCounters()
        self._round_s: dict[int, Average] = defaultdict(lambda: Average(step_times.at(1)))
        """By level of load: from a launch to the next."""
        self._missed: dict[tuple[PresetName, int], MissEstimates] = defaultdict(MissEstimates)
        """By preset and level of load."""
        self._switches: dict[Regime, Switch] = defaultdict(Switch)
        self._regime: Regime | None = None
        """Of the sessions that run; None: there are none."""
        self._launch: Launch | None = None
        """The newest, unless nothing has run since."""
        self._waited_s = 0.0
        """Since then, for drafts."""
        self._verified_at: float | None = None
        self._verified_at_cpu = 0.0
        """The thread's CPU time then."""
        self._all_hit = False
        self._chores = Chores()
        """What is left to do of committed rounds, in order: telling and counting, on which no other round hangs."""

    # ------------------------------------------------------------ from any thread

    def add(self, request: GenerationRequest, sink: Sink) -> None:
        """Queue a request; `sink` is called in the loop's thread, last with a finish reason.

        Raises InvalidRequestError for what can never run here, CapacityError when the queue is full."""
        submit = build_submit_policy(request.speculation)
        self._check(request, submit.max_nodes)
        if len(self._live) >= self._max_queued + self._max_sessions:
            self._refused_tokens += round(self._expected_length(request))
            raise CapacityError(f"{len(self._live)} sessions are running or waiting")
        rule = TokenRule(
            request.sampling, request.prompt, len(request.prompt), self._engine.vocab_size, self._eos_token_ids, self._engine.device
        )
        session = TargetSession(request, sink, rule, submit, self._eos_token_ids, self._tokenizer, self._clock())
        if self._live.setdefault(session.id, session) is not session:
            raise InvalidRequestError("session_id", f"{session.id!r} is running or waiting already")
        self._inbox.put(session)
        self._link.wake()

    def cancel(self, session_id: str) -> None:
        """End a session within one round, if it is still there. Its sink hears CANCELLED."""
        self._cancelled.put(session_id)
        self._link.wake()

    def stats(self) -> LoopStats:
        engine = self._engine
        return self._counters.snapshot(
            running=len(self._running),
            max_running=self._max_sessions,
            queued=len(self._live) - len(self._running),
            outstanding_tokens=round(
                sum(max(1.0, self._expected_length(s.request) - s.num_output_tokens) for s in [*self._running.values(), *self._waiting])
            ),
            refused_tokens=self._refused_tokens,
            kv_cells=engine.num_cells,
            kv_cells_free=engine.num_free_cells,
            flops_per_node=engine.flops_per_token,
            step_times=self._step_times,
            store_sessions=len(self._store),
            store=self._store.counters,
        )

    def _expected_length(self, request: GenerationRequest) -> float:
        return self._counters.length_share.value * request.sampling.max_tokens

    # ------------------------------------------------------------ the loop

    def step(self) -> bool:
        """One round of everything that can run. False: nothing could, `wait` first."""
        this_round = self._submit()
        if this_round is None:
            return False
        verdicts = self._commit(this_round, self._verify(this_round))
        self._look_up(verdicts)
        return True

    def wait(self, timeout_s: float) -> None:
        """After a `step` that did nothing: until growth, a new request, or the timeout."""
        self._chores.do()
        began = self._clock()
        self.timeline.turn(Activity.WAIT)
        self._verified_at = None
        pauses_s = [session.pause_left_s(self._store[session.id], began) for session in self._running.values() if session.pause is not None]
        self._link.wait(min([timeout_s, *pauses_s]))
        waited = self._clock() - began
        self.timeline.turn(Activity.HOST)
        for session in self._running.values():
            if session.ready_since is not None:
                session.count_wait(waited)
        if self._running:
            self._waited_s += waited
            self._counters.draft_wait_s += waited
        else:
            self._launch = None
        self._ingest()

    @property
    def is_idle(self) -> bool:
        return not self._running and not self._waiting and self._inbox.empty()

    def check_integrity(self) -> None:
        """Every running session has its tree, rooted at its newest token."""
        self._store.check_integrity()
        assert len(self._store) == len(self._running)
        for session in self._running.values():
            tree = self._store[session.id].tree
            assert tree.length == len(session.tokens) and tree.root.token == session.tokens[-1], session.id

    def abort(self, reason: str) -> None:
        """End every session with an error: the engine can go no further."""
        self._take_requests()
        for session in [*self._running.values(), *self._waiting]:
            self._finish(session, (), FinishReason.ERROR, error=reason)
        self._waiting.clear()

    # ------------------------------------------------------------ submit

    def _submit(self) -> Round | None:
        self._take_requests()
        self._admit()
        self._turn_speculation()
        ready = [session for session in self._running.values() if self._is_ready(session)]
        now = self._clock()
        self._counters.draft_turn_s += sum(now - session.ready_since for session in ready if session.ready_since is not None)
        for session in ready:
            if session.pause is not None and session.missed_at is not None:
                self._estimates(session).wait_s.add(now - session.missed_at)
        entries = self._entries(ready) if ready else []
        self._send_outcomes(entries)
        return Round(tuple(entries)) if entries else None

    def _take_requests(self) -> None:
        while not self._inbox.empty():
            self._waiting.append(self._inbox.get())
        while not self._cancelled.empty():
            session_id = self._cancelled.get()
            session = self._running.get(session_id) or next((s for s in self._waiting if s.id == session_id), None)
            if session is not None:
                if session_id not in self._running:
                    self._waiting.remove(session)
                self._finish(session, (), FinishReason.CANCELLED)

    def _admit(self) -> None:
        """Let waiting sessions in, in order, while there is room for their whole length."""
        while self._waiting and len(self._running) < self._max_sessions:
            session = self._waiting[0]
            try:
                self._engine.open(session.id, self._cells(session.request, session.submit.max_nodes))
            except CapacityError:
                return
            self._waiting.popleft()
            self._counters.queue.add(self._clock() - session.arrived_at)
            self._counters.prompt_tokens += len(session.request.prompt)
            self._running[session.id] = session
            self._store.open(session.id, session.tokens)

    def _turn_speculation(self) -> None:
        """Give a draft to those who are to have one and have none yet."""
        self._follow_load()
        is_on = self._regime is not None and self._switches[self._regime].is_on
        for session in self._running.values():
            session.speculates = session.submit.uses_draft and (is_on or not session.is_tuned)
            if session.speculates and session.needs_draft:
                self._open_draft(session)

    def _follow_load(self) -> None:
        """Tell the switches that the load has become another."""
        num_sampled = sum(session.rule.temperature > 0 for session in self._running.values())
        regime = Regime(load_level(len(self._running)), 2 * num_sampled > len(self._running)) if self._running else None
        if regime == self._regime:
            return
        now = self._clock()
        if self._regime is not None:
            self._switches[self._regime].leave(now)
        if regime is not None:
            self._switches[regime].enter(now)
        self._regime = regime

    def _ingest(self) -> None:
        lost = list(self._link.needs_open())
        for report in self._link.poll_growth():
            self._counters.count_report(report)
            lost.extend(report.unknown_sessions)
            for growth in report.growths:
                self._store.ingest(growth)
        for session_id in lost:
            self._reopen(session_id)

    def _reopen(self, session_id: str) -> None:
        session = self._running.get(session_id)
        if session is not None and session.speculates:
            self._open_draft(session)
        elif session is not None:
            session.needs_draft = True

    def _open_draft(self, session: TargetSession) -> None:
        session.has_draft, session.needs_draft = True, False
        self._store[session.id].acknowledged_length = session.told_length = len(session.tokens)
        self._link.open(session.opening())

    def _is_ready(self, session: TargetSession) -> bool:
        """A session that waits for its draft, by preset or after a miss, is ready when the draft is, or cannot be waited for."""
        if not session.speculates or self._engine.trunk_length(session.id) < len(session.tokens) - 1:
            return True  # nothing to wait for, or its prompt is not evaluated yet
        stored, now = self._store[session.id], self._clock()
        is_ready = session.submit.is_ready(stored) and session.pause_left_s(stored, now) == 0.0
        if is_ready or not self._link.has_draft(session.id):
            return True
        if session.ready_since is None:
            session.ready_since = now
        if now - session.ready_since < self._draft_timeout_s:
            return False
        self._counters.draft_timeouts += 1
        self._reopen(session.id)
        return True

    def _entries(self, ready: list[TargetSession]) -> list[Entry]:
        """Prompt chunks within the pass's budget, and for the others what their policies submit, sized over the whole pass. A prompt is cut
        where it would be cut alone, and nothing is submitted with it: how its chunks round hangs neither on who else is there nor on what
        the draft has ready."""
        entries: list[Entry] = []
        budget = self._prefill_chunk_tokens
        for session in ready:
            length = self._engine.trunk_length(session.id)
            pending = tuple(session.tokens[length:])
            chunk = pending[: self._prefill_chunk_tokens - length % self._prefill_chunk_tokens]
            if len(pending) > 1:
                if len(chunk) > budget:
                    continue
                budget -= len(chunk)
            is_last_chunk = len(chunk) == len(pending)
            nodes: list[Node] = []
            if len(pending) == 1 and session.speculates:
                session.guess(self._store[session.id].tree)
                nodes = session.submit.nodes(self._store[session.id].tree)
            entries.append(Entry(session, chunk, tuple(nodes[: self._room(session)]), is_last_chunk))
        return self._sized(entries)

    def _room(self, session: TargetSession) -> int:
        """More speculated tokens than can still be emitted would be wasted."""
        return session.request.sampling.max_tokens - session.num_output_tokens - 1

    def _sized(self, entries: list[Entry]) -> list[Entry]:
        """Drop the optional nodes that are not worth their share of the round's time. Prompts do not count: they take their time whatever
        is submitted, in this round or another, and time is worth what it yields in rounds without them."""
        reaches = [self._store[entry.session.id].tree.reaches(entry.nodes) for entry in entries]
        offers: list[float] = []
        base_nodes, base_gain = 0, 0.0
        for entry, gains in zip(entries, reaches, strict=True):
            if entry.is_last_chunk:
                base_nodes += 1
                base_gain += 1.0
            if entry.session.submit.is_sized:
                offers.extend(gains)
            else:
                base_nodes += len(gains)
                base_gain += sum(gains)
        if not offers:
            return entries
        offers.sort(reverse=True)
        num_deciding = sum(entry.is_last_chunk for entry in entries)
        seconds = self._round_cost.of(num_deciding)
        count = worthwhile(offers, base_gain, lambda num_offers: seconds(base_nodes + num_offers))
        threshold = offers[count - 1] if count else float("inf")
        return [
            entry.cut(gains, threshold) if entry.session.submit.is_sized else entry for entry, gains in zip(entries, reaches, strict=True)
        ]

    def _send_outcomes(self, entries: list[Entry]) -> None:
        """Tell the drafts what is verified now; and those that are waited for, what was committed."""
        submitted = {entry.session.id: entry.nodes for entry in entries if entry.is_last_chunk and not entry.session.submit.waits}
        outcomes = [
            self._outcome(session, submitted.get(session.id, ()))
            for session in self._running.values()
            if session.speculates and (session.id in submitted or session.told_length != len(session.tokens))
        ]
        if outcomes:
            self._link.send_outcomes(outcomes)

    def _outcome(self, session: TargetSession, nodes: Sequence[Node]) -> Outcome:
        session.told_length = len(session.tokens)
        base = self._store[session.id].acknowledged_length
        return Outcome(session.id, base, tuple(session.tokens[base:]), tuple(node.id for node in nodes))

    # ------------------------------------------------------------ verify

    def _verify(self, this_round: Round) -> Chosen:
        parts = [entry.part() for entry in this_round.entries]
        began, began_cpu = self._clock(), time.thread_time()
        self.timeline.turn(Activity.LAUNCH)
        logits = self._engine.evaluate(parts)
        self.timeline.turn(Activity.DEVICE)
        if self._verified_at is not None:
            gap_s, cpu_s = began - self._verified_at, began_cpu - self._verified_at_cpu
            self._counters.count_gap(gap_s, cpu_s, is_single_hit=self._all_hit and len(parts) == 1)
        if self._launch is not None:
            self._learn_round(self._launch, began - self._launch.at, self._waited_s)
        assert self._regime is not None, "somebody runs"
        self._launch, self._waited_s = Launch(began, this_round, self._regime, self._counters.tokens), 0.0
        if self._ingests_early:
            self._chores.do()
            self._ingest_until(began + EARLY_SHARE * self._step_times.at(this_round.num_decoding_nodes))
        chosen = Chosen(logits, *self._choices(this_round.entries, logits))
        self.timeline.turn(Activity.HOST)
        self._verified_at, self._verified_at_cpu = self._clock(), time.thread_time()
        self._counters.count_pass(this_round.num_nodes, self._verified_at - began, this_round.num_prompt_tokens > 0)
        return chosen

    def _ingest_until(self, until: float) -> None:
        """Take in what is grown while the device is at work: then it need not be done between two passes."""
        while (left_s := until - self._clock()) > 0:
            self._link.wait(left_s)
            self._ingest()

    def _learn_round(self, launch: Launch, seconds: float, waited_s: float) -> None:
        """What a round took, and what it gave. The switch is told of all its time but what its prompts usually take: so of `waited_s`,
        which drafts were waited for after it, and of how a draft that reads prompts may hold the target up. What a round costs is
        learned where none was waited for."""
        this_round = launch.round
        num_decoding, num_prompt_tokens = this_round.num_decoding, this_round.num_prompt_tokens
        if num_prompt_tokens:
            own_s = seconds - waited_s
            seconds = waited_s + self._round_cost.less_prompts(own_s, num_prompt_tokens, num_decoding, this_round.num_decoding_nodes)
        elif not waited_s:
            self._round_cost.observe(num_decoding, this_round.num_nodes, seconds)
            self._round_s[load_level(num_decoding)].add(seconds)
        if all(entry.session.is_tuned for entry in this_round.entries):
            num_sessions = len(this_round.entries)
            plain_rate = num_sessions / self._round_cost.seconds(num_sessions, num_sessions)
            self._switches[launch.regime].observe(self._counters.tokens - launch.tokens_before, seconds, plain_rate)

    # ------------------------------------------------------------ commit

    def _commit(self, this_round: Round, chosen: Chosen) -> list[Verdict]:
        """Walk the target's own choices down what was submitted. The only place where tokens are written."""
        entries = this_round.entries
        sizes = [1 + len(entry.nodes) if entry.is_last_chunk else 0 for entry in entries]
        starts = [0, *accumulate(sizes)]
        verdicts: list[Verdict] = []
        for i, entry in enumerate(entries):
            rows = slice(starts[i], starts[i + 1])
            if not entry.is_last_chunk:
                self._engine.advance(entry.session.id, range(len(entry.pending)))
            else:
                verdicts.extend(self._commit_entry(entry, chosen.tokens[rows], chosen.is_finite[rows], chosen.logits_of(rows)))
        if not self._ingests_early:
            self._chores.do()  # the next pass would hold them up
        return verdicts

    def _choices(self, entries: Sequence[Entry], logits: torch.Tensor) -> tuple[list[int], list[bool]]:
        """The token rule at every row, and whether its score is a number."""
        return choices(scores([_rows(entry, self._store[entry.session.id].tree.root) for entry in entries if entry.is_last_chunk], logits))

    def _commit_entry(self, entry: Entry, chosen: list[int], is_finite: list[bool], logits: torch.Tensor) -> list[Verdict]:
        """Logits that are not finite matter where a token would come from them, as in plain decoding: the session ends there."""
        session = entry.session
        tree = self._store[session.id].tree
        root = tree.root
        accepted, tokens = session.acceptance.walk(root, entry.nodes, chosen, logits)
        row_of = {node.id: 1 + i for i, node in enumerate(entry.nodes)}
        rows = [0, *(row_of[node.id] for node in accepted)]
        is_sick = not all(is_finite[row] for row in rows)
        if is_sick:
            rows = list(takewhile(is_finite.__getitem__, rows))
            accepted, tokens = accepted[: len(rows)], tokens[: len(rows)]
        if not rows:
            return self._fail(session, NOT_FINITE)
        passed = [root, *accepted][: len(rows)]
        self._chores.add(self._counters.count_walk, passed, tokens, tree.num_outcomes)
        for node, token in zip(passed, tokens, strict=True):
            session.learn_guess(node, token)
        try:
            ending = session.ending(tokens)
        except TextError as error:
            return self._fail(session, str(error))
        tokens = tokens[: ending.num_tokens]
        num_accepted = min(len(accepted), len(tokens))
        num_logprobs = session.request.sampling.logprobs
        logprobs = logprobs_of(logits[rows[: len(tokens)]], tokens, num_logprobs) if num_logprobs is not None else ()
        if session.is_after_hit is not None:
            self._estimates(session).observe_round(session.is_after_hit, session.pause is not None, len(rows))
        is_first = session.num_output_tokens == 0
        session.commit(tokens, len(entry.nodes), num_accepted, self._clock())
        if is_first:
            self._counters.first_token.add(session.first_token_s)
        self._counters.count_round(len(tokens), len(entry.nodes), num_accepted, session.is_after_hit)
        if ending.reason is not None:
            self._finish(session, tuple(tokens), ending.reason, logprobs=logprobs)
            return []
        self._chores.add(session.sink, Emission(session.id, tuple(tokens), logprobs))
        if is_sick:
            return self._fail(session, NOT_FINITE)
        root_row = len(entry.pending) - 1
        self._engine.advance(session.id, [*range(root_row), *(root_row + row for row in rows)])
        return [Verdict(session, tuple(tokens))]

    def _fail(self, session: TargetSession, error: str) -> list[Verdict]:
        self._finish(session, (), FinishReason.ERROR, error=error)
        return []

    def _finish(
        self,
        session: TargetSession,
        tokens: tuple[int, ...],
        reason: FinishReason,
        *,
        logprobs: tuple[TokenLogprob, ...] = (),
        error: str = "",
    ) -> None:
        """Give everything back, on every path a session can end, then tell its sink, which has heard of all rounds before."""
        self._chores.do()
        del self._live[session.id]
        if self._running.pop(session.id, None) is not None:
            self._engine.close(session.id)
            self._store.close(session.id)
            if session.has_draft:
                self._link.close(session.id)
        stats = session.stats()
        self._counters.count_end(reason, stats, self._clock() - session.arrived_at, session.request.sampling.max_tokens)
        session.sink(Emission(session.id, tokens, logprobs, reason, error, stats))

    # ------------------------------------------------------------ look up

    def _look_up(self, verdicts: Sequence[Verdict]) -> None:
        """Ask the store for each outcome's continuation. A local matter: no message is waited for. The outcome comes first: most of what
        was grown during the pass hangs where the target did not go, and need not be taken in."""
        began = self._clock()
        unforeseen = set()
        for verdict in verdicts:
            if self._store.advance(verdict.session.id, verdict.tokens):
                unforeseen.add(verdict.session.id)
            self._chores.add(self._store[verdict.session.id].tree.let_go)
        deep_hits = {verdict.session.id for verdict in verdicts if self._store.look_up(verdict.session.id)}
        self._ingest()
        self._all_hit = bool(verdicts)
        for verdict in verdicts:
            session = verdict.session
            is_hit = self._store.look_up(session.id)
            if session.speculates and not session.submit.waits:
                now = self._clock()
                self._counters.count_lookup(is_hit, session.id in deep_hits, now - began)
                session.count_lookup(is_hit, now)
                self._estimates(session).hit_rate.add(is_hit)
                if not is_hit:
                    self._counters.count_miss(session.id in unforeseen, self._choose_backup(session))
            else:
                session.skip_lookup()
            self._all_hit &= is_hit

    def _choose_backup(self, session: TargetSession) -> BackupKind:
        tree = self._store[session.id].tree
        session.guess(tree)
        guesses = session.submit.nodes(tree)
        tokens_alone = 1.0 + sum(map(tree.reach, guesses))
        num_sessions = len(self._running)
        miss = Miss(num_sessions, tokens_alone, self._round_s[load_level(num_sessions)].value, self._estimates(session))
        session.pause = session.backup.pause(miss)
        if session.pause is not None:
            return BackupKind.WAIT
        return BackupKind.GUESS if guesses else BackupKind.NONE

    def _estimates(self, session: TargetSession) -> MissEstimates:
        return self._missed[session.request.speculation.preset, load_level(len(self._running))]

    # ------------------------------------------------------------ room

    def _cells(self, request: GenerationRequest, max_nodes: int) -> int:
        """KV cells a session can ever need: all its tokens, and one round's nodes."""
        return len(request.prompt) + request.sampling.max_tokens + max_nodes + 1

    def _check(self, request: GenerationRequest, max_nodes: int) -> None:
        if not request.prompt:
            raise InvalidRequestError("prompt", "is empty")
        check_token_ids("prompt", request.prompt, self._engine.vocab_size)
        check_sampling(request.sampling, self._engine.vocab_size)
        length = len(request.prompt) + request.sampling.max_tokens
        if length > self._engine.max_model_len:
            field = "prompt" if len(request.prompt) >= self._engine.max_model_len else "max_tokens"
            raise InvalidRequestError(
                field, f"{len(request.prompt)} prompt tokens and {request.sampling.max_tokens} new ones exceed {self._engine.max_model_len}"
            )
        if self._cells(request, max_nodes) > self._engine.num_cells:
            raise InvalidRequestError("max_tokens", f"needs {self._cells(request, max_nodes)} KV cells, there are {self._engine.num_cells}")


def _rows(entry: Entry, root: Node) -> Rows:
    """The root's row and every submitted node's."""
    paths: dict[int, list[int]] = {root.id: []}
    for node in entry.nodes:
        assert node.parent is not None
        paths[node.id] = [*paths[node.parent.id], node.token]
    return Rows(entry.session.rule, [root.position + 1, *(node.position + 1 for node in entry.nodes)], list(paths.values()))

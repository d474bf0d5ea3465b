"""What a target loop counts, and the snapshot it gives to metrics and benchmarks."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from ssd_core.average import Average
from ssd_core.samples import is_sample, learns
from ssd_core.store import StoreCounters
from ssd_core.tree import Node
from ssd_core.types import FinishReason, GrowthReport, SessionStats, StepTimes

TIME_BUCKETS_S = (5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 7.5e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 1e-2, 5e-2)
"""Of a round's parts."""
REQUEST_BUCKETS_S = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0)
"""Of a request's."""
TOKEN_BUCKETS_S = (1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 7.5e-3, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
"""Of a token."""


@dataclass(slots=True)
class Histogram:
    """Counts by upper bound (seconds), the last one unbounded."""

    bounds_s: tuple[float, ...] = TIME_BUCKETS_S
    counts: list[int] = field(init=False)
    total_s: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds_s) + 1)

    @learns
    def add(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds_s, seconds)] += 1
        self.total_s += seconds

    def snapshot(self) -> HistogramSnapshot:
        return HistogramSnapshot(self.bounds_s, tuple(self.counts), self.total_s)


EDGE_BINS = 10


@dataclass(slots=True)
class Reliability:
    """Edge probabilities against what the target chose, in EDGE_BINS bins of equal width. A calibrated edge of 0.7 is chosen seven times in
    ten."""

    edges: list[int] = field(default_factory=lambda: [0] * EDGE_BINS)
    """Children proposed by drafts after nodes that the target came by."""
    expected: list[float] = field(default_factory=lambda: [0.0] * EDGE_BINS)
    """Sum of their edges."""
    chosen: list[int] = field(default_factory=lambda: [0] * EDGE_BINS)

    @learns
    def add(self, edge: float, is_chosen: bool) -> None:
        i = min(int(edge * EDGE_BINS), EDGE_BINS - 1)
        self.edges[i] += 1
        self.expected[i] += edge
        self.chosen[i] += is_chosen


@dataclass(frozen=True, slots=True)
class ReliabilitySnapshot:
    edges: tuple[int, ...]
    expected: tuple[float, ...]
    chosen: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class HistogramSnapshot:
    bounds_s: tuple[float, ...]
    counts: tuple[int, ...]
    total_s: float


class BackupKind(StrEnum):
    """What a session does on a miss."""

    WAIT = "wait"
    """Its next round waits for the draft."""
    GUESS = "guess"
    """... begins at once, with what prompt look-up guesses."""
    NONE = "none"
    """... begins at once, with nothing."""


@dataclass(frozen=True, slots=True)
class LoopStats:
    """Totals since the loop began, and what runs now. Times in seconds."""

    running: int
    max_running: int
    queued: int
    outstanding_tokens: int
    """That running and queued requests are expected to generate: as large a share of their `max_tokens` as others did lately."""
    refused_tokens: int
    """The same of all requests that were refused because the queue was full."""
    kv_cells: int
    kv_cells_free: int
    flops_per_node: float
    step_times: StepTimes
    """As measured at start."""
    store_sessions: int
    passes: int
    pass_nodes: int
    pass_s: float
    prompt_passes: int
    """Of the passes, those that read prompts, alone or besides other sessions' rounds."""
    prompt_pass_nodes: int
    prompt_pass_s: float
    rounds: int
    drafts: int
    """Rounds in which speculated tokens were submitted."""
    tokens: int
    hit_rounds: int
    """Rounds whose speculation came from a look-up that hit, and what they emitted. A session's first round, and all rounds of presets that
    do not look up, are neither these nor those after a miss."""
    hit_tokens: int
    hit_draft_tokens: int
    """Nodes submitted with them."""
    miss_rounds: int
    miss_tokens: int
    miss_draft_tokens: int
    draft_tokens: int
    accepted: int
    accepted_per_position: tuple[int, ...]
    deep_accepted: int
    """Accepted tokens that had been grown before the outcome before: speculation on what follows a speculation."""
    lookups: int
    hits: int
    misses_ungrown: int
    """Look-ups that missed because growth had not come so far: it ended before what may follow the outcome, or at the outcome."""
    misses_unforeseen: int
    """... because other tokens had been proposed there."""
    backups: tuple[tuple[str, int], ...]
    """What was done on a miss, by kind (see BackupKind)."""
    deep_hits: int
    """Hits on what had been taken in when the verdict fell: grown before the round began, or, on a GPU, early in its pass."""
    reliability: ReliabilitySnapshot
    lookup: HistogramSnapshot
    gap: HistogramSnapshot
    """Own work between the end of a verification and the start of the next."""
    gap_on_hit: HistogramSnapshot
    """The same with one session in the batch whose outcome was in the store."""
    work_on_hit: HistogramSnapshot
    """The loop's own share of that: CPU time of its thread. The rest is waiting for a core or for the interpreter."""
    draft_wait_s: float
    draft_turn_s: float
    """Of all sessions that waited for their draft, from standing ready but for it to the round's launch: the waiting, and taking in what
    came meanwhile."""
    draft_timeouts: int
    reports: int
    draft_steps: int
    draft_nodes: int
    draft_busy_s: float
    store_ingested: int
    store_late: int
    store_garbage: int
    store_duplicate: int
    prompt_tokens: int
    """Of all requests that were let in."""
    finished: tuple[tuple[str, int], ...]
    queue: HistogramSnapshot
    """Of each request, from its arrival until it was let in."""
    first_token: HistogramSnapshot
    """... to its first token."""
    token: HistogramSnapshot
    """Of each request that was not broken off, the mean time of a token after the first."""
    request: HistogramSnapshot
    """... and from its arrival to its end."""

    @property
    def kv_share(self) -> float:
        """Of the KV cells, those in use."""
        return 1 - self.kv_cells_free / self.kv_cells

    @property
    def used_share(self) -> float:
        """Of the KV cells, or of the sessions that may run: whichever is more."""
        return max(self.kv_share, self.running / self.max_running)


class LoopCounters:
    """The mutable side; written by the loop's thread only."""

    def __init__(self) -> None:
        self.passes = self.pass_nodes = self.rounds = self.drafts = self.tokens = self.draft_tokens = self.accepted = 0
        self.prompt_passes = self.prompt_pass_nodes = 0
        self.hit_rounds = self.hit_tokens = self.hit_draft_tokens = self.miss_rounds = self.miss_tokens = self.miss_draft_tokens = 0
        self.pass_s = self.prompt_pass_s = self.draft_wait_s = self.draft_turn_s = self.draft_busy_s = 0.0
        self.deep_accepted = self.deep_hits = 0
        self.reliability = Reliability()
        self.length_share = Average(1.0)
        """What requests generate of their `max_tokens`; all, until one has ended."""
        self.lookups = self.hits = self.draft_timeouts = self.reports = self.draft_steps = self.draft_nodes = 0
        self.accepted_per_position: list[int] = []
        self.lookup, self.gap, self.gap_on_hit, self.work_on_hit = Histogram(), Histogram(), Histogram(), Histogram()
        self.misses_ungrown = self.misses_unforeseen = self.prompt_tokens = 0
        self.backups: Counter[BackupKind] = Counter()
        self.finished: Counter[str] = Counter()
        self.queue, self.first_token, self.request = (Histogram(REQUEST_BUCKETS_S) for _ in range(3))
        self.token = Histogram(TOKEN_BUCKETS_S)

    def count_pass(self, num_nodes: int, seconds: float, has_prompts: bool) -> None:
        self.passes += 1
        self.pass_nodes += num_nodes
        self.pass_s += seconds
        if has_prompts:
            self.prompt_passes += 1
            self.prompt_pass_nodes += num_nodes
            self.prompt_pass_s += seconds

    def count_gap(self, seconds: float, cpu_s: float, is_single_hit: bool) -> None:
        self.gap.add(seconds)
        if is_single_hit:
            self.gap_on_hit.add(seconds)
            self.work_on_hit.add(cpu_s)

    def count_round(self, num_tokens: int, num_submitted: int, num_accepted: int, is_after_hit: bool | None) -> None:
        self.rounds += 1
        if is_after_hit:
            self.hit_rounds += 1
            self.hit_tokens += num_tokens
            self.hit_draft_tokens += num_submitted
        elif is_after_hit is not None:
            self.miss_rounds += 1
            self.miss_tokens += num_tokens
            self.miss_draft_tokens += num_submitted
        self.drafts += num_submitted > 0
        self.tokens += num_tokens
        self.draft_tokens += num_submitted
        self.accepted += num_accepted
        self.accepted_per_position.extend([0] * (num_accepted - len(self.accepted_per_position)))
        for i in range(num_accepted):
            self.accepted_per_position[i] += 1

    def count_walk(self, passed: Sequence[Node], tokens: Sequence[int], num_outcomes: int) -> None:
        """The target came from a root, the first that it `passed`, by accepted nodes, and after each chose one of `tokens`, in a tree that
        had seen so many outcomes then."""
        self.deep_accepted += sum(node.grown_in < num_outcomes for node in passed[1:])
        for node, token in zip(passed, tokens, strict=True):
            for child in node.children.values():
                if not child.is_guess:
                    edge = math.exp(child.log_reach - node.log_reach)  # `child.edge` is 1 once the child is a root
                    self.reliability.add(edge, child.token == token)

    def count_lookup(self, is_hit: bool, is_deep: bool, seconds: float) -> None:
        """`is_deep`: the hit needed no growth that was taken in after the verdict."""
        self.lookups += 1
        self.hits += is_hit
        self.deep_hits += is_deep
        if is_hit:
            self.lookup.add(seconds)

    def count_miss(self, is_unforeseen: bool, backup: BackupKind) -> None:
        self.misses_unforeseen += is_unforeseen
        self.misses_ungrown += not is_unforeseen
        self.backups[backup] += 1

    def count_end(self, reason: FinishReason, stats: SessionStats, seconds: float, max_tokens: int) -> None:
        """Of a request that might have generated so many tokens, so long after its arrival."""
        self.finished[reason.value] += 1
        if reason in (FinishReason.STOP, FinishReason.LENGTH):
            self.request.add(seconds)
            self.length_share.add(stats.num_tokens / max_tokens)
            if stats.num_tokens > 1:
                self.token.add((seconds - stats.first_token_s) / (stats.num_tokens - 1))

    def count_report(self, report: GrowthReport) -> None:
        self.reports += 1
        work = (report.num_steps, report.num_nodes, report.busy_s)
        if all(is_sample(amount) and amount >= 0 for amount in work):
            self.draft_steps += report.num_steps
            self.draft_nodes += report.num_nodes
            self.draft_busy_s += report.busy_s

    def snapshot(
        self,
        *,
        running: int,
        max_running: int,
        queued: int,
        outstanding_tokens: int,
        refused_tokens: int,
        kv_cells: int,
        kv_cells_free: int,
        flops_per_node: float,
        step_times: StepTimes,
        store_sessions: int,
        store: StoreCounters,
    ) -> LoopStats:
        return LoopStats(
            running=running,
            max_running=max_running,
            queued=queued,
            outstanding_tokens=outstanding_tokens,
            refused_tokens=refused_tokens,
            kv_cells=kv_cells,
            kv_cells_free=kv_cells_free,
            flops_per_node=flops_per_node,
            step_times=step_times,
            store_sessions=store_sessions,
            passes=self.passes,
            pass_nodes=self.pass_nodes,
            pass_s=self.pass_s,
            prompt_passes=self.prompt_passes,
            prompt_pass_nodes=self.prompt_pass_nodes,
            prompt_pass_s=self.prompt_pass_s,
            rounds=self.rounds,
            drafts=self.drafts,
            tokens=self.tokens,
            hit_rounds=self.hit_rounds,
            hit_tokens=self.hit_tokens,
            hit_draft_tokens=self.hit_draft_tokens,
            miss_rounds=self.miss_rounds,
            miss_tokens=self.miss_tokens,
            miss_draft_tokens=self.miss_draft_tokens,
            draft_tokens=self.draft_tokens,
            accepted=self.accepted,
            accepted_per_position=tuple(self.accepted_per_position),
            deep_accepted=self.deep_accepted,
            lookups=self.lookups,
            hits=self.hits,
            misses_ungrown=self.misses_ungrown,
            misses_unforeseen=self.misses_unforeseen,
            backups=tuple((kind.value, self.backups[kind]) for kind in BackupKind),
            deep_hits=self.deep_hits,
            reliability=ReliabilitySnapshot(
                tuple(self.reliability.edges), tuple(self.reliability.expected), tuple(self.reliability.chosen)
            ),
            lookup=self.lookup.snapshot(),
            gap=self.gap.snapshot(),
            gap_on_hit=self.gap_on_hit.snapshot(),
            work_on_hit=self.work_on_hit.snapshot(),
            draft_wait_s=self.draft_wait_s,
            draft_turn_s=self.draft_turn_s,
            draft_timeouts=self.draft_timeouts,
            reports=self.reports,
            draft_steps=self.draft_steps,
            draft_nodes=self.draft_nodes,
            draft_busy_s=self.draft_busy_s,
            store_ingested=store.ingested,
            store_late=store.late,
            store_garbage=store.garbage,
            store_duplicate=store.duplicate,
            prompt_tokens=self.prompt_tokens,
            finished=tuple(self.finished.items()),
            queue=self.queue.snapshot(),
            first_token=self.first_token.snapshot(),
            token=self.token.snapshot(),
            request=self.request.snapshot(),
        )

"""Every metric of the service, and the page that lists them: `python -m deployments.metric_tables > deployments/METRICS.md`.

vLLM's names where vLLM has one, so that its tools read ours; `ssd_*` for the rest. Pure.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from deployments.config import OnDevices
from deployments.messages import PoolStatus, Sample
from deployments.metrics import Metric, counter, gauge, histogram

if TYPE_CHECKING:
    from ssd_core.loop_stats import LoopStats


def _positions(stats: LoopStats) -> Iterable[tuple[tuple[str], float]]:
    return (((str(i),), count) for i, count in enumerate(stats.accepted_per_position))


def _edges(column: str) -> Metric:
    meaning = {
        "edges": "Children that drafts proposed after nodes the target came by, by the probability that was given to them",
        "expected": "The sum of those probabilities: expected acceptance",
        "chosen": "How many of those children the target chose: realised acceptance",
    }[column]

    def read(stats: LoopStats) -> Iterable[tuple[tuple[str], float]]:
        values = getattr(stats.reliability, column)
        return (((f"{(i + 0.5) / len(values):g}",), value) for i, value in enumerate(values))

    name = "ssd_edges_total" if column == "edges" else f"ssd_edges_{column}_total"
    return Metric(name, "counter", "children", meaning, read, ("edge",))


def _step_times(stats: LoopStats) -> Iterable[tuple[tuple[str], float]]:
    return (((str(n),), seconds) for n, seconds in zip(stats.step_times.nodes, stats.step_times.seconds, strict=True))


def _finished(stats: LoopStats) -> Iterable[tuple[tuple[str], float]]:
    return (((reason,), count) for reason, count in stats.finished)


def _backups(stats: LoopStats) -> Iterable[tuple[tuple[str], float]]:
    return (((kind,), count) for kind, count in stats.backups)


def _misses(stats: LoopStats) -> Iterable[tuple[tuple[str], float]]:
    return ((("ungrown",), stats.misses_ungrown), (("unforeseen",), stats.misses_unforeseen))


def _devices(name: str, part: str) -> Metric:
    def read(config: OnDevices) -> Iterable[tuple[tuple[str], float]]:
        return (((config.device_kind,), config.num_devices),)

    return Metric(name, "gauge", "devices", f"What one process of the {part} holds; summed up, what the {part} holds", read, ("kind",))


REQUESTS = (
    gauge("vllm:num_requests_running", "running", "requests", "Let in and not ended"),
    gauge("vllm:num_requests_waiting", "queued", "requests", "Waiting for a place"),
    gauge("ssd_outstanding_tokens", "outstanding_tokens", "tokens", "Expected of all requests, waiting ones too: the router goes by it"),
    gauge("vllm:kv_cache_usage_perc", "kv_share", "share", "Of the target's KV cells, held by sessions"),
    counter("vllm:prompt_tokens_total", "prompt_tokens", "tokens", "Of the prompts of all requests that were let in"),
    counter("vllm:generation_tokens_total", "tokens", "tokens", "Generated"),
    Metric("vllm:request_success_total", "counter", "requests", "Ended, by reason", _finished, ("finished_reason",)),
    histogram("vllm:request_queue_time_seconds", "queue", "From a request's arrival at the target until it was let in"),
    histogram("vllm:time_to_first_token_seconds", "first_token", "From a request's arrival at the target to its first token"),
    histogram("vllm:request_time_per_output_token_seconds", "token", "A request's mean time of a token after its first"),
    histogram("vllm:e2e_request_latency_seconds", "request", "From a request's arrival at the target to its end, if it was not broken off"),
)  # fmt: skip
SPECULATION = (
    counter("ssd_rounds_total", "rounds", "rounds", "A pass over one session's nodes, and the verdict"),
    counter("vllm:spec_decode_num_drafts_total", "drafts", "rounds", "Those that submitted speculated tokens"),
    counter("vllm:spec_decode_num_draft_tokens_total", "draft_tokens", "tokens", "Submitted for verification"),
    counter("vllm:spec_decode_num_accepted_tokens_total", "accepted", "tokens", "Submitted and accepted"),
    Metric(
        "vllm:spec_decode_num_accepted_tokens_per_pos_total", "counter", "tokens", "Accepted, by place after the newest token (from 0)",
        _positions, ("position",),
    ),
    _edges("edges"),
    _edges("expected"),
    _edges("chosen"),
    counter("ssd_lookups_total", "lookups", "look-ups", "Outcomes that the store was asked for: the ends of verify windows"),
    counter("ssd_lookup_hits_total", "hits", "look-ups", "Those whose continuation had been grown"),
    Metric(
        "ssd_lookup_misses_total", "counter", "look-ups",
        "Those that missed: `ungrown`, growth had not come so far; `unforeseen`, other tokens had been proposed there", _misses, ("why",),
    ),
    Metric(
        "ssd_backups_total", "counter", "rounds",
        "What followed a miss: `wait` for the draft, at once with a `guess` by prompt look-up, at once with nothing (`none`)",
        _backups, ("kind",),
    ),
    counter("ssd_deep_hits_total", "deep_hits", "look-ups", "Hits on what had been taken in when the verdict fell"),
    counter("ssd_deep_accepted_tokens_total", "deep_accepted", "tokens", "Accepted tokens that had been grown before the outcome before"),
    counter("ssd_hit_rounds_total", "hit_rounds", "rounds", "Rounds after a hit"),
    counter("ssd_hit_tokens_total", "hit_tokens", "tokens", "What they gave"),
    counter("ssd_hit_draft_tokens_total", "hit_draft_tokens", "tokens", "What was submitted in them"),
    counter("ssd_miss_rounds_total", "miss_rounds", "rounds", "Rounds after a miss"),
    counter("ssd_miss_tokens_total", "miss_tokens", "tokens", "What they gave"),
    counter("ssd_miss_draft_tokens_total", "miss_draft_tokens", "tokens", "What was submitted in them"),
    counter("ssd_draft_wait_seconds_total", "draft_wait_s", "seconds", "In which nothing ran because every session waited for its draft"),
    counter("ssd_draft_turn_seconds_total", "draft_turn_s", "seconds", "That sessions stood ready but for their draft, until their launch"),
    counter("ssd_draft_timeouts_total", "draft_timeouts", "rounds", "Begun without the draft because it did not answer in time"),
)  # fmt: skip
PASSES = (
    counter("ssd_verify_passes_total", "passes", "passes", "Of the target, over the nodes of all sessions of a batch"),
    counter("ssd_verify_nodes_total", "pass_nodes", "nodes", "In them: newest tokens, speculated ones, and prompts"),
    counter("ssd_verify_seconds_total", "pass_s", "seconds", "They took, to the chosen tokens on the host"),
    counter("ssd_prompt_passes_total", "prompt_passes", "passes", "Those that read prompts, alone or beside other sessions"),
    counter("ssd_prompt_pass_nodes_total", "prompt_pass_nodes", "nodes", "In them"),
    counter("ssd_prompt_pass_seconds_total", "prompt_pass_s", "seconds", "They took"),
    Metric("ssd_target_pass_seconds", "gauge", "seconds", "A pass over so many nodes, as measured at start", _step_times, ("nodes",)),
    gauge("ssd_target_flops_per_node", "flops_per_node", "operations", "Of the target, for a node"),
    histogram("ssd_verify_gap_seconds", "gap", "From the end of a pass to the launch of the next"),
    histogram("ssd_verify_gap_on_hit_seconds", "gap_on_hit", "The same, one session, after a hit"),
    histogram("ssd_verify_work_on_hit_seconds", "work_on_hit", "The loop's own processor time in it"),
    histogram("ssd_lookup_hit_seconds", "lookup", "The store's answer to an outcome, on a hit"),
)
GROWTH = (
    gauge("ssd_store_sessions", "store_sessions", "sessions", "In the outcome-keyed store"),
    counter("ssd_growth_reports_total", "reports", "reports", "From drafts"),
    counter("ssd_growth_steps_total", "draft_steps", "steps", "That drafts took for this target's sessions"),
    counter("ssd_growth_nodes_total", "draft_nodes", "nodes", "Evaluated in them"),
    counter("ssd_growth_busy_seconds_total", "draft_busy_s", "seconds", "They took"),
    counter("ssd_growth_ingested_total", "store_ingested", "nodes", "Hung into a tree"),
    counter("ssd_growth_late_total", "store_late", "nodes", "Dropped: the session had gone elsewhere, or ended"),
    counter("ssd_growth_duplicate_total", "store_duplicate", "nodes", "Dropped: they were there"),
    counter("ssd_growth_garbage_total", "store_garbage", "nodes", "Dropped: no token or no probability"),
)
TARGET = (*REQUESTS, *SPECULATION, *PASSES, *GROWTH)
"""Of LoopStats."""
TARGET_DEVICES = (_devices("ssd_target_devices", "target"),)
"""Of OnDevices."""
LINK = (
    counter("ssd_link_messages_sent_total", "messages_sent", "messages", "From the target to drafts"),
    counter("ssd_link_bytes_sent_total", "bytes_sent", "bytes", "In them"),
    counter("ssd_link_send_seconds_total", "send_s", "seconds", "Handing them over took"),
    counter("ssd_link_reports_received_total", "reports_received", "messages", "Growth from drafts"),
    counter("ssd_link_bytes_received_total", "bytes_received", "bytes", "In them"),
    counter("ssd_link_garbage_total", "garbage", "messages", "Dropped: they could not be read"),
    counter("ssd_link_drafts_lost_total", "drafts_lost", "drafts", "That stopped answering"),
    Metric(
        "ssd_growth_arrival_seconds", "histogram", "seconds", "From the end of a growth step to its report's arrival at the target",
        lambda counters: counters.growth_delay.snapshot(),
    ),
)  # fmt: skip
"""Of LinkCounters."""
DRAFT = (
    gauge("ssd_draft_sessions", "num_sessions", "sessions", "That this draft grows for"),
    gauge("ssd_draft_sessions_waiting", "num_waiting", "sessions", "Sessions that wait for room in the draft's KV"),
    gauge("ssd_draft_kv_cells", "num_cells", "cells", "Of its KV"),
    gauge("ssd_draft_kv_cells_free", "num_free_cells", "cells", "That no session holds"),
    gauge("ssd_draft_flops_per_node", "flops_per_node", "operations", "Of the draft, for a node"),
    counter("ssd_draft_steps_total", "num_steps", "steps", "Of growth, over the nodes of all its sessions"),
    counter("ssd_draft_nodes_total", "num_nodes", "nodes", "Evaluated in them"),
    counter("ssd_draft_busy_seconds_total", "busy_s", "seconds", "They took"),
    counter("ssd_draft_garbage_messages_total", "num_garbage", "messages", "Dropped: they could not be read"),
    Metric(
        "ssd_outcome_arrival_seconds", "histogram", "seconds", "From an outcome's leaving the target to its arrival at the draft",
        lambda server: server.order_delay.snapshot(),
    ),
)  # fmt: skip
"""Of DraftServer."""
DRAFT_DEVICES = (_devices("ssd_draft_devices", "drafts"),)
"""Of OnDevices."""


def _num_drafts(status: PoolStatus) -> int:
    return len(status.drafts)


POOL = (
    Metric("ssd_pool_drafts", "gauge", "drafts", "That serve", _num_drafts),
    gauge("ssd_pool_drafts_wanted", "wanted", "drafts", "That should"),
    gauge("ssd_pool_drafts_starting", "num_starting", "drafts", "On their way"),
    gauge("ssd_pool_sessions", "num_sessions", "sessions", "Leased to a draft"),
    counter("ssd_pool_drafts_replaced_total", "num_replaced", "drafts", "That died and were replaced"),
)
"""Of PoolStatus."""
INGRESS = (
    Metric(
        "ssd_http_requests_total", "counter", "requests", "Answered, by route and status",
        lambda counters: (((route, str(status)), n) for (route, status), n in counters.requests.items()), ("route", "status"),
    ),
    gauge("ssd_http_requests_running", "running", "requests", "Completions and chats that are being answered"),
    counter("ssd_stream_pieces_total", "pieces", "pieces", "Of answers, handed to their readers"),
)  # fmt: skip
"""Of ServiceCounters."""

SECTIONS: dict[str, tuple[str, tuple[Metric, ...]]] = {
    "Requests": ("replica", REQUESTS),
    "Speculation": ("replica", SPECULATION),
    "The target's passes": ("replica", (*PASSES, *TARGET_DEVICES)),
    "Growth, as the target sees it": ("replica", GROWTH),
    "Between target and drafts": ("replica", LINK),
    "Drafts": ("draft", (*DRAFT, *DRAFT_DEVICES)),
    "The pool of drafts": ("", POOL),
    "The ingress": ("ingress", INGRESS),
}
"""By title, the label that tells processes of a kind apart, and their metrics."""
BY_NAME = {metric.name: metric for _, metrics in SECTIONS.values() for metric in metrics}


def metric_of(sample: Sample) -> Metric:
    """A histogram's parts belong to it. KeyError: it is in no table."""
    if sample.name in BY_NAME:
        return BY_NAME[sample.name]
    return BY_NAME[sample.name.rpartition("_")[0]]


def page() -> str:
    parts = [INTRODUCTION]
    for title, (own, metrics) in SECTIONS.items():
        rows = [f"| `{m.name}` | {m.kind} | {m.unit} | {_labels(own, m)} | {m.meaning} |" for m in metrics]
        parts.append("\n".join([f"## {title}\n", "| name | kind | unit | labels | meaning |", "|---|---|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """\
# Metrics

At the service's `/metrics` by these names; on every node through Ray's own metrics, with `ray_` before the name and `_` for `:`. There a
histogram's `_bucket`, `_sum` and `_count` are gauges, which `rate` and `histogram_quantile` take as well. Made by
`python -m deployments.metric_tables`."""


def _labels(own: str, metric: Metric) -> str:
    names = [*([own] if own else []), *metric.labels, *(["le"] if metric.kind == "histogram" else [])]
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    sys.stdout.write(page())

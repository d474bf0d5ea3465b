"""Prometheus text of the service. vLLM's names where vLLM has one, so that its tools read ours; `ssd_*` for the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from deployments.messages import Sample

if TYPE_CHECKING:
    from deployments.config import OnDevices
    from deployments.transport import LinkCounters
    from ssd_core.loop_stats import Histogram, HistogramSnapshot, LoopStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def prometheus_text(samples: Iterable[Sample]) -> str:
    """Samples grouped by metric, each with its type once."""
    by_metric: dict[str, list[Sample]] = {}
    for sample in samples:
        by_metric.setdefault(_metric(sample), []).append(sample)
    lines: list[str] = []
    for metric, members in by_metric.items():
        lines.append(f"# TYPE {metric} {members[0].kind}")
        for sample in members:
            labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in sample.labels)
            lines.append(f"{sample.name}{{{labels}}} {_number(sample.value)}" if labels else f"{sample.name} {_number(sample.value)}")
    return "\n".join(lines) + "\n"


def target_samples(stats: LoopStats, replica: str) -> tuple[Sample, ...]:
    labels = (("replica", replica),)

    def counter(name: str, value: float) -> Sample:
        return Sample(name, value, labels, "counter")

    return (
        counter("vllm:spec_decode_num_drafts_total", stats.drafts),
        counter("vllm:spec_decode_num_draft_tokens_total", stats.draft_tokens),
        counter("vllm:spec_decode_num_accepted_tokens_total", stats.accepted),
        *(
            Sample("vllm:spec_decode_num_accepted_tokens_per_pos_total", count, (*labels, ("position", str(i))), "counter")
            for i, count in enumerate(stats.accepted_per_position)
        ),
        counter("vllm:generation_tokens_total", stats.tokens),
        Sample("vllm:num_requests_running", stats.running, labels),
        Sample("vllm:num_requests_waiting", stats.queued, labels),
        Sample("vllm:kv_cache_usage_perc", 1 - stats.kv_cells_free / stats.kv_cells, labels),
        *(Sample("vllm:request_success_total", n, (*labels, ("finished_reason", reason)), "counter") for reason, n in stats.finished),
        Sample("ssd_outstanding_tokens", stats.outstanding_tokens, labels),
        Sample("ssd_target_flops_per_node", stats.flops_per_node, labels),
        *(
            Sample("ssd_target_pass_seconds", seconds, (*labels, ("nodes", str(nodes))))
            for nodes, seconds in zip(stats.step_times.nodes, stats.step_times.seconds, strict=True)
        ),
        Sample("ssd_store_sessions", stats.store_sessions, labels),
        counter("ssd_rounds_total", stats.rounds),
        counter("ssd_verify_passes_total", stats.passes),
        counter("ssd_verify_nodes_total", stats.pass_nodes),
        counter("ssd_verify_seconds_total", stats.pass_s),
        counter("ssd_prompt_passes_total", stats.prompt_passes),
        counter("ssd_prompt_pass_nodes_total", stats.prompt_pass_nodes),
        counter("ssd_prompt_pass_seconds_total", stats.prompt_pass_s),
        counter("ssd_lookups_total", stats.lookups),
        counter("ssd_lookup_hits_total", stats.hits),
        counter("ssd_deep_hits_total", stats.deep_hits),
        counter("ssd_deep_accepted_tokens_total", stats.deep_accepted),
        *(
            Sample(name, value, (*labels, ("edge", f"{(i + 0.5) / len(column):g}")), "counter")
            for name, column in (
                ("ssd_edges_total", stats.reliability.edges),
                ("ssd_edges_expected_total", stats.reliability.expected),
                ("ssd_edges_chosen_total", stats.reliability.chosen),
            )
            for i, value in enumerate(column)
        ),
        counter("ssd_hit_rounds_total", stats.hit_rounds),
        counter("ssd_hit_tokens_total", stats.hit_tokens),
        counter("ssd_hit_draft_tokens_total", stats.hit_draft_tokens),
        counter("ssd_miss_rounds_total", stats.miss_rounds),
        counter("ssd_miss_tokens_total", stats.miss_tokens),
        counter("ssd_miss_draft_tokens_total", stats.miss_draft_tokens),
        counter("ssd_draft_wait_seconds_total", stats.draft_wait_s),
        counter("ssd_draft_turn_seconds_total", stats.draft_turn_s),
        counter("ssd_draft_timeouts_total", stats.draft_timeouts),
        counter("ssd_growth_reports_total", stats.reports),
        counter("ssd_growth_steps_total", stats.draft_steps),
        counter("ssd_growth_nodes_total", stats.draft_nodes),
        counter("ssd_growth_busy_seconds_total", stats.draft_busy_s),
        counter("ssd_growth_ingested_total", stats.store_ingested),
        counter("ssd_growth_late_total", stats.store_late),
        counter("ssd_growth_garbage_total", stats.store_garbage),
        counter("ssd_growth_duplicate_total", stats.store_duplicate),
        *histogram_samples("ssd_lookup_hit_seconds", stats.lookup, labels),
        *histogram_samples("ssd_verify_gap_seconds", stats.gap, labels),
        *histogram_samples("ssd_verify_gap_on_hit_seconds", stats.gap_on_hit, labels),
        *histogram_samples("ssd_verify_work_on_hit_seconds", stats.work_on_hit, labels),
    )


def device_sample(name: str, part: OnDevices, labels: Sequence[tuple[str, str]]) -> Sample:
    """What one process of a part holds; the sum over its processes is what the part holds."""
    return Sample(name, part.num_devices, (*labels, ("kind", part.device_kind)))


def link_samples(counters: LinkCounters, replica: str) -> tuple[Sample, ...]:
    labels = (("replica", replica),)
    return (
        Sample("ssd_link_messages_sent_total", counters.messages_sent, labels, "counter"),
        Sample("ssd_link_bytes_sent_total", counters.bytes_sent, labels, "counter"),
        Sample("ssd_link_send_seconds_total", counters.send_s, labels, "counter"),
        Sample("ssd_link_reports_received_total", counters.reports_received, labels, "counter"),
        Sample("ssd_link_bytes_received_total", counters.bytes_received, labels, "counter"),
        Sample("ssd_link_garbage_total", counters.garbage, labels, "counter"),
        Sample("ssd_link_drafts_lost_total", counters.drafts_lost, labels, "counter"),
        *histogram_samples("ssd_growth_arrival_seconds", counters.growth_delay, labels),
    )


def histogram_samples(name: str, histogram: Histogram | HistogramSnapshot, labels: Sequence[tuple[str, str]]) -> tuple[Sample, ...]:
    from ssd_core.loop_stats import TIME_BUCKETS_S

    cumulative = list(accumulate(histogram.counts))
    bounds = [*(f"{bound:g}" for bound in TIME_BUCKETS_S), "+Inf"]
    buckets = (
        Sample(f"{name}_bucket", count, (*labels, ("le", bound)), "histogram") for bound, count in zip(bounds, cumulative, strict=True)
    )
    return (
        *buckets,
        Sample(f"{name}_sum", histogram.total_s, tuple(labels), "histogram"),
        Sample(f"{name}_count", cumulative[-1], tuple(labels), "histogram"),
    )


def _metric(sample: Sample) -> str:
    """The name a sample's `# TYPE` line has: a histogram's parts belong together."""
    if sample.kind != "histogram":
        return sample.name
    return sample.name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    """Whole counters stay whole however large."""
    return str(int(value)) if value == int(value) else repr(float(value))

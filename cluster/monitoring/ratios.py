"""What is made of the metrics (deployments/METRICS.md): rates, shares and quantiles, each recorded by Prometheus under a name of its own.

Over all replicas and drafts of a service. What nothing happened for in a window has no value there, not zero.
"""

from __future__ import annotations

from dataclasses import dataclass

WINDOW = "1m"
"""Of rates: some scrapes, or they have no value."""


@dataclass(frozen=True, slots=True)
class Ratio:
    name: str
    """`ssd:...`: the colon marks what is recorded."""
    expression: str
    """PromQL; `$window` stands for the window."""
    unit: str
    meaning: str
    label: str = ""
    """By which it has several values."""

    def over(self, window: str) -> str:
        return self.expression.replace("$window", window)


def rate(metric: str, by: str = "") -> str:
    """Of a counter, all processes together."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}[$window]))"


def share(part: str, whole: str, by: str = "") -> str:
    """Of two counters. Without the whole there is no share."""
    if not by:
        return f"{rate(part)} / ({rate(whole)} > 0)"
    return f"{rate(part, by)} / on ({by}) ({rate(whole, by)} > 0)"


def quantile(q: float, histogram: str) -> str:
    return f"histogram_quantile({q:g}, {rate(histogram + '_bucket', 'le')})"


def _quantiles(name: str, histogram: str, what: str) -> tuple[Ratio, ...]:
    return tuple(
        Ratio(f"ssd:{name}_seconds:p{100 * q:g}", quantile(q, histogram), "seconds", f"{what}, {100 * q:g} of 100 at most")
        for q in (0.5, 0.9, 0.99)
    )


TOKENS = "vllm:generation_tokens_total"
LOOKUPS = "ssd_lookups_total"
DECODING_PASSES = f"({rate('ssd_verify_passes_total')} - {rate('ssd_prompt_passes_total')})"
DECODING_S = f"({rate('ssd_verify_seconds_total')} - {rate('ssd_prompt_pass_seconds_total')} + {rate('ssd_draft_wait_seconds_total')})"
PROPOSED = " + ".join(rate(f"ssd_growth_{end}_total") for end in ("ingested", "late", "duplicate", "garbage"))

RATIOS = (
    Ratio("ssd:tokens_per_second", rate(TOKENS), "tokens a second", "Generated"),
    Ratio("ssd:prompt_tokens_per_second", rate("vllm:prompt_tokens_total"), "tokens a second", "Of prompts that were let in"),
    Ratio(
        "ssd:requests_per_second", rate("vllm:request_success_total", "finished_reason"), "requests a second", "Ended, by reason",
        "finished_reason",
    ),
    Ratio("ssd:responses_per_second", rate("ssd_http_requests_total", "status"), "responses a second", "By the ingress", "status"),
    Ratio("ssd:requests_running", "sum (vllm:num_requests_running)", "requests", "Let in and not ended"),
    Ratio("ssd:requests_waiting", "sum (vllm:num_requests_waiting)", "requests", "Waiting for a place"),
    Ratio("ssd:outstanding_tokens", "sum (ssd_outstanding_tokens)", "tokens", "Expected of all requests, waiting ones too"),
    Ratio("ssd:kv_use", "max (vllm:kv_cache_usage_perc)", "share", "Of the fullest replica's KV"),
    Ratio("ssd:replicas", "count (vllm:num_requests_running)", "replicas", "Of the target, that tell of themselves"),
    *_quantiles("queue", "vllm:request_queue_time_seconds", "Waiting for a place"),
    *_quantiles("first_token", "vllm:time_to_first_token_seconds", "To the first token"),
    *_quantiles("token", "vllm:request_time_per_output_token_seconds", "A token after the first"),
    *_quantiles("request", "vllm:e2e_request_latency_seconds", "The whole request"),
    Ratio("ssd:hit_rate", share("ssd_lookup_hits_total", LOOKUPS), "share", "Outcomes whose continuation had been grown"),
    Ratio(
        "ssd:ungrown_share", share('ssd_lookup_misses_total{why="ungrown"}', LOOKUPS), "share",
        "Verify windows that ended with too little growth: what more drafts would mend",
    ),
    Ratio("ssd:tokens_per_round", share(TOKENS, "ssd_rounds_total"), "tokens", "Of a session's round"),
    Ratio(
        "ssd:acceptance_rate", share("vllm:spec_decode_num_accepted_tokens_total", "vllm:spec_decode_num_draft_tokens_total"), "share",
        "Of submitted tokens, accepted",
    ),
    Ratio(
        "ssd:accepted_per_position",
        f"{rate('vllm:spec_decode_num_accepted_tokens_per_pos_total', 'position')} / on () group_left () "
        f"({rate('vllm:spec_decode_num_drafts_total')} > 0)",
        "share", "Of rounds that speculated, those that accepted a token at this place", "position",
    ),
    Ratio(
        "ssd:expected_acceptance", share("ssd_edges_expected_total", "ssd_edges_total", "edge"), "share",
        "Of proposed children, as drafts expect it, by what they expect", "edge",
    ),
    Ratio("ssd:realised_acceptance", share("ssd_edges_chosen_total", "ssd_edges_total", "edge"), "share", "... and as it came", "edge"),
    Ratio(
        "ssd:backup_share", f"{rate('ssd_backups_total', 'kind')} / on () group_left () ({rate('ssd_backups_total')} > 0)", "share",
        "What followed a miss, by kind", "kind",
    ),
    Ratio(
        "ssd:gain_over_plain",
        f"{share(TOKENS, 'ssd_rounds_total')} * on () max (ssd_target_pass_seconds{{nodes=\"1\"}}) "
        f"/ on () ({DECODING_S} / ({DECODING_PASSES} > 0))",
        "ratio", "Tokens of a round by those that plain passes would give in its time, waiting for drafts included; 1: nothing gained",
    ),
    Ratio(
        "ssd:draft_busy_share", share("ssd_growth_busy_seconds_total", "ssd_verify_seconds_total"), "share",
        "Of the verify window, in which drafts grow",
    ),
    Ratio(
        "ssd:draft_wait_share", rate("ssd_draft_wait_seconds_total"), "seconds a second", "In which targets did nothing but wait for drafts"
    ),
    Ratio("ssd:draft_utilisation", "avg (rate(ssd_draft_busy_seconds_total[$window]))", "share", "Of a draft's time, in growth steps"),
    Ratio("ssd:growth_steps_per_round", share("ssd_growth_steps_total", "ssd_rounds_total"), "steps", "Of growth, in a session's round"),
    Ratio("ssd:growth_nodes_per_round", share("ssd_growth_nodes_total", "ssd_rounds_total"), "nodes", "Evaluated in a session's round"),
    Ratio(
        "ssd:late_growth_share", f"{rate('ssd_growth_late_total')} / (({PROPOSED}) > 0)", "share",
        "Of proposed children, dropped because the session had gone elsewhere or ended",
    ),
    Ratio(
        "ssd:dropped_growth_share", f"({rate('ssd_growth_duplicate_total')} + {rate('ssd_growth_garbage_total')}) / (({PROPOSED}) > 0)",
        "share", "... because they were there, or could not be read",
    ),
    Ratio("ssd:sessions_per_draft", "max (ssd_draft_sessions)", "sessions", "Of the draft actor with most"),
    Ratio("ssd:leases", "sum (ssd_pool_sessions)", "sessions", "That have a draft"),
    Ratio("ssd:drafts", "sum (ssd_pool_drafts)", "drafts", "That serve"),
    Ratio("ssd:drafts_wanted", "sum (ssd_pool_drafts_wanted)", "drafts", "That should"),
    Ratio("ssd:draft_kv_use", "max (1 - ssd_draft_kv_cells_free / ssd_draft_kv_cells)", "share", "Of the fullest draft's KV"),
    Ratio("ssd:verify_pass_seconds", share("ssd_verify_seconds_total", "ssd_verify_passes_total"), "seconds", "A pass of the target, mean"),
    Ratio("ssd:verify_nodes_per_pass", share("ssd_verify_nodes_total", "ssd_verify_passes_total"), "nodes", "In it"),
    Ratio("ssd:verify_busy_share", "avg (rate(ssd_verify_seconds_total[$window]))", "share", "Of a replica's time, in passes"),
    *_quantiles("gap_on_hit", "ssd_verify_gap_on_hit_seconds", "From a verdict to the next launch, after a hit"),
    Ratio(
        "ssd:device_seconds_per_1k_tokens",
        f'1000 * sum by (kind) ({{__name__=~"ssd_(target|draft)_devices"}}) / on () group_left () ({rate(TOKENS)} > 0)',
        "device-seconds", "Held by targets and drafts, busy or not, for 1000 tokens, by kind of device", "kind",
    ),
)  # fmt: skip
BY_NAME = {ratio.name: ratio for ratio in RATIOS}

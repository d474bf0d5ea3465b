"""What the service counted while a preset ran, by the names in its /metrics: the parts a round is made of. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cluster.counters import Counters


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all replicas and blocks. Times in seconds."""

    passes: float
    """Of the target, those that read prompts included; so are their nodes and their time."""
    pass_nodes: float
    pass_s: float
    prompt_passes: float
    """Of these, those that read prompts."""
    prompt_pass_nodes: float
    prompt_pass_s: float
    rounds: float
    drafts: float
    """Rounds that submitted a speculation."""
    draft_tokens: float
    """Nodes submitted."""
    lookups: float
    hits: float
    deep_hits: float
    """Hits on what had been grown before the round began."""
    deep_accepted: float
    """Accepted tokens that had been grown before the outcome before."""
    hit_rounds: float
    """Rounds whose speculation came from a look-up that hit, and their tokens."""
    hit_tokens: float
    hit_draft_tokens: float
    """Nodes submitted with them."""
    miss_rounds: float
    miss_tokens: float
    gaps: float
    """Own work of the target's loop between two passes, where it did not wait."""
    gap_s: float
    draft_turn_s: float
    """Of sessions that waited for their draft, in its turn or after a miss: from standing ready but for it to the launch."""
    growth_steps: float
    growth_nodes: float
    growth_busy_s: float


NAMES = {
    "passes": "ssd_verify_passes_total",
    "pass_nodes": "ssd_verify_nodes_total",
    "pass_s": "ssd_verify_seconds_total",
    "prompt_passes": "ssd_prompt_passes_total",
    "prompt_pass_nodes": "ssd_prompt_pass_nodes_total",
    "prompt_pass_s": "ssd_prompt_pass_seconds_total",
    "rounds": "ssd_rounds_total",
    "drafts": "vllm:spec_decode_num_drafts_total",
    "draft_tokens": "vllm:spec_decode_num_draft_tokens_total",
    "lookups": "ssd_lookups_total",
    "hits": "ssd_lookup_hits_total",
    "deep_hits": "ssd_deep_hits_total",
    "deep_accepted": "ssd_deep_accepted_tokens_total",
    "hit_rounds": "ssd_hit_rounds_total",
    "hit_tokens": "ssd_hit_tokens_total",
    "hit_draft_tokens": "ssd_hit_draft_tokens_total",
    "miss_rounds": "ssd_miss_rounds_total",
    "miss_tokens": "ssd_miss_tokens_total",
    "gaps": "ssd_verify_gap_seconds_count",
    "gap_s": "ssd_verify_gap_seconds_sum",
    "draft_turn_s": "ssd_draft_turn_seconds_total",
    "growth_steps": "ssd_growth_steps_total",
    "growth_nodes": "ssd_growth_nodes_total",
    "growth_busy_s": "ssd_growth_busy_seconds_total",
}


def totals(counters: Iterable[Counters]) -> Totals:
    """Of several stretches of time together. What the service does not say is zero."""
    stretches = list(counters)
    return Totals(**{field: sum(stretch.total(name) for stretch in stretches) for field, name in NAMES.items()})

"""When an operator is called."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Alert:
    name: str
    expression: str
    """PromQL over what ratios.py records. It holds: something is wrong."""
    lasting: str
    """For so long, before anybody is called."""
    severity: str
    summary: str
    what_to_do: str


ALERTS = (
    Alert(
        "SSDDraftPoolStarved", "ssd:ungrown_share > 0.4", "5m", "warning",
        "Four in ten verify windows end with too little growth",
        "Add drafts, or give them quicker devices: ssd:draft_utilisation says how busy they are, ssd:sessions_per_draft how shared.",
    ),
    Alert(
        "SSDHitRateCollapsed", "ssd:hit_rate < 0.2", "5m", "warning",
        "Fewer than two outcomes in ten had been prepared for",
        "Look at ssd:expected_acceptance beside ssd:realised_acceptance: a draft that does not fit the target, or its text, shows there.",
    ),
    Alert(
        "SSDSpeculationLosing", "ssd:gain_over_plain < 1", "10m", "warning",
        "Rounds give fewer tokens than plain decoding would in their time",
        "Self-tuning turns speculation off where it does not pay: is it off (self_tuning: false)? Do drafts share the target's device?",
    ),
    Alert(
        "SSDKVNearlyFull", "ssd:kv_use > 0.95 and on () ssd:requests_waiting > 0", "2m", "warning",
        "A replica's KV is full and requests wait",
        "Raise kv_budget_bytes or the number of replicas, or shorten max_model_len.",
    ),
    Alert(
        "SSDReplicaFlapping", "changes(ssd:replicas[15m]) > 6", "1m", "critical",
        "Target replicas come and go",
        "Read the replicas' logs: out of memory, a failing health check, or an autoscaler without a pause.",
    ),
    Alert(
        "SSDDraftsDying", "increase(ssd_pool_drafts_replaced_total[15m]) > 3", "1m", "critical",
        "Draft actors die and are replaced",
        "Answers are right without them, and slower. Read the drafts' logs: memory, device errors.",
    ),
    Alert(
        "SSDServiceDown", 'up{job="ssd"} == 0', "1m", "critical",
        "The service does not answer for its metrics",
        "Is the ingress up (/health)? Does the scrape have the service's API key?",
    ),
)  # fmt: skip

"""Two dashboards, as Grafana's JSON: the service, and its speculation. Every panel draws what ratios.py has Prometheus record. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cluster.monitoring.ratios import BY_NAME, Ratio

DATASOURCE_UID = "ssd-prometheus"
DATASOURCE = {"type": "prometheus", "uid": DATASOURCE_UID}
SCHEMA_VERSION = 39
"""Of Grafana 10.4; later ones move it on by themselves."""
WIDTH, HEIGHT, ACROSS = 8, 8, 24
"""Of a panel, and how wide a dashboard is, in Grafana's grid."""
UNITS = {
    "share": "percentunit",
    "ratio": "none",
    "seconds": "s",
    "seconds a second": "percentunit",
    "device-seconds": "s",
    "tokens a second": "cps",
    "requests a second": "reqps",
    "responses a second": "reqps",
}
"""Grafana's names of units; of what is counted it has none."""


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    names: tuple[str, ...]
    """Of the ratios it draws, which share a unit."""

    @property
    def ratios(self) -> tuple[Ratio, ...]:
        return tuple(BY_NAME[name] for name in self.names)


@dataclass(frozen=True, slots=True)
class Dashboard:
    uid: str
    title: str
    panels: tuple[Panel, ...]

    def json(self) -> dict[str, Any]:
        return {
            "uid": self.uid,
            "title": self.title,
            "tags": ["ssd"],
            "timezone": "browser",
            "schemaVersion": SCHEMA_VERSION,
            "refresh": "10s",
            "time": {"from": "now-30m", "to": "now"},
            "panels": [_panel(number, panel) for number, panel in enumerate(self.panels)],
        }


def _quantiles(name: str) -> tuple[str, ...]:
    return tuple(f"ssd:{name}_seconds:{q}" for q in ("p50", "p90", "p99"))


DASHBOARDS = (
    Dashboard(
        "ssd-service", "SSD: the service",
        (
            Panel("Tokens", ("ssd:tokens_per_second", "ssd:prompt_tokens_per_second")),
            Panel("Time to the first token", _quantiles("first_token")),
            Panel("Time of a token", _quantiles("token")),
            Panel("Time of a request", _quantiles("request")),
            Panel("Time in the queue", _quantiles("queue")),
            Panel("Requests", ("ssd:requests_running", "ssd:requests_waiting")),
            Panel("Ended requests, by reason", ("ssd:requests_per_second",)),
            Panel("Responses, by status", ("ssd:responses_per_second",)),
            Panel("Tokens still to come", ("ssd:outstanding_tokens",)),
            Panel("KV in use", ("ssd:kv_use", "ssd:draft_kv_use")),
            Panel("Replicas", ("ssd:replicas",)),
            Panel("Cost: device-seconds for 1000 tokens", ("ssd:device_seconds_per_1k_tokens",)),
        ),
    ),
    Dashboard(
        "ssd-speculation", "SSD: speculation",
        (
            Panel("Gain over plain decoding", ("ssd:gain_over_plain",)),
            Panel("Tokens of a round", ("ssd:tokens_per_round",)),
            Panel("Hits, and windows with too little growth", ("ssd:hit_rate", "ssd:ungrown_share")),
            Panel("What followed a miss", ("ssd:backup_share",)),
            Panel("Acceptance", ("ssd:acceptance_rate",)),
            Panel("Accepted, by place", ("ssd:accepted_per_position",)),
            Panel("Acceptance that drafts expect", ("ssd:expected_acceptance",)),
            Panel("... and that came", ("ssd:realised_acceptance",)),
            Panel("Drafts busy: of the verify window, and of their time", ("ssd:draft_busy_share", "ssd:draft_utilisation")),
            Panel("Waiting for drafts", ("ssd:draft_wait_share",)),
            Panel("Growth steps of a round", ("ssd:growth_steps_per_round",)),
            Panel("Growth nodes of a round", ("ssd:growth_nodes_per_round",)),
            Panel("Growth that was dropped", ("ssd:late_growth_share", "ssd:dropped_growth_share")),
            Panel("Drafts", ("ssd:drafts", "ssd:drafts_wanted")),
            Panel("Sessions with a draft, and of the fullest draft", ("ssd:leases", "ssd:sessions_per_draft")),
            Panel("A pass of the target", ("ssd:verify_pass_seconds",)),
            Panel("Nodes of a pass", ("ssd:verify_nodes_per_pass",)),
            Panel("Targets busy", ("ssd:verify_busy_share",)),
            Panel("From a verdict to the next launch, after a hit", _quantiles("gap_on_hit")),
        ),
    ),
)  # fmt: skip


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    per_row = ACROSS // WIDTH
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": "\n\n".join(f"{ratio.name}: {ratio.meaning} ({ratio.unit})" for ratio in panel.ratios),
        "gridPos": {"h": HEIGHT, "w": WIDTH, "x": number % per_row * WIDTH, "y": number // per_row * HEIGHT},
        "datasource": DATASOURCE,
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": DATASOURCE, "expr": ratio.name, "legendFormat": _legend(ratio)}
            for i, ratio in enumerate(panel.ratios)
        ],
        "fieldConfig": {"defaults": {"unit": UNITS.get(panel.ratios[0].unit, "short"), "min": 0}, "overrides": []},
    }


def _legend(ratio: Ratio) -> str:
    """The name without what all begin with, and the label that is left, if there is one."""
    name = ratio.name.removeprefix("ssd:").replace("_", " ")
    return f"{name} {{{{{ratio.label}}}}}" if ratio.label else name

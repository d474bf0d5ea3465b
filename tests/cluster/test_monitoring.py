"""Rules for Prometheus: they stand on metrics that exist, and Prometheus' own tool finds them right, in value and in what they call for."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.monitoring.alerts import ALERTS, Alert
from cluster.monitoring.prometheus import RULES_FILE, as_yaml, rules, scrape_config
from cluster.monitoring.ratios import BY_NAME, RATIOS, Ratio
from deployments.messages import Sample
from deployments.metric_tables import metric_of

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
METRIC = re.compile(r"\b(?:vllm:|ssd_)[a-z0-9_]+")


@pytest.mark.parametrize("ratio", RATIOS, ids=lambda ratio: ratio.name)
def test_ratios_are_made_of_metrics_that_exist_by_labels_that_they_have(ratio: Ratio) -> None:
    names = METRIC.findall(ratio.expression)
    metrics = [metric_of(Sample(name, 0.0)) for name in names if name != "ssd_"]
    assert len(names) > 0 and "$window" not in ratio.over("1m")
    labels = set(re.findall(r"by \(([a-z_]+)\)", ratio.expression)) - {"le"}
    assert labels == ({ratio.label} if ratio.label else set())
    assert not labels or any(ratio.label in metric.labels for metric in metrics) or "__name__" in ratio.expression


def test_alerts_stand_on_what_is_recorded_or_counted() -> None:
    for alert in ALERTS:
        assert set(re.findall(r"ssd:[a-z0-9_:]+", alert.expression)) <= set(BY_NAME)
        assert all(metric_of(Sample(name, 0.0)) for name in METRIC.findall(alert.expression))
    assert len(BY_NAME) == len(RATIOS)


def test_the_scrape_has_the_services_key_and_rays_nodes_where_they_are_told() -> None:
    ray, key = "/somewhere/discovery.json", "/secrets/key"
    config = yaml.safe_load(scrape_config(["a:8000", "b:8000"], interval="5s", key_file=key, ray_discovery_file=ray))
    service, nodes = config["scrape_configs"]
    assert service["static_configs"] == [{"targets": ["a:8000", "b:8000"]}] and service["authorization"]["credentials_file"] == key
    assert nodes["file_sd_configs"] == [{"files": [ray]}] and config["rule_files"] == [RULES_FILE]
    (alone,) = yaml.safe_load(scrape_config(["a:8000"], ray_discovery_file=None))["scrape_configs"]
    assert "authorization" not in alone


# ---------------------------------------------------------------- by promtool

COUNTED = {
    "ssd_lookups_total": 100, "ssd_lookup_hits_total": 80,
    'ssd_lookup_misses_total{why="ungrown"}': 12, 'ssd_lookup_misses_total{why="unforeseen"}': 8,
    "ssd_rounds_total": 110, "vllm:generation_tokens_total": 330,
    "vllm:spec_decode_num_drafts_total": 100,
    'vllm:spec_decode_num_accepted_tokens_per_pos_total{position="0"}': 90,
    'vllm:spec_decode_num_accepted_tokens_per_pos_total{position="1"}': 60,
    'ssd_edges_total{edge="0.95"}': 50, 'ssd_edges_expected_total{edge="0.95"}': 47, 'ssd_edges_chosen_total{edge="0.95"}': 44,
    'ssd_backups_total{kind="wait"}': 5, 'ssd_backups_total{kind="none"}': 15,
    "ssd_verify_passes_total": 100, "ssd_prompt_passes_total": 10, "ssd_verify_seconds_total": 3.0, "ssd_prompt_pass_seconds_total": 0.5,
    "ssd_draft_wait_seconds_total": 0.2, "ssd_growth_busy_seconds_total": 1.5, 'ssd_draft_busy_seconds_total{draft="d"}': 1.5,
    "ssd_growth_ingested_total": 700, "ssd_growth_late_total": 200, "ssd_growth_duplicate_total": 90, "ssd_growth_garbage_total": 10,
    "ssd_pool_drafts_replaced_total": 0,
    'vllm:time_to_first_token_seconds_bucket{le="0.1"}': 5, 'vllm:time_to_first_token_seconds_bucket{le="0.2"}': 10,
    'vllm:time_to_first_token_seconds_bucket{le="+Inf"}': 10,
}  # fmt: skip
"""Of a healthy service, in every 15 seconds."""
GAUGES = {
    'ssd_target_pass_seconds{nodes="1"}': 0.024, 'ssd_target_pass_seconds{nodes="8"}': 0.025,
    "vllm:kv_cache_usage_perc": 0.5, "vllm:num_requests_waiting": 0, "vllm:num_requests_running": 3,
    'ssd_target_devices{kind="gpu"}': 2, 'ssd_draft_devices{draft="d",kind="gpu"}': 1, 'up{job="ssd"}': 1,
}  # fmt: skip
VALUES = {
    "ssd:hit_rate": {"": 0.8},
    "ssd:ungrown_share": {"": 0.12},
    "ssd:tokens_per_round": {"": 3.0},
    "ssd:accepted_per_position": {'{position="0"}': 0.9, '{position="1"}': 0.6},
    "ssd:expected_acceptance": {'{edge="0.95"}': 0.94},
    "ssd:realised_acceptance": {'{edge="0.95"}': 0.88},
    "ssd:backup_share": {'{kind="wait"}': 0.25, '{kind="none"}': 0.75},
    "ssd:gain_over_plain": {"": 3.0 * 0.024 / ((3.0 - 0.5 + 0.2) / 90)},
    "ssd:draft_busy_share": {"": 0.5},
    "ssd:draft_utilisation": {"": 0.1},
    "ssd:late_growth_share": {"": 0.2},
    "ssd:dropped_growth_share": {"": 0.1},
    "ssd:device_seconds_per_1k_tokens": {'{kind="gpu"}': 1000 * 3 / (330 / 15)},
    "ssd:first_token_seconds:p50": {"": 0.1},
    "ssd:first_token_seconds:p90": {"": 0.18},
}
"""What follows from these."""
TROUBLES: dict[str, Mapping[str, float | str]] = {
    "SSDDraftPoolStarved": {'ssd_lookup_misses_total{why="ungrown"}': 45},
    "SSDHitRateCollapsed": {"ssd_lookup_hits_total": 15},
    "SSDSpeculationLosing": {"vllm:generation_tokens_total": 120},
    "SSDKVNearlyFull": {"vllm:kv_cache_usage_perc": 0.97, "vllm:num_requests_waiting": 4},
    "SSDReplicaFlapping": {'vllm:num_requests_running{replica="b"}': "1x7 stale _x7 " * 12},
    "SSDDraftsDying": {"ssd_pool_drafts_replaced_total": 0.2},
    "SSDServiceDown": {'up{job="ssd"}': 0},
}


def promtool(*words: str, folder: Path) -> str:
    done = subprocess.run(["promtool", *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def series(changed: Mapping[str, float | str]) -> list[dict[str, str]]:
    """Half an hour of samples, one in 15 seconds."""
    counted = {**COUNTED, **{name: value for name, value in changed.items() if name in COUNTED}}
    gauges = {**GAUGES, **{name: value for name, value in changed.items() if name not in COUNTED}}
    values = {name: f"0+{step}x120" for name, step in counted.items()}
    values |= {name: value if isinstance(value, str) else f"{value}+0x120" for name, value in gauges.items()}
    return [{"series": name, "values": told} for name, told in values.items()]


def expected(alert: Alert) -> dict[str, Any]:
    labels = {"severity": alert.severity, **({"job": "ssd"} if alert.name == "SSDServiceDown" else {})}
    return {"exp_labels": labels, "exp_annotations": {"summary": alert.summary, "description": alert.what_to_do}}


def check_rules(folder: Path, test: Mapping[str, Any]) -> None:
    (folder / RULES_FILE).write_text(as_yaml(rules()))
    tests = {"rule_files": [RULES_FILE], "evaluation_interval": "15s", "tests": [{"interval": "15s", **test}]}
    (folder / "tests.yml").write_text(yaml.safe_dump(tests))
    promtool("test", "rules", "tests.yml", folder=folder)


@needs_promtool
def test_prometheus_takes_both_files(tmp_path: Path) -> None:
    (tmp_path / RULES_FILE).write_text(as_yaml(rules()))
    (tmp_path / "prometheus.yml").write_text(scrape_config(["127.0.0.1:8000"], ray_discovery_file=None))
    assert f"{len(RATIOS) + len(ALERTS)} rules found" in promtool("check", "config", "prometheus.yml", folder=tmp_path)


@needs_promtool
def test_ratios_have_the_value_that_follows_from_the_counters(tmp_path: Path) -> None:
    wanted = [
        {
            "expr": f"round({name}, 1e-6)",
            "eval_time": "10m",
            "exp_samples": [{"labels": labels, "value": round(value, 6)} for labels, value in values.items()],
        }
        for name, values in VALUES.items()
    ]
    check_rules(tmp_path, {"input_series": series({}), "promql_expr_test": wanted})


@needs_promtool
@pytest.mark.parametrize("trouble", [None, *TROUBLES])
def test_an_alert_calls_for_its_trouble_and_no_other_does(trouble: str | None, tmp_path: Path) -> None:
    assert set(TROUBLES) == {alert.name for alert in ALERTS}
    wanted = [
        {"alertname": alert.name, "eval_time": "25m", "exp_alerts": [expected(alert)] if alert.name == trouble else []} for alert in ALERTS
    ]
    check_rules(tmp_path, {"input_series": series(TROUBLES[trouble] if trouble else {}), "alert_rule_test": wanted})

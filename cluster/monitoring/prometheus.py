"""Prometheus' two files: what it scrapes, and the rules it evaluates. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from cluster.monitoring.alerts import ALERTS
from cluster.monitoring.ratios import RATIOS, WINDOW

JOB = "ssd"
RULES_FILE = "rules.yml"
RAY_DISCOVERY_FILE = "/tmp/ray/prom_metrics_service_discovery.json"
"""Which a Ray head writes: the metrics' ports of all nodes."""


def scrape_config(
    targets: Sequence[str], *, interval: str = "15s", key_file: str | None = None, ray_discovery_file: str | None = RAY_DISCOVERY_FILE
) -> str:
    """`targets`: `host:port` of the service, whose one answer tells of all its processes. `key_file` holds its API key, if it has one."""
    service: dict[str, Any] = {"job_name": JOB, "metrics_path": "/metrics", "static_configs": [{"targets": list(targets)}]}
    if key_file is not None:
        service["authorization"] = {"type": "Bearer", "credentials_file": key_file}
    nodes = [{"job_name": "ray", "file_sd_configs": [{"files": [ray_discovery_file]}]}] if ray_discovery_file else []
    return as_yaml(
        {
            "global": {"scrape_interval": interval, "evaluation_interval": interval},
            "rule_files": [RULES_FILE],
            "scrape_configs": [service, *nodes],
        }
    )


def rules(window: str = WINDOW) -> dict[str, Any]:
    """Of rates over `window`. Alerts stand on what is recorded."""
    return {
        "groups": [
            {"name": "ssd-ratios", "rules": [{"record": ratio.name, "expr": ratio.over(window)} for ratio in RATIOS]},
            {
                "name": "ssd-alerts",
                "rules": [
                    {
                        "alert": alert.name,
                        "expr": alert.expression,
                        "for": alert.lasting,
                        "labels": {"severity": alert.severity},
                        "annotations": {"summary": alert.summary, "description": alert.what_to_do},
                    }
                    for alert in ALERTS
                ],
            },
        ]
    }


def as_yaml(content: Any) -> str:
    return str(yaml.dump(content, Dumper=_Plain, sort_keys=False, width=140))


class _Plain(yaml.SafeDumper):
    """What occurs twice is written twice, not by reference."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

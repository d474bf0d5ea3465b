"""The same as files: for Prometheus, for Grafana's provisioning, and for Kubernetes. Pure: paths and texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from cluster.monitoring.dashboards import DASHBOARDS, Dashboard
from cluster.monitoring.grafana import FOLDER_TITLE, FOLDER_UID, RULE_GROUP, RULE_INTERVAL_S, alert_rules, datasource
from cluster.monitoring.prometheus import RULES_FILE, as_yaml, rules, scrape_config

DASHBOARDS_FOLDER = "/var/lib/grafana/dashboards/ssd"
"""Where Grafana finds the dashboards' files."""


def files(targets: Sequence[str], prometheus_url: str, key_file: str | None = None) -> dict[str, str]:
    """By path. `targets`: `host:port` of the service; `prometheus_url`: as Grafana reaches it."""
    return {
        "prometheus/prometheus.yml": scrape_config(targets, key_file=key_file),
        f"prometheus/{RULES_FILE}": as_yaml(rules()),
        "grafana/provisioning/datasources/ssd.yml": as_yaml({"apiVersion": 1, "datasources": [datasource(prometheus_url)]}),
        "grafana/provisioning/dashboards/ssd.yml": as_yaml({"apiVersion": 1, "providers": [_provider()]}),
        "grafana/provisioning/alerting/ssd.yml": as_yaml({"apiVersion": 1, "groups": [_group()]}),
        **{f"grafana/dashboards/{dashboard.uid}.json": _json(dashboard) for dashboard in DASHBOARDS},
        "kubernetes/dashboards.yaml": "---\n".join(as_yaml(config_map(dashboard)) for dashboard in DASHBOARDS),
        "kubernetes/rules.yaml": as_yaml(prometheus_rule()),
    }


def config_map(dashboard: Dashboard) -> dict[str, Any]:
    """One each: a ConfigMap holds a megabyte. The label is what Grafana's sidecar looks for."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"dashboard-{dashboard.uid}",
            "labels": {"grafana_dashboard": "1"},
            "annotations": {"grafana_folder": FOLDER_TITLE},
        },
        "data": {f"{dashboard.uid}.json": _json(dashboard)},
    }


def prometheus_rule() -> dict[str, Any]:
    """The rules as the Prometheus operator takes them."""
    return {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": {"name": "ssd"}, "spec": rules()}


def _provider() -> dict[str, Any]:
    return {"name": "ssd", "folder": FOLDER_TITLE, "folderUid": FOLDER_UID, "type": "file", "options": {"path": DASHBOARDS_FOLDER}}


def _group() -> dict[str, Any]:
    return {"orgId": 1, "name": RULE_GROUP, "folder": FOLDER_TITLE, "interval": f"{RULE_INTERVAL_S}s", "rules": alert_rules()}


def _json(dashboard: Dashboard) -> str:
    return json.dumps(dashboard.json(), indent=2) + "\n"

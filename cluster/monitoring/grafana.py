"""Into a running Grafana: the folder, the data source, the dashboards and the alert rules. What is there already is brought up to date."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from grafana_client.api import GrafanaApi
from grafana_client.client import GrafanaClientError, GrafanaException

from cluster.monitoring.alerts import ALERTS, Alert
from cluster.monitoring.dashboards import DASHBOARDS, DATASOURCE, DATASOURCE_UID
from ssd_core.errors import SSDError

FOLDER_UID, FOLDER_TITLE = "ssd", "SSD"
RULE_GROUP = "ssd"
RULE_INTERVAL_S = 60
LOOKS_BACK_S = 600
"""Over which Grafana asks for an alert's newest value."""
NOT_FOUND = 404


class GrafanaError(SSDError):
    """Grafana did not answer, or refused."""


def push(url: str, credential: str | tuple[str, str] | None, prometheus_url: str) -> Iterator[str]:
    """One line for each thing that is there now; again, it changes nothing. `credential`: a service account's token, or user and password.
    `prometheus_url`: as Grafana reaches it. Raises GrafanaError."""
    api = GrafanaApi.from_url(url, credential)
    source = datasource(prometheus_url)
    try:
        if not _is_there(api.folder.get_folder, FOLDER_UID):
            api.folder.create_folder(FOLDER_TITLE, FOLDER_UID)
        yield f"folder {FOLDER_TITLE}"
        if _is_there(api.datasource.get_datasource_by_uid, DATASOURCE_UID):
            api.datasource.update_datasource_by_uid(DATASOURCE_UID, source)
        else:
            api.datasource.create_datasource(source)
        yield f"data source {source['name']}: {prometheus_url}"
        for dashboard in DASHBOARDS:
            api.dashboard.update_dashboard({"dashboard": dashboard.json(), "folderUid": FOLDER_UID, "overwrite": True})
            yield f"dashboard {dashboard.title}: {len(dashboard.panels)} panels"
        group = {
            "title": RULE_GROUP,
            "folderUid": FOLDER_UID,
            "interval": RULE_INTERVAL_S,
            "rules": [_in_folder(rule) for rule in alert_rules()],
        }
        api.alertingprovisioning.update_rule_group(FOLDER_UID, RULE_GROUP, group, disable_provenance=True)
        yield f"alert rules: {len(ALERTS)}"
    except (GrafanaException, OSError) as error:
        raise GrafanaError(f"{url.rpartition('@')[2]}: {error}") from None


def datasource(prometheus_url: str) -> dict[str, Any]:
    return {
        "uid": DATASOURCE_UID,
        "name": "SSD Prometheus",
        "type": "prometheus",
        "access": "proxy",
        "url": prometheus_url,
        "jsonData": {"httpMethod": "POST"},
    }


def alert_rules() -> list[dict[str, Any]]:
    """As files provision them."""
    return [_alert_rule(alert) for alert in ALERTS]


def _alert_rule(alert: Alert) -> dict[str, Any]:
    """It fires while the query has any series: PromQL's comparisons leave only those for which they hold, whatever their values."""
    instant = {"refId": "A", "expr": f"count({alert.expression})", "instant": True, "range": False, "datasource": DATASOURCE}
    above_zero = {"evaluator": {"type": "gt", "params": [0]}}
    threshold = {"refId": "B", "type": "threshold", "expression": "A", "conditions": [above_zero]}
    times = {"from": LOOKS_BACK_S, "to": 0}
    return {
        "uid": alert.name.lower(),
        "title": alert.name,
        "condition": "B",
        "data": [
            {"refId": "A", "relativeTimeRange": times, "datasourceUid": DATASOURCE_UID, "model": instant},
            {"refId": "B", "relativeTimeRange": times, "datasourceUid": "__expr__", "model": threshold},
        ],
        "noDataState": "OK",
        "execErrState": "Error",
        "for": alert.lasting,
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.summary, "description": alert.what_to_do},
    }


def _in_folder(rule: dict[str, Any]) -> dict[str, Any]:
    return {**rule, "folderUID": FOLDER_UID, "ruleGroup": RULE_GROUP, "orgID": 1}


def _is_there(get: Callable[[str], Any], uid: str) -> bool:
    try:
        get(uid)
    except GrafanaClientError as error:
        if error.status_code != NOT_FOUND:
            raise
        return False
    return True

"""Dashboards, pushed and rendered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster.cli import main
from cluster.monitoring.alerts import ALERTS
from cluster.monitoring.dashboards import DASHBOARDS, UNITS, Dashboard, Panel
from cluster.monitoring.grafana import GrafanaError, push
from cluster.monitoring.ratios import BY_NAME
from tests.cluster.grafana_stand_in import TOKEN, Board, StandIn, stand_in

PROMETHEUS = "http://prometheus:9090"
COUNTED = {"tokens", "replicas", "nodes", "drafts", "requests", "sessions", "steps"}


@pytest.fixture
def grafana() -> Iterator[StandIn]:
    with stand_in() as grafana:
        yield grafana


def test_every_ratio_is_drawn_once_with_others_of_its_unit() -> None:
    drawn = [name for dashboard in DASHBOARDS for panel in dashboard.panels for name in panel.names]
    assert sorted(drawn) == sorted(BY_NAME)
    for panel in (panel for dashboard in DASHBOARDS for panel in dashboard.panels):
        assert len({ratio.unit for ratio in panel.ratios}) == 1, panel.title
        assert panel.ratios[0].unit in UNITS or panel.ratios[0].unit in COUNTED


def test_a_push_brings_everything_and_a_second_one_changes_nothing(grafana: StandIn) -> None:
    lines = list(push(grafana.url, TOKEN, PROMETHEUS))
    assert len(lines) == 3 + len(DASHBOARDS)
    state = grafana.state
    assert list(grafana.folders) == ["ssd"] and {source["url"] for source in grafana.sources.values()} == {PROMETHEUS}
    assert {uid: board["dashboard"]["title"] for uid, board in grafana.boards.items()} == {d.uid: d.title for d in DASHBOARDS}
    ((group,),) = [list(grafana.groups.values())]
    assert [rule["title"] for rule in group["rules"]] == [alert.name for alert in ALERTS]
    assert list(push(grafana.url, TOKEN, PROMETHEUS)) == lines and grafana.state == state


def test_what_has_changed_is_brought_up_to_date(grafana: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    list(push(grafana.url, TOKEN, PROMETHEUS))
    fewer = Dashboard(DASHBOARDS[0].uid, "renamed", (Panel("Tokens", ("ssd:tokens_per_second",)),))
    monkeypatch.setattr("cluster.monitoring.grafana.DASHBOARDS", (fewer,))
    monkeypatch.setattr("cluster.monitoring.grafana.ALERTS", ALERTS[:1])
    list(push(grafana.url, TOKEN, "http://elsewhere:9090"))
    assert [source["url"] for source in grafana.sources.values()] == ["http://elsewhere:9090"]
    assert grafana.boards[fewer.uid]["dashboard"]["title"] == "renamed" and len(grafana.boards) == len(DASHBOARDS)
    assert [len(group["rules"]) for group in grafana.groups.values()] == [1]


@pytest.mark.parametrize("broken", [{"url": "no address"}, {"surprise": 1}])
def test_the_stand_in_is_strict(grafana: StandIn, broken: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster.monitoring import grafana as module

    good = module.datasource(PROMETHEUS)
    monkeypatch.setattr(module, "datasource", lambda url: {**good, **broken})
    with pytest.raises(GrafanaError, match="Bad Input"):
        list(push(grafana.url, TOKEN, PROMETHEUS))


def test_a_refusal_is_told_without_the_password(grafana: StandIn) -> None:
    host = grafana.url.removeprefix("http://")
    with pytest.raises(GrafanaError, match="Unauthorized") as refused:
        list(push(f"http://admin:hidden@{host}", None, PROMETHEUS))
    assert "hidden" not in str(refused.value)


def test_nobody_there_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboards", "push", "--url", "http://127.0.0.1:9"]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "127.0.0.1:9" in last and "Traceback" not in last


def test_the_command_pushes_with_the_token_of_the_environment(grafana: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFANA_TOKEN", TOKEN)
    assert main(["dashboards", "push", "--url", grafana.url]) == 0
    assert len(grafana.boards) == len(DASHBOARDS)


def test_files_are_what_is_pushed(grafana: StandIn, tmp_path: Path) -> None:
    list(push(grafana.url, TOKEN, PROMETHEUS))
    words = ["dashboards", "render", "--out", str(tmp_path), "--target", "a:1", "--target", "b:2", "--prometheus", PROMETHEUS]
    assert main([*words, "--key-file", "/k"]) == 0
    maps = {map["metadata"]["name"]: map for map in yaml.safe_load_all((tmp_path / "kubernetes/dashboards.yaml").read_text())}
    for uid, pushed in grafana.boards.items():
        board = json.loads((tmp_path / f"grafana/dashboards/{uid}.json").read_text())
        assert board == pushed["dashboard"] and Board.model_validate(board)
        assert json.loads(maps[f"dashboard-{uid}"]["data"][f"{uid}.json"]) == board
    (source,) = yaml.safe_load((tmp_path / "grafana/provisioning/datasources/ssd.yml").read_text())["datasources"]
    assert source == next(iter(grafana.sources.values()))
    (group,) = yaml.safe_load((tmp_path / "grafana/provisioning/alerting/ssd.yml").read_text())["groups"]
    (pushed_group,) = grafana.groups.values()
    added = {"folderUID", "ruleGroup", "orgID"}
    assert group["rules"] == [{key: value for key, value in rule.items() if key not in added} for rule in pushed_group["rules"]]
    scrape = yaml.safe_load((tmp_path / "prometheus/prometheus.yml").read_text())
    assert scrape["scrape_configs"][0]["static_configs"] == [{"targets": ["a:1", "b:2"]}]
    assert "&id" not in "".join(path.read_text() for path in tmp_path.rglob("*.y*ml"))

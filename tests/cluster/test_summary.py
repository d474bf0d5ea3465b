from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from cluster.bench import chart
from cluster.bench.fake import FakeClient
from cluster.bench.machine import this_machine
from cluster.bench.measure import BlockResult, measure
from cluster.bench.report import Report, make_report
from cluster.bench.service import service_facts
from cluster.bench.summary import differences, paired_ratio, summarise
from cluster.bench.table import aligned, histogram, table
from cluster.bench.workload import Block, Case, Workload
from cluster.client import Account, Completion
from cluster.counters import NOTHING, Buckets

WORKLOAD = Workload(prompts=("a", "b", "c"), presets=("ar", "sd", "ssd-tree"), temperatures=(0.0, 0.8), max_tokens=12)


def results(fake: FakeClient | None = None, workload: Workload = WORKLOAD) -> list[BlockResult]:
    fake = fake or FakeClient({"ar": 1, "sd": 3, "ssd-tree": 4})
    return measure(workload, fake, clock=fake.clock)


def block_result(preset: str, group: int, wall_s: float) -> BlockResult:
    account = Account(1, 0, 0, 0, (), 0.0)
    return BlockResult(
        Block(preset, 0.0, 0, group, (Case(group, "p", 0.0),)), (Completion("x", (1,) * 10, wall_s, wall_s / 10, account),), wall_s, NOTHING
    )


def test_rows_are_by_temperature_then_preset() -> None:
    assert [(row.temperature, row.preset) for row in summarise(results())] == [
        (temperature, preset) for temperature in (0.0, 0.8) for preset in ("ar", "sd", "ssd-tree")
    ]


def test_ratios_are_to_the_baselines_of_the_same_temperature() -> None:
    row = summarise(results())[2]
    assert row.tokens_per_s == pytest.approx(400)
    assert row.ratio_to_ar == pytest.approx(4)
    assert row.ratio_to_sd == pytest.approx(4 / 3)


def test_a_ratio_is_the_median_of_pairs_and_not_the_ratio_of_medians() -> None:
    own = [block_result("ssd", 0, 1.0), block_result("ssd", 1, 2.0), block_result("ssd", 2, 8.0)]
    base = [block_result("ar", 2, 32.0), block_result("ar", 0, 2.0), block_result("ar", 1, 2.0)]
    assert paired_ratio(own, base) == 2.0  # pairs: 2, 1, 4; medians of the speeds would say 1


def test_the_time_to_the_first_token_is_left_out_of_the_speed_after_it() -> None:
    autoregressive, _, tree = summarise(results())[:3]
    assert tree.first_token_ms == autoregressive.first_token_ms == pytest.approx(10)
    assert tree.decode_tokens_per_s == pytest.approx((12 - 1) / (2 * 0.01))
    assert tree.decode_ratio_to_ar == pytest.approx(11 / 2)


def test_without_a_baseline_there_is_no_ratio() -> None:
    only_tree = summarise(results(workload=Workload(prompts=("a",), presets=("ssd-tree",), max_tokens=12)))[0]
    assert only_tree.ratio_to_ar is None
    assert only_tree.ratio_to_sd is None


def test_rates_and_cost() -> None:
    autoregressive, _, tree = summarise(results())[:3]
    assert tree.tokens_per_round == 4
    assert tree.hit_rate == pytest.approx(0.75)
    assert tree.accepted_per_position == (1.0, 1.0, 1.0)
    assert tree.draft_wait_ms == pytest.approx(1.0)
    assert tree.cost is not None
    assert tree.cost.target_flops == pytest.approx(100 * 2 / 4)
    assert tree.cost.draft_flops == pytest.approx(10 * 10 / 4)
    assert autoregressive.accepted_per_position == ()


def test_device_seconds_are_held_by_all_processes_and_busy_in_what_they_evaluate() -> None:
    tree = summarise(results())[2].cost
    assert tree is not None
    assert tree.target_held_s == pytest.approx(2 * 0.01 / 4)  # two replicas of one device, rounds of 10 ms, four tokens in each
    assert tree.draft_held_s == pytest.approx(2 * 0.01 / 4)
    assert tree.target_busy_s == pytest.approx(0.008 / 4)
    assert tree.draft_busy_s == pytest.approx(2 * 0.005 / 4)
    assert tree.tokens_per_s_per_device == pytest.approx(400 / 4)


def test_plain_decoding_is_not_charged_for_a_draft_it_does_not_need() -> None:
    autoregressive = summarise(results())[0].cost
    assert autoregressive is not None
    assert autoregressive.draft_held_s == 0
    assert autoregressive.tokens_per_s_per_device == pytest.approx(100 / 2)


def test_equal_answers_are_no_difference() -> None:
    assert differences(results()) == []


def test_an_unknown_price_is_none() -> None:
    cost = summarise([block_result("ar", 0, 1.0)])[0].cost
    assert cost is not None
    assert cost.target_flops is None and cost.target_held_s is None and cost.tokens_per_s_per_device is None


def test_a_different_answer_is_found_and_named() -> None:
    fake = FakeClient({"ar": 1, "sd": 3, "ssd-tree": 4}, wrong=("sd", 1))
    found = differences(results(fake))
    assert {(difference.prompt_index, difference.temperature) for difference in found} == {(1, 0.0), (1, 0.8)}
    assert all("sd" in (difference.preset, difference.reference_preset) for difference in found)


def a_report(fake: FakeClient | None = None) -> Report:
    measured = results(fake)
    return make_report("m", this_machine(), "ssd-serve bench", WORKLOAD, service_facts(measured, 0.005), measured)


def test_the_report_says_that_tokens_are_identical() -> None:
    text = a_report().text()
    assert "all presets returned identical tokens: yes" in text
    assert "ssd-serve bench" in text
    assert "100.0% within 1 ms" in text


def test_the_report_says_that_tokens_differ() -> None:
    report = a_report(FakeClient({"ar": 1, "sd": 3, "ssd-tree": 4}, wrong=("sd", 1)))
    assert not report.is_exact
    assert "identical tokens: NO" in report.text()


def test_the_report_says_which_presets_hardly_speculated() -> None:
    report = a_report()
    assert "warning" not in report.text(), "plain decoding need not speculate"
    assert [row.speculated for row in report.rows[:3]] == [None, 1.0, 1.0]
    idle = a_report(FakeClient({"ar": 1, "sd": 3, "ssd-tree": 1}))
    told = [line for line in idle.text().splitlines() if line.startswith("warning")]
    assert [line.partition(": its")[0] for line in told] == [
        f"warning: ssd-tree at temperature {temperature} speculated in 0.0% of its rounds" for temperature in ("0", "0.8")
    ]


def test_the_json_is_strict_and_whole() -> None:
    content = json.loads(a_report().to_json(), parse_constant=pytest.fail)
    assert content["identical_tokens"] is True
    assert len(content["rows"]) == 6
    assert len(content["requests"]) == WORKLOAD.num_requests
    assert content["machine"]["num_cores"] >= 1
    assert content["service"]["pass_s"] == [0.007, 0.008] and content["service"]["num_targets"] == 2
    assert content["rows"][2]["totals"]["pass_nodes"] == 2 * content["rows"][2]["totals"]["rounds"] > 0


def test_the_chart_is_a_png(tmp_path: Path) -> None:
    chart.write_chart(a_report(), tmp_path / "new" / "chart.png")
    assert (tmp_path / "new" / "chart.png").read_bytes().startswith(b"\x89PNG")


def panels_of(monkeypatch: pytest.MonkeyPatch, report: Report, path: Path) -> int:
    """How many of the chart's panels hold something that is drawn; fails where one holds nothing."""
    figures: list[Figure] = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *args, **named: figures.append(figure))
    chart.write_chart(report, path)
    (figure,) = figures
    assert all(axes.patches or axes.lines for axes in figure.axes)
    return len(figure.axes)


def test_a_chart_has_no_empty_panels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    report = a_report()
    assert panels_of(monkeypatch, report, tmp_path / "c.png") == 3
    unspeculated = [replace(row, accepted_per_position=(), gap_on_hit=Buckets((0.001,), (0,))) for row in report.rows]
    assert panels_of(monkeypatch, replace(report, rows=tuple(unspeculated)), tmp_path / "c.png") == 1


def test_table_columns_are_aligned() -> None:
    lines = aligned([("preset", "n", "last"), ("a", "100", "x")]).splitlines()
    assert lines == ["preset    n  last", "a       100  x"]


def test_the_table_has_speeds_and_costs_for_each_temperature() -> None:
    text = table(summarise(results()))
    assert text.count("tokens/s per device") == 2 and text.count("preset") == 4
    assert "4.00x" in text


def test_a_histogram_shows_the_buckets_that_hold_something() -> None:
    text = histogram(Buckets((0.001, 0.002, 0.003, float("inf")), (0, 4, 0, 1)))
    assert [line.split()[:2] for line in text.splitlines()] == [["<=", "2"], ["<=", "3"], ["longer", "1"]]

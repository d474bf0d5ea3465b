"""A made-up run whose parts add up exactly: figures are found again, and predictions meet what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.bench.peer import PEERS
from cluster.bench.totals import NAMES
from cluster.cli import main
from cluster.plan.from_bench import measured
from cluster.plan.run_file import read_run
from ssd_core.config import PRESETS
from ssd_core.errors import ConfigError
from ssd_core.planner import plan

REQUESTS, TOKENS = 2, 22
PROMPT = {"prompt_passes": 2, "prompt_pass_nodes": 60, "prompt_pass_s": 0.1}


def row(preset: str, wall_s: float, accepted: list[float], **totals: float) -> dict[str, Any]:
    known = dict.fromkeys(NAMES, 0.0) | PROMPT | totals
    return {
        "temperature": 0.0, "preset": preset, "num_requests": REQUESTS, "num_tokens": TOKENS, "wall_s": wall_s,
        "accepted_per_position": accepted, "totals": known, "tokens_per_s": 1e9,
    }  # fmt: skip


def a_run() -> dict[str, Any]:
    """Two requests of 11 tokens: 10 ms of way, 50 ms of prompt, 2 ms of own work in a round; a pass of n nodes takes 9 + n ms by itself."""
    ar = row(
        "ar", 2 * 0.06 + 20 * 0.012, [],
        rounds=22, passes=22, pass_nodes=60 + 20, pass_s=0.1 + 20 * 0.010, gaps=20, gap_s=0.04,
    )  # fmt: skip
    # eight rounds of 2.5 tokens: six nodes, a fifth slower; two steps of 4 ms and 1 ms more for each message
    sd = row(
        "sd", 2 * 0.06 + 8 * (0.018 + 0.002 + 0.010), [0.75, 0.75],
        rounds=10, drafts=8, draft_tokens=40, passes=10, pass_nodes=60 + 48, pass_s=0.1 + 8 * 0.018,
        draft_turn_s=8 * 0.010, growth_steps=2 + 16, growth_nodes=60 + 16, growth_busy_s=18 * 0.004,
    )  # fmt: skip
    # six hits of three tokens and six nodes, two misses of one token
    ssd = row(
        "ssd-tree", 2 * 0.06 + 8 * 0.017, [1.0, 1.0],
        rounds=10, drafts=6, draft_tokens=30, passes=10, pass_nodes=60 + 38, pass_s=0.1 + 8 * 0.015, gaps=8, gap_s=0.016,
        hit_rounds=6, hit_tokens=18, hit_draft_tokens=30, miss_rounds=2, miss_tokens=2,
        growth_steps=2 + 24, growth_nodes=60 + 80, growth_busy_s=26 * 0.004,
    )  # fmt: skip
    # the same, but hits give fewer tokens, and one of the two misses waits 10 ms for three
    saguaro = ssd | {"preset": "saguaro", "wall_s": 2 * 0.06 + 8 * 0.017 + 0.010}
    saguaro["totals"] = ssd["totals"] | {"hit_tokens": 16, "miss_tokens": 4, "draft_turn_s": 0.010}
    service = {
        "pass_nodes": [1, 10], "pass_s": [0.010, 0.019], "target_flops_per_node": 100.0, "draft_flops_per_node": 10.0,
        "devices_per_target": 1.0, "devices_per_draft": 1.0, "num_targets": 1.0, "request_s": 0.01,
    }  # fmt: skip
    return {
        "model": "m",
        "command": "c",
        "workload": {"concurrency": 1, "prompts": ["a"]},
        "service": service,
        "rows": [ar, sd, ssd, saguaro],
    }


def written(folder: Path, content: Any) -> Path:
    (folder / "bench.json").write_text(json.dumps(content))
    return folder / "bench.json"


def test_figures_are_found_again(tmp_path: Path) -> None:
    (case,) = measured(read_run(written(tmp_path, a_run())))
    figures = case.figures
    assert (figures.prompt_tokens, figures.prompt_s, figures.output_tokens, figures.request_s) == pytest.approx((30, 0.05, 11, 0.01))
    sd, tree = figures.presets.sd, figures.presets.ssd_tree
    assert sd is not None and tree is not None
    assert (sd.nodes, sd.pass_stretch, sd.own_work_s) == pytest.approx((6, 1.2, 0.002))
    assert (sd.tokens_per_round, sd.draft_steps, sd.draft_nodes, sd.turn_s) == pytest.approx((2.5, 2, 2, 0.010))
    assert (tree.hit_rate, tree.tokens_after_hit, tree.tokens_after_miss, tree.nodes_after_hit) == (0.75, 3, 1, 6)
    assert (tree.nodes, tree.draft_steps, tree.draft_nodes, tree.draft_step_s) == pytest.approx((4.75, 3, 10, 0.004))


def test_a_wait_after_a_miss_is_the_backups_and_no_turn(tmp_path: Path) -> None:
    (case,) = measured(read_run(written(tmp_path, a_run())))
    sd, tree, saguaro = case.figures.presets.sd, case.figures.presets.ssd_tree, case.figures.presets.saguaro
    assert sd is not None and tree is not None and saguaro is not None
    assert (tree.backup_s, saguaro.backup_s, sd.message_s) == pytest.approx((0, 0.005, 0.001))
    assert (saguaro.tokens_after_hit, saguaro.tokens_after_miss) == pytest.approx((16 / 6, 2))


def test_every_preset_of_a_run_is_planned_for(tmp_path: Path) -> None:
    content = a_run()
    content["rows"] += [content["rows"][1] | {"preset": "tree"}, content["rows"][2] | {"preset": "ssd"}]
    (case,) = measured(read_run(written(tmp_path, content)))
    assert tuple(prediction.preset for prediction in plan(case.figures).predictions) == PRESETS


def test_peers_of_a_run_change_nothing(tmp_path: Path) -> None:
    content = a_run()
    content["rows"][2:2] = [row(peer, 1.0, []) | {"totals": None} for peer in PEERS]
    assert read_run(written(tmp_path, content)) == read_run(written(tmp_path, a_run()))


def test_predictions_meet_what_was_measured_when_the_parts_add_up(tmp_path: Path) -> None:
    (case,) = measured(read_run(written(tmp_path, a_run())))
    for prediction in plan(case.figures).predictions:
        assert prediction.tokens_per_s == pytest.approx(case.tokens_per_s[prediction.preset]), prediction.preset


def test_no_presets_speed_is_used(tmp_path: Path) -> None:
    other = a_run()
    for wrong in other["rows"]:
        wrong["wall_s"] *= 7
    cases = [measured(read_run(written(tmp_path, content)))[0] for content in (a_run(), other)]
    assert cases[0].figures == cases[1].figures


def test_growth_of_a_preset_that_does_not_wait_takes_no_longer_than_its_rounds(tmp_path: Path) -> None:
    content = a_run()
    content["rows"][2]["totals"]["growth_busy_s"] *= 2
    (case,) = measured(read_run(written(tmp_path, content)))
    tree = case.figures.presets.ssd_tree
    assert tree is not None and tree.draft_steps * tree.draft_step_s == pytest.approx(0.017)


def test_the_plan_of_a_run_shows_measurement_and_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--bench", str(written(tmp_path, a_run()))]) == 0
    told = capsys.readouterr().out
    assert "temperature 0, 1 at a time" in told and "recommended: ssd-tree" in told
    line = next(line for line in told.splitlines() if line.startswith("ssd-tree"))
    assert line.split()[-2:] == ["85.9", "+0.0%"]


@pytest.mark.parametrize(("drafts", "is_warned"), [(0, True), (6, False)])
def test_a_run_that_hardly_speculated_is_said(drafts: int, is_warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = a_run()
    content["rows"][2]["totals"]["drafts"] = drafts
    assert main(["plan", "--bench", str(written(tmp_path, content))]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert [line.partition(": its")[0] for line in lines] == (
        ["warning: ssd-tree at temperature 0 speculated in 0.0% of its rounds"] if is_warned else []
    )


def test_what_if_is_not_compared_with_what_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--bench", str(written(tmp_path, a_run())), "--draft-step-ms", "20", "--concurrency", "4"]) == 0
    told = capsys.readouterr().out
    assert "4 at a time" in told
    line = next(line for line in told.splitlines() if line.startswith("ssd-tree"))
    assert line.split()[-2:] == ["-", "-"]


def test_saved_figures_give_the_same_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--bench", str(written(tmp_path, a_run())), "--save", str(tmp_path / "f.yaml")]) == 0
    capsys.readouterr()
    assert "ssd-tree" in yaml.safe_load((tmp_path / "f.yaml").read_text())["presets"]
    assert main(["plan", str(tmp_path / "f.yaml"), "--prefer", "cost"]) == 0
    told = capsys.readouterr().out
    assert "85.9" in told and "recommended: ar" in told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("target: {pass_nodes: [1], pass_s: [0.01]}", "f.yaml: presets: missing"),
        ("target: {pass_nodes: [1], pass_s: [0]}\npresets: {}", "f.yaml: target.pass_s.0 = 0: Input should be greater than 0"),
        ("target: {pass_nodes: [1], pass_s: [1]}\npresets: {ssdtree: {}}", "f.yaml: presets.ssdtree: unknown key"),
        ("target: {pass_nodes: [1], pass_s: [1]}\npresets: {ssd-tree: {nodes: 2}}", "f.yaml: presets.ssd-tree.hit_rate: missing"),
    ],
)
def test_a_mistake_in_given_figures_is_exit_code_2(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "f.yaml").write_text(text)
    assert main(["plan", str(tmp_path / "f.yaml")]) == 2
    assert message in capsys.readouterr().err


def changed(**change: Any) -> dict[str, Any]:
    content = a_run()
    return content | {"service": content["service"] | change}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "not the JSON of a bench"),
        ({"model": "m"}, "rows: missing"),
        (changed(pass_nodes=[], pass_s=[]), "service.pass_nodes: the service did not say"),
        (changed(num_targets=2.0), "service.num_targets = 2: figures are of one target replica"),
        (a_run() | {"rows": []}, "rows = []: Tuple should have at least 1 item"),
        (a_run() | {"rows": [row("ar", 1.0, []) | {"preset": "xyz"}]}, "rows.0.preset = 'xyz': Input should be 'ar'"),
        (a_run() | {"rows": [row("ar", 1.0, [])]}, "rows: the service counted no rounds"),
    ],
)
def test_a_run_that_says_too_little_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_run(written(tmp_path, content))
    assert message in str(caught.value)


@pytest.mark.parametrize("words", [["--temperature", "0.5"], ["--save", "x.yaml"]], ids=" ".join)
def test_a_temperature_must_be_there_and_be_one_where_figures_are_saved(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = a_run()
    content["rows"] += [other | {"temperature": 0.8} for other in content["rows"]]
    assert main(["plan", "--bench", str(written(tmp_path, content)), *words]) == 2
    assert "0, 0.8" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--bench", "/nowhere/b.json"]) == main(["plan", "/nowhere/f.yaml"]) == 2

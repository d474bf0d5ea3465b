"""Reports of a service in memory beside what vLLM's processes would have written."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from cluster.bench.fake import FakeClient
from cluster.bench.machine import this_machine
from cluster.bench.measure import measure
from cluster.bench.report import Report, make_report
from cluster.bench.service import service_facts
from cluster.bench.workload import Workload
from ssd_core.timeline import Activity, Span
from tests.bench.comparison import HEADER, Comparison, Facts, Line, Scene, comparison
from tests.bench.timeline import Window

SPEEDS = {"ar": 1, "sd": 3, "ssd-tree": 4}
"""Tokens a round, of 10 ms where nothing else is said."""
WORKLOAD = Workload(prompts=("a", "b", "c"), presets=tuple(SPEEDS), max_tokens=12)
ALONE, TOGETHER = (Scene(512, batch, 0.0, WORKLOAD.prompts) for batch in (1, 4))
FACTS = Facts("a GPU", bandwidth=25_000.0)
TIMELINE = Window(0.0, 0.01, {"target": (Span(Activity.DEVICE, 0.0, 0.01),)})


def report(round_s: float = 0.01, wrong: tuple[str, int] | None = None) -> Report:
    fake = FakeClient(SPEEDS, round_s, wrong)
    results = measure(WORKLOAD, fake, clock=fake.clock)
    return make_report("m", this_machine(), "bench", WORKLOAD, service_facts(results, 0.005), results)


def told(*speeds: tuple[Scene, float]) -> dict[str, Any]:
    """What a process of vLLM writes."""
    rest = {"first_token_s": 0.02, "decode_tokens_per_s": 60.0, "tokens_per_round": 1.5}
    return {"mode": "-", "runs": [{"name": scene.name, "tokens_per_s": speed, **rest} for scene, speed in speeds]}


def compared(*reports: tuple[Scene, Report], facts: Facts = FACTS, **vllm: dict[str, Any]) -> Comparison:
    return comparison(facts, "the command", reports or [(ALONE, report())], vllm, 3 * 2**30, TIMELINE)


def line_of(result: Comparison, contestant: str, scene: Scene = ALONE) -> Line:
    (line,) = (line for line in result.lines if (line.scene, line.contestant) == (scene.name, contestant))
    return line


def cells_of(result: Comparison, contestant: str) -> dict[str, str]:
    """As they stand in the text."""
    (row,) = (line for line in result.text().splitlines() if line.split(" ")[0] == contestant)
    return dict(zip(HEADER, re.split(r"\s{2,}", row), strict=True))


def test_each_line_is_compared_with_vllm_in_its_own_scene() -> None:
    reports = (ALONE, report()), (TOGETHER, report(round_s=0.02))
    result = compared(*reports, ar=told((ALONE, 50.0), (TOGETHER, 100.0)), sd=told((ALONE, 200.0)))
    ratios = {(line.scene, line.contestant): (line.to_vllm_ar, line.to_vllm_sd) for line in result.lines}
    assert ratios == {
        (ALONE.name, "ar"): pytest.approx((2.0, 0.5)),
        (ALONE.name, "sd"): pytest.approx((6.0, 1.5)),
        (ALONE.name, "ssd-tree"): pytest.approx((8.0, 2.0)),
        (ALONE.name, "vllm-ar"): (1.0, 0.25),
        (ALONE.name, "vllm-sd"): (4.0, 1.0),
        (TOGETHER.name, "ar"): (pytest.approx(0.5), None),
        (TOGETHER.name, "sd"): (pytest.approx(1.5), None),
        (TOGETHER.name, "ssd-tree"): (pytest.approx(2.0), None),
        (TOGETHER.name, "vllm-ar"): (1.0, None),
    }


def test_a_pass_is_held_against_the_time_to_read_the_weights() -> None:
    line = line_of(compared(), "ssd-tree")
    assert line.pass_ms == pytest.approx(8.0)
    assert line.of_floor == pytest.approx(8.0 / 4.0)  # 100 operations a node are 100 bytes
    assert line.of_free_drafting == pytest.approx(0.8)
    assert line_of(compared(facts=Facts("CPU", None)), "ssd-tree").of_floor is None


def test_nodes_of_passes_and_of_growth_are_means() -> None:
    line = line_of(compared(), "ssd-tree")
    assert (line.nodes_per_pass, line.growth_nodes) == pytest.approx((2.0, 5.0))
    assert line.growth_ms == pytest.approx(2.5)
    assert line.gpu_s_per_1k == pytest.approx(1000 * (2 + 2) * 0.01 / 4)


def test_a_failure_of_vllm_is_told_and_ours_and_its_other_modes_stand() -> None:
    result = compared(ar=told((ALONE, 50.0)), sd={"error": "CUDA out of memory"})
    assert result.text().endswith("vLLM sd failed:\nCUDA out of memory")
    assert [line.contestant for line in result.lines] == [*SPEEDS, "vllm-ar"]
    assert cells_of(result, "ssd-tree")["to vllm-ar"] == "8.00x"
    assert cells_of(result, "ssd-tree")["to vllm-sd"] == "-"


def test_what_is_not_known_is_a_dash() -> None:
    result = compared(ar=told((ALONE, 50.0)))
    assert cells_of(result, "vllm-ar") == dict.fromkeys(HEADER, "-") | {
        "contestant": "vllm-ar",
        "tokens/s": "50.0",
        "to vllm-ar": "1.00x",
        "first ms": "20",
        "then tokens/s": "60.0",
        "tok/round": "1.50",
        "GPU-s/1k tok": "20.00",
    }


def test_answers_that_part_from_the_first_to_their_prompt_are_counted() -> None:
    result = compared((ALONE, report(wrong=("sd", 0))), (TOGETHER, report()))
    assert [line_of(result, preset).num_different for preset in SPEEDS] == [0, 1, 0]
    assert (result.num_different, result.num_tokens) == (1, 2 * 2 * WORKLOAD.max_tokens * len(WORKLOAD.prompts))


def test_only_requests_that_were_alone_tell_the_gap_on_a_hit() -> None:
    alone, together = report(), report()
    assert compared((ALONE, alone), (TOGETHER, together)).gap_on_hit == alone.gap_on_hit
    assert "(nothing observed)" in compared((TOGETHER, together)).text()


def test_the_text_has_all_scenes_and_what_holds_for_all() -> None:
    text = compared((ALONE, report()), (TOGETHER, report())).text()
    assert text.startswith("a GPU\nthe command\n")
    assert text.index(ALONE.name) < text.index(TOGETHER.name)
    assert "ms: 1: 7.00, 2: 8.00\n" in text
    assert "memory of all GPUs: 3.0 GiB" in text
    assert text.endswith(TIMELINE.text())


def test_the_json_is_strict() -> None:
    content = json.loads(compared().to_json(), parse_constant=pytest.fail)
    assert content["lines"][0]["contestant"] == "ar" and content["gap_on_hit"]["bounds_s"][-1] is None

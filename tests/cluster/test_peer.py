"""Peers among the presets: chosen, measured, compared, checked; without a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.bench.fake import FakeClient, FakeModels
from cluster.bench.machine import this_machine
from cluster.bench.measure import BlockResult, measure
from cluster.bench.peer import ASSISTED, PEERS, PLAIN, Drafting, PeerClient, Setting
from cluster.bench.peer_check import NEAR_TIE_ROUNDINGS, peer_differences
from cluster.bench.peer_choice import DRAFTINGS, candidates, choose
from cluster.bench.report import Report, make_report
from cluster.bench.run import PeerRoom, run_bench
from cluster.bench.service import service_facts
from cluster.bench.summary import differences, summarise
from cluster.bench.table import table
from cluster.bench.workload import Workload, blocks
from cluster.client import CompletionRequest
from cluster.plan.run_file import read_run

WORKLOAD = Workload(prompts=("a", "b"), presets=("ar", "sd"), peers=PEERS, temperatures=(0.0, 0.8), max_tokens=12)
SECONDS = {PLAIN: 0.24, ASSISTED: 0.06}


def peer_models(**fields: object) -> FakeModels:
    fake = FakeClient({"ar": 1, "sd": 3})
    return FakeModels(fake, lambda setting: SECONDS[PLAIN if setting.drafting is None else ASSISTED], **fields)  # type: ignore[arg-type]


def results(models: FakeModels) -> list[BlockResult]:
    settings = {PLAIN: Setting(1), ASSISTED: Setting(2, Drafting())}
    clock = models.service.clock
    peers = {peer: PeerClient(models, dict.fromkeys(WORKLOAD.temperatures, setting), clock) for peer, setting in settings.items()}
    return measure(WORKLOAD, models.service, clock=clock, peers=peers)


def a_report(models: FakeModels) -> Report:
    measured = results(models)
    choice = choose(ASSISTED, 0.0, candidates(ASSISTED, 2), WORKLOAD, models, models.service.clock)
    found = peer_differences(measured, models)
    return make_report("m", this_machine(), "ssd-serve bench", WORKLOAD, service_facts(measured, 0.005), measured, [choice], found)


def test_peers_alternate_with_the_presets_prompt_by_prompt() -> None:
    order = [block.preset for block in blocks(WORKLOAD)]
    assert order[:8] == ["ar", "sd", PLAIN, ASSISTED, "sd", PLAIN, ASSISTED, "ar"]
    assert len(order) == WORKLOAD.num_requests


def test_a_peer_is_asked_for_what_the_presets_are_asked_for_with_the_setting_of_the_temperature() -> None:
    models = peer_models()
    results(models)
    measured = models.requests[len(PEERS) :]  # after the warm-up
    asked = {(r.prompt, r.temperature, r.seed, r.max_tokens) for r in measured}
    assert asked == {(r.prompt, r.temperature, r.seed, r.max_tokens) for r in models.service.requests[2:]}
    assert {r.setting for r in measured} == {Setting(1), Setting(2, Drafting())}


def test_ratios_to_assisted_generation_are_of_pairs_of_the_same_prompt() -> None:
    rows = {row.preset: row for row in summarise(results(peer_models())) if row.temperature == 0}
    assert rows["sd"].tokens_per_s == pytest.approx(300)
    assert rows[ASSISTED].tokens_per_s == pytest.approx(200)
    assert rows["sd"].ratio_to_assisted == pytest.approx(1.5)
    assert rows[PLAIN].ratio_to_ar == pytest.approx(0.5)


def test_of_a_peer_nothing_is_said_that_only_the_service_counts() -> None:
    row = next(row for row in summarise(results(peer_models())) if row.preset == ASSISTED)
    assert row.tokens_per_round == 1
    assert (row.hit_rate, row.draft_wait_ms, row.cost, row.totals) == (None, None, None, None)
    assert row.accepted_per_position == () and row.gap_on_hit.num_observations == 0


def test_the_table_has_the_column_only_when_the_peer_took_part() -> None:
    measured = results(peer_models())
    assert f"vs {ASSISTED}" in table(summarise(measured))
    assert f"vs {ASSISTED}" not in table(summarise([result for result in measured if result.block.preset != ASSISTED]))


def test_only_presets_have_a_price() -> None:
    speeds, costs = table(summarise(results(peer_models()))).split("\n\n")[:2]
    assert [line.split()[0] for line in speeds.splitlines()[2:]] == ["ar", "sd", PLAIN, ASSISTED]
    assert [line.split()[0] for line in costs.splitlines()[2:]] == ["ar", "sd"]


def test_what_the_service_says_is_what_it_said_at_a_preset() -> None:
    measured = sorted(results(peer_models()), key=lambda result: result.block.preset in PEERS)
    facts = service_facts(measured, 0.005)
    assert (facts.pass_nodes, facts.num_targets) == ((1, 2), 2)


def test_equal_greedy_answers_are_no_difference_and_sampled_ones_are_not_compared() -> None:
    models = peer_models()
    measured = results(models)
    assert peer_differences(measured, models) == [] and models.forks == []
    assert differences(measured) == []


def test_a_peer_that_differs_fails_the_run_and_is_named() -> None:
    report = a_report(peer_models(wrong_prompt="b"))
    assert not report.is_exact
    assert "the peers' tokens at T=0 are the presets': NO, 2 answers differ" in report.text()
    assert f"prompt 1: {PLAIN} differs at token 11" in report.text()
    assert "all presets returned identical tokens: yes" in report.text()


def test_a_near_tie_is_counted_apart() -> None:
    models = peer_models(wrong_prompt="b", gap=NEAR_TIE_ROUNDINGS)
    report = a_report(models)
    assert report.is_exact
    assert "yes, but for 2 answers that part at a near tie" in report.text()
    assert all(len(fork.prefix) == 11 and len(fork.tokens) == 2 and fork.prompt == "b" for fork in models.forks)


def test_the_report_says_with_which_setting_a_peer_was_measured() -> None:
    report = a_report(peer_models())
    assert f"{ASSISTED} at T=0: 1 thread, transformers' default drafting (the fastest of 8 settings" in report.text()
    content = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert content["peer_choices"][0]["best"]["setting"]["num_threads"] == 1
    assert len(content["peer_choices"][0]["trials"]) == 8
    assert content["workload"]["peers"] == list(PEERS)
    assert [row["cost"] is None for row in content["rows"]] == [row["preset"] in PEERS for row in content["rows"]]


def test_the_planner_reads_the_presets_of_a_report_with_peers(tmp_path: Path) -> None:
    content = json.loads(a_report(peer_models()).to_json())
    content["service"]["num_targets"] = 1
    (tmp_path / "bench.json").write_text(json.dumps(content))
    assert [row.preset for row in read_run(tmp_path / "bench.json").rows] == ["ar", "sd"] * 2


def test_a_run_chooses_settings_and_measures_and_checks_with_them() -> None:
    class Named(FakeClient):
        model = "m"

    models = FakeModels(Named({"ar": 1, "sd": 3}), wrong_prompt="b")
    lines: list[str] = []
    report = run_bench(WORKLOAD, models.service, "ssd-serve bench", lines.append, PeerRoom(models, 2))  # type: ignore[arg-type]
    assert [(choice.temperature, choice.peer) for choice in report.peer_choices] == [(t, peer) for t in (0.0, 0.8) for peer in PEERS]
    assert {(found.peer, found.prompt_index) for found in report.peer_differences} == {(peer, 1) for peer in PEERS}
    assert report.service.num_targets == 2
    assert f"trying settings of {ASSISTED} at T=0.8" in lines


def test_the_chart_shows_peers(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from cluster.bench.chart import write_chart

    write_chart(a_report(peer_models()), tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_the_fastest_setting_is_chosen() -> None:
    fast = Setting(2, DRAFTINGS[2])
    models = FakeModels(FakeClient({}), lambda setting: 1.0 if setting == fast else 2.0)
    choice = choose(ASSISTED, 0.8, candidates(ASSISTED, 2), WORKLOAD, models, models.service.clock)
    assert choice.best.setting == fast
    assert choice.best.tokens_per_s == pytest.approx(12)


def test_a_hopeless_setting_is_tried_on_one_prompt_only_and_never_chosen() -> None:
    models = FakeModels(FakeClient({}), lambda setting: 4.0 if setting.num_threads == 2 else 1.0)
    choice = choose(PLAIN, 0.0, candidates(PLAIN, 2), WORKLOAD, models, models.service.clock)
    assert [request.setting.num_threads for request in models.requests] == [1, 2, 1, 2, 1]  # the warm-up, two prompts
    assert [trial.tokens_per_s for trial in choice.trials] == pytest.approx([12, 3])
    assert choice.best.setting == Setting(1)


def test_settings_are_tried_with_other_seeds_than_are_measured() -> None:
    models = FakeModels(FakeClient({}))
    settings = candidates(PLAIN, 2)
    choose(PLAIN, 0.8, settings, WORKLOAD, models, models.service.clock)
    tried = models.requests[len(settings) :]  # after the warm-up
    assert {request.seed for request in tried}.isdisjoint(range(len(WORKLOAD.prompts)))
    assert [request.setting for request in tried] == [*settings, *reversed(settings)]


def test_plain_decoding_tries_threads_only_and_one_thread_once() -> None:
    assert candidates(PLAIN, 2) == (Setting(1), Setting(2))
    assert candidates(PLAIN, 1) == (Setting(1),)
    assert len(candidates(ASSISTED, 2)) == 2 * len(DRAFTINGS)


def test_a_peer_has_no_answers_of_unknown_length() -> None:
    with pytest.raises(AssertionError, match="fixed length"):
        PeerClient(peer_models(), {0.0: Setting(1)}).complete(CompletionRequest("a"))

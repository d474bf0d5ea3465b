"""The simulated service does what queues do, and the policies meet their goals in it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from autoscale.cost_model import FOUR_AND_ONE, PAIR, CostModel
from autoscale.fluid import Fleet, Sessions
from autoscale.schedule import Sizes, best_unit, clairvoyant, needed_targets
from autoscale.shapes import MEAN_TOKENS, SHAPES, Load, burst, diurnal, drawn, flash_crowd, read_trace
from autoscale.simulate import Comparison, Summary, Wanted, by_policies, by_schedule, compare, load_for, policy_configs, simulate
from cluster.cli import main
from ssd_core.errors import ConfigError


def steady(requests_per_s: float, periods: int) -> Load:
    arrivals = np.full(periods, requests_per_s * 10.0)
    return Load(arrivals, arrivals * MEAN_TOKENS)


def rows(comparison: Comparison) -> tuple[Summary, Summary, Summary, Summary]:
    policies, known, patient, static = comparison.summaries
    assert (policies.name, known.name, patient.name, static.name) == ("policies", "clairvoyant", "patient", "static")
    return policies, known, patient, static


def costs_a_tenth_more_at_equal_latency(policies: Summary, known: Summary, patient: Summary) -> bool:
    """At most: than foresight that saves while requests wait as long, and so than foresight that nobody waits for."""
    assert patient.answer_s <= policies.answer_s and patient.queue_p99_s <= policies.queue_p99_s
    assert patient.device_s <= known.device_s
    return policies.device_s < 1.1 * patient.device_s


# ------------------------------------------------------------ goals


@pytest.mark.parametrize(("model", "seed"), [(PAIR, 0), (FOUR_AND_ONE, 1)], ids=lambda value: getattr(value, "name", str(value)))
def test_a_day_costs_a_tenth_more_than_foresight_at_most_and_is_as_quick(model: CostModel, seed: int) -> None:
    comparison = compare(model, drawn(diurnal(load_for(model, 100)), seed))
    policies, known, patient, static = rows(comparison)
    assert costs_a_tenth_more_at_equal_latency(policies, known, patient) and policies.device_s < 1.1 * comparison.least_device_s
    assert policies.queue_p99_s < 1.5 and policies.answer_s < 1.03 * known.answer_s
    assert static.device_s > 1.5 * policies.device_s
    assert policies.target_changes < 0.9 * known.target_changes, "it does not follow every wave"


@pytest.mark.parametrize("model", [PAIR, FOUR_AND_ONE], ids=lambda model: model.name)
@pytest.mark.parametrize("targets", [20, 100, 1000])
def test_ten_times_the_load_is_answered_within_two_periods(model: CostModel, targets: int) -> None:
    policies, known, patient, _ = rows(compare(model, drawn(burst(load_for(model, targets)))))
    assert policies.reaction_periods is not None and 1 <= policies.reaction_periods <= 2
    assert known.reaction_periods == 0, "it had asked before"
    assert policies.queue_p99_s < model.target_start_s + 10, "nobody waits longer than a target takes to start"
    assert costs_a_tenth_more_at_equal_latency(policies, known, patient) and policies.device_s < 1.1 * known.device_s


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_burst_from_two_targets_to_twenty_is_met_whatever_the_draw(seed: int) -> None:
    comparison = compare(PAIR, drawn(burst(load_for(PAIR, 20)), seed))
    policies, known, patient, _ = rows(comparison)
    assert comparison.load.jump is not None and comparison.runs[0].targets[comparison.load.jump + 2] >= 20
    assert costs_a_tenth_more_at_equal_latency(policies, known, patient)


def test_a_flash_crowd_gets_a_thousand_targets_and_four_thousand_drafts() -> None:
    policies, known, patient, static = rows(compare(FOUR_AND_ONE, drawn(flash_crowd(load_for(FOUR_AND_ONE, 1000)))))
    assert (policies.most_targets, policies.most_drafts) == (1000, 4000)
    assert costs_a_tenth_more_at_equal_latency(policies, known, patient) and static.device_s > 4 * policies.device_s
    assert policies.queue_p99_s < FOUR_AND_ONE.target_start_s + 10


@pytest.mark.parametrize(("model", "targets"), [(PAIR, 20), (PAIR, 100), (FOUR_AND_ONE, 300)])
def test_a_flash_crowd_costs_a_tenth_more_than_foresight_at_most(model: CostModel, targets: int) -> None:
    policies, known, patient, _ = rows(compare(model, drawn(flash_crowd(load_for(model, targets)))))
    assert costs_a_tenth_more_at_equal_latency(policies, known, patient)
    assert policies.queue_p99_s < model.target_start_s + 10


def test_with_every_other_sample_lost_a_day_still_costs_little_more() -> None:
    load = drawn(diurnal(load_for(PAIR, 20)))
    start = Wanted(10, 10)
    decide = by_policies(*policy_configs(PAIR), start)
    last = start

    def forgetful(period: int, sample: object) -> Wanted:
        nonlocal last
        if period % 2:
            last = decide(period, sample)  # type: ignore[arg-type]
        return last

    needed = needed_targets(PAIR, load)
    known = simulate("clairvoyant", PAIR, load, start, by_schedule(clairvoyant(PAIR, load))).summary(needed)
    lossy = simulate("lossy", PAIR, load, start, forgetful).summary(needed)
    assert lossy.device_s < 1.1 * known.device_s and lossy.queue_p99_s < 10


# ------------------------------------------------------------ the simulated service


def test_what_comes_is_emitted_and_littles_law_holds() -> None:
    unit = best_unit(PAIR)
    load = steady(0.8 * unit.tokens_per_s * 10 / MEAN_TOKENS, 100)
    sessions, targets, drafts = Sessions(PAIR), Fleet(10, 0), Fleet(10, 0)
    samples = [sessions.live(period, load, targets, drafts) for period in range(100)]
    last = samples[-1]
    assert sum(sample.tokens for sample in samples) + last.outstanding_tokens == pytest.approx(load.tokens.sum())
    assert last.tokens == pytest.approx(load.tokens[0], rel=1e-3) and last.queued == 0
    speed = PAIR.speed(last.running / 10, 1.0)
    assert last.running == pytest.approx(load.arrivals[0] / 10 * MEAN_TOKENS / (speed.tokens_per_s / (last.running / 10)), rel=0.02)


def test_beyond_what_targets_can_requests_wait_their_turn() -> None:
    unit = best_unit(PAIR)
    load = steady(2 * unit.tokens_per_s / MEAN_TOKENS, 60)
    run = simulate("one", PAIR, load, Wanted(1, 1), lambda period, sample: Wanted(1, 1))
    # twice the speed comes: what came at t is admitted at about 2 t
    assert run.queue_delays_s[19] == pytest.approx(200, rel=0.05)
    assert run.queue_s(0.5) <= run.queue_s(0.99)


def test_actors_serve_after_their_start_and_the_latest_are_given_up_first() -> None:
    fleet = Fleet(2, start_periods=3)
    fleet.resize(5, 1)
    fleet.resize(6, 2)
    assert (fleet.num_serving, fleet.num_starting) == (2, 4)
    fleet.begin(3)
    assert fleet.num_serving == 2
    fleet.resize(4, 3)
    fleet.begin(4)
    assert (fleet.num_serving, fleet.num_starting) == (4, 0)
    fleet.resize(1, 5)
    assert (fleet.num_serving, fleet.size) == (1, 1)


def test_foresight_starts_just_in_time() -> None:
    load = Load(np.array([1.0] * 20 + [1e3] * 10 + [1.0] * 20), np.array([1.0] * 20 + [1e6] * 10 + [1.0] * 20))
    targets = clairvoyant(PAIR, load).targets
    assert set(targets[:14]) == {1} and set(targets[14:30]) == {needed_targets(PAIR, load)[20]} and set(targets[30:]) == {1}


def test_what_is_held_is_paid_for() -> None:
    load = steady(1.0, 4)
    sizes = Sizes(np.array([1.0, 3.0, 3.0, 1.0]), np.array([0.0, 2.0, 2.0, 0.0]))
    run = simulate("by hand", FOUR_AND_ONE, load, Wanted(1, 0), by_schedule(sizes))
    assert run.devices.tolist() == [4, 14, 14, 14], "a removed one drains in its last period"


# ------------------------------------------------------------ the model of costs


@pytest.mark.parametrize(("sessions", "tokens_per_round"), [(1, 7.31), (8, 5.63)])
def test_the_model_is_near_what_was_measured(sessions: int, tokens_per_round: float) -> None:
    """`ssd-tree` on two H100s, tests/bench/NOTES.md: one draft for one target."""
    speed = PAIR.speed(sessions, 1.0)
    assert speed.tokens_per_s / speed.windows_per_s == pytest.approx(tokens_per_round, rel=0.15)


def test_more_drafts_starve_fewer_windows_and_emit_more() -> None:
    speeds = [PAIR.speed(8, drafts) for drafts in (0.125, 0.25, 0.5, 1, 2)]
    emitted = [speed.tokens_per_s for speed in speeds]
    starved = [speed.starved_per_s / speed.windows_per_s for speed in speeds]
    assert emitted == sorted(emitted) and starved == sorted(starved, reverse=True)
    assert speeds[0].tokens_per_s > PAIR.speed(8, 0).tokens_per_s == speeds[0].plain_tokens_per_s


# ------------------------------------------------------------ loads and the command


def test_shapes_reach_their_peak() -> None:
    for name, shape in SHAPES.items():
        assert max(shape(100.0)) == pytest.approx(100, rel=0.01), name
    assert drawn(burst(1000.0)).jump == 120 and drawn(diurnal(1000.0)).jump is None


def test_a_trace_is_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.jsonl"
    lines = [{"time_s": 100 + 2.5 * i, "arrivals": 2, "tokens": 900 + i} for i in range(100)]
    path.write_text("\n".join(map(json.dumps, lines)))
    load = read_trace(path)
    assert load.arrivals.tolist() == [8.0] * 25 and load.tokens[:2].tolist() == [3606, 3622]
    out = [str(tmp_path / "out.json"), str(tmp_path / "out.png")]
    assert main(["autoscale", "simulate", "--trace", str(path), "--json", out[0], "--plot", out[1]]) == 0
    table = capsys.readouterr().out.partition("\n\n")[0]
    runs = json.loads(Path(out[0]).read_text())["runs"]
    assert (
        [run["name"] for run in runs]
        == ["policies", "clairvoyant", "patient", "static"]
        == [line.split()[0] for line in table.splitlines()[1:]]
    )
    assert len(runs[0]["targets"]) == 25 and Path(out[1]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("line", ["", "{", "[1]", '{"time_s": 0}', '{"time_s": 0, "arrivals": -1, "tokens": 1}'])
def test_a_wrong_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"time_s": 0, "arrivals": 1, "tokens": 1}\n' + line + "\n")
    with pytest.raises(ConfigError, match=r"trace.jsonl:2: "):
        read_trace(path)


@pytest.mark.parametrize(("text", "mistake"), [("", "no lines"), ('{"time_s": 0, "arrivals": 0, "tokens": 0}', "no request ever comes")])
def test_a_trace_without_requests_is_refused(tmp_path: Path, text: str, mistake: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match=mistake):
        read_trace(path)


def test_more_targets_than_are_simulated_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["autoscale", "simulate", "burst", "--targets", "1001"]) == 2
    assert "1000" in capsys.readouterr().err


def test_every_column_of_the_table_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["autoscale", "simulate", "burst", "--targets", "2"]) == 0
    table, legend = capsys.readouterr().out.split("\n\n")
    header = table.splitlines()[0]
    explained = [line.partition(":")[0] for line in legend.splitlines()]
    for column in re.split(r" {2,}", header.strip()):
        assert explained.count(column) == 1, column
    assert "A period is 10 s" in legend

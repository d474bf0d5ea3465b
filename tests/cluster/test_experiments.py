"""The experiments at tiny size, and what is stored of them at full size: drawn, complete, and on the page."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.commands.experiments import FOLDER
from cluster.experiments.catalog import EXPERIMENTS
from cluster.experiments.costs import Costs, LoopCosts, read_costs
from cluster.experiments.draw import write_plot
from cluster.experiments.experiment import Experiment
from cluster.experiments.measure_costs import measure_costs
from cluster.experiments.questions.fan_out import fitted
from cluster.experiments.rates import hit_rate, speedup, tokens_per_round, tokens_per_s
from cluster.experiments.results import Account, Point, Provenance, read_results
from cluster.experiments.rig import Rig
from cluster.experiments.run import load_rig, run_experiment, this_provenance
from cluster.experiments.setting import Setting, plain
from ssd_core.engine.fake import FakeEngine
from ssd_core.errors import ConfigError

NAMES = [experiment.name for experiment in EXPERIMENTS]
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")
COSTS = Costs(
    origin="made up",
    target=LoopCosts(pass_nodes=(1, 16), pass_s=(0.002, 0.004), per_session_s=0.0002, overhead_s=0.0005),
    draft=LoopCosts(pass_nodes=(1, 16), pass_s=(0.0002, 0.0004), overhead_s=0.0002),
    latency_s=0.0003,
)
PROVENANCE = Provenance(command="c", commit="", machine="m")
MOST_KILOBYTES = 40

by_name = pytest.mark.parametrize("experiment", EXPERIMENTS, ids=NAMES)


def fake_rig(num_prompts: int = 2, max_tokens: int = 6) -> Rig:
    prompts = [tuple((7 * i + 3 * j) % 64 for j in range(4)) for i in range(64)]
    target, draft = FakeEngine(seed=3, num_cells=2**14), FakeEngine(seed=3, noise=0.4, num_cells=2**16)
    return Rig(target, draft, prompts, COSTS, num_prompts, max_tokens)


def silent(line: str) -> None: ...


def point(**columns: tuple[float, ...]) -> Point:
    """Of one request at a time: the seconds of all are those of each together. What is not said is 0."""
    zeros = (0,) * len(columns["tokens"])
    account = Account.model_validate(dict.fromkeys(Account.model_fields, zeros) | columns)
    return Point(setting=plain(), seconds=sum(account.seconds), draft_busy_s=0.0, account=account)


# ------------------------------------------------------------ what runs


@by_name
def test_it_runs_is_stored_read_again_and_drawn(experiment: Experiment, tmp_path: Path) -> None:
    results = run_experiment(experiment, fake_rig(), PROVENANCE, silent)
    assert [one.setting for one in results.points] == list(experiment.settings)
    stored = read_results(results.write(tmp_path))
    assert stored == results
    assert write_plot(experiment, stored, tmp_path).stat().st_size > 1000


@by_name
def test_settings_are_what_they_say(experiment: Experiment) -> None:
    """Each is a valid configuration, none is there twice, and each has plain decoding to be compared with, if anything has."""
    marks = [setting.model_dump_json() for setting in experiment.settings]
    assert len(set(marks)) == len(marks)
    plains = {(s.temperature, s.concurrency) for s in experiment.settings if s.curve == "ar"}
    for setting in experiment.settings:
        assert not setting.speculation_config().is_tuned
        assert not plains or (setting.temperature, setting.concurrency) in plains


@pytest.mark.pair
def test_the_pair_runs() -> None:
    rig = load_rig("embedded:target", "embedded:draft", COSTS, num_prompts=1, max_tokens=8)
    for experiment in EXPERIMENTS:
        setting = next(s for s in experiment.settings if s.curve != "ar" and s.concurrency == 1)
        done = rig.measure(setting)
        assert done.account.tokens == (8,) and done.seconds > 0 and done.draft_busy_s > 0


def test_costs_are_measured_and_everything_is_given_back() -> None:
    rig = fake_rig()
    costs = measure_costs(rig.target, rig.draft, rig.prompts, max_tokens=12)
    assert costs.target.overhead_s > 0 and costs.draft.overhead_s >= 0
    assert costs.target.pass_nodes[-1] == costs.draft.pass_nodes[-1] == 256
    assert rig.target.num_free_cells == rig.target.num_cells and rig.draft.num_free_cells == rig.draft.num_cells


def test_the_same_setting_gives_the_same_figures_however_loaded_the_machine_is() -> None:
    setting = Setting(curve="a", speculation={"preset": "ssd-tree"}, temperature=0.7, concurrency=2)
    assert fake_rig().measure(setting) == fake_rig().measure(setting)


def test_many_at_a_time_have_enough_requests_to_stay_many() -> None:
    assert plain(concurrency=8).num_requests(2) == 16 and plain().num_requests(2) == 2
    assert len(fake_rig().measure(plain(concurrency=8)).account.tokens) == 16


# ------------------------------------------------------------ figures


def test_figures_are_ratios_of_sums_with_an_error_over_requests() -> None:
    one = point(tokens=(8, 8), rounds=(2, 6), seconds=(1.0, 3.0), hits=(1, 3), lookups=(1, 5))
    assert tokens_per_s(one).value == 4.0 and tokens_per_round(one).value == 2.0
    assert hit_rate(one).value == pytest.approx(4 / 6) and hit_rate(one).error > 0.05


def test_what_slows_both_alike_is_no_spread_of_their_ratio() -> None:
    own = point(tokens=(8, 8), seconds=(1.0, 3.0))
    twice = point(tokens=(8, 8), seconds=(2.0, 6.0))
    ratio = speedup(own, twice)
    assert ratio.value == 2.0 and ratio.error == pytest.approx(0, abs=1e-12) and tokens_per_s(own).error > 0.5


def test_the_power_law_is_found_again() -> None:
    lookups = 10**6
    points = [
        point(tokens=(1,), hits=(lookups - round(3e5 * fan_out**-0.7),), lookups=(lookups,)).model_copy(
            update={"setting": Setting(curve="a", x=fan_out, speculation={})}
        )
        for fan_out in (1, 2, 4, 8)
    ]
    assert fitted(points) == pytest.approx((0.3, 0.7), rel=1e-3)


# ------------------------------------------------------------ the command


def test_plot_draws_the_stored_results(tmp_path: Path) -> None:
    assert main(["experiments", "plot", "--out", str(tmp_path)]) == 0
    assert {path.stem for path in tmp_path.glob("*.png")} == set(NAMES)


def test_plots_go_below_the_current_folder_and_never_into_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = {path: path.stat().st_mtime_ns for path in (FOLDER / "plots").iterdir()}
    monkeypatch.chdir(tmp_path)
    assert main(["experiments", "plot", "rules"]) == 0
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*.png")] == [Path("results/experiments/rules.png")]
    assert {path: path.stat().st_mtime_ns for path in (FOLDER / "plots").iterdir()} == shipped


def test_the_same_results_give_the_same_bytes_whatever_the_users_settings(tmp_path: Path) -> None:
    """In two processes, the second with other settings of matplotlib, fonts and hashes."""
    (tmp_path / "matplotlibrc").write_text("font.family: serif\naxes.grid: True\nsavefig.dpi: 70\nfigure.facecolor: yellow\n")
    own = {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "PYTHONHASHSEED": "7", "LC_ALL": "C"}
    code = "import sys; from cluster.cli import main; sys.exit(main())"
    for out, changes in (("one", {"PYTHONHASHSEED": "1"}), ("other", own)):
        words = [sys.executable, "-c", code, "experiments", "plot", "--out", str(tmp_path / out)]
        subprocess.run(words, env=os.environ | changes, check=True, capture_output=True)
    assert len(NAMES) > 1
    for name in NAMES:
        assert (tmp_path / "one" / f"{name}.png").read_bytes() == (tmp_path / "other" / f"{name}.png").read_bytes(), name


def test_results_that_are_not_there_or_not_results_are_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["experiments", "plot", "rules", "--results", str(tmp_path), "--out", str(tmp_path)]
    assert main(words) == 2
    (tmp_path / "rules.json").write_text("[]")
    assert main(words) == 2
    (tmp_path / "rules.json").write_text('{"experiment": 1}')
    assert main(words) == 2
    assert "rules.json: points: missing" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["experiments", "plot", "nothing-like-it"])


def test_costs_must_be_whole(tmp_path: Path) -> None:
    (tmp_path / "costs.json").write_text(json.dumps(COSTS.model_dump() | {"latency_s": -1}))
    with pytest.raises(ConfigError, match="latency_s"):
        read_costs(tmp_path / "costs.json")


def test_a_run_says_where_it_comes_from() -> None:
    said = this_provenance("ssd-serve experiments run x")
    assert said.command.endswith("run x") and "cores" in said.machine


# ------------------------------------------------------------ the page


@by_name
def test_the_page_shows_it_and_its_files_are_there(experiment: Experiment) -> None:
    section = PAGE.split(f"\n## {experiment.name}\n")[1].split("\n## ")[0]
    assert f"ssd-serve experiments run {experiment.name}" in section
    for shown in (f"results/{experiment.name}.json", f"plots/{experiment.name}.png"):
        assert f"({shown})" in section and (FOLDER / shown).is_file()
    assert (FOLDER / f"plots/{experiment.name}.png").stat().st_size < 1000 * MOST_KILOBYTES


@by_name
def test_what_is_stored_is_of_this_experiment_and_says_where_it_comes_from(experiment: Experiment) -> None:
    results = read_results(FOLDER / f"results/{experiment.name}.json")
    assert results.experiment == experiment.name
    assert [one.setting for one in results.points] == list(experiment.settings)
    assert results.provenance.commit and "dirty" not in results.provenance.commit
    assert experiment.name in results.provenance.command or " all" in results.provenance.command
    assert results.costs == read_costs(FOLDER / "zen5.json")


def test_the_page_names_no_other_experiment() -> None:
    sections = re.findall(r"^ssd-serve experiments run (\S+)", PAGE.replace("    ", ""), re.MULTILINE)
    assert set(sections) == {*NAMES, "all"}

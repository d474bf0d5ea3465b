"""Two ways to make sampled tokens exact, end to end: shared noise, or rejection sampling as published, which takes chains only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.experiments.draw import COLOURS, MARKERS, draw_curve, finish, legend_below, to_plain
from cluster.experiments.experiment import Experiment
from cluster.experiments.rates import hit_rate, tokens_per_round, tokens_per_s
from cluster.experiments.results import Results
from cluster.experiments.setting import Setting, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPERATURES = (0.3, 0.7, 1.0)
CHAINS = ("sd", "ssd", "saguaro")
RULES = {"shared-noise": "-", "rejection": "--"}
PAIRS = (*((preset, rule) for preset in CHAINS for rule in RULES), ("ssd-tree", "shared-noise"))


def _curve(preset: str, rule: str) -> str:
    return f"{preset}, {rule.replace('-', ' ')}"


def _setting(preset: str, rule: str, temperature: float) -> Setting:
    speculation = {"preset": preset, "verification": rule}
    return Setting(curve=_curve(preset, rule), x=temperature, temperature=temperature, speculation=speculation)


def draw(figure: Figure, results: Results) -> None:
    panels = figure.subplots(1, 4)
    metrics = {"tokens in a round": tokens_per_round, "hits": hit_rate, "tokens/s": tokens_per_s, "tokens/s to ar": to_plain(results)}
    markers = dict(zip((*CHAINS, "ssd-tree"), MARKERS, strict=False))
    for axes, (name, metric) in zip(panels, metrics.items(), strict=True):
        for preset, rule in PAIRS:
            if metric is hit_rate and preset == "sd":
                continue  # it looks nothing up
            points, curve = results.curve(_curve(preset, rule)), _curve(preset, rule)
            draw_curve(axes, points, metric, color=COLOURS[preset], linestyle=RULES[rule], marker=markers[preset], label=curve)
        axes.set_xticks(TEMPERATURES)
        finish(axes, name, "temperature", "")
    legend_below(figure, panels[0], 4)


EXPERIMENT = Experiment(
    name="rules",
    title="Shared noise (solid) against rejection sampling (dashed)",
    settings=(
        *map(plain, TEMPERATURES),
        *(_setting(preset, rule, temperature) for preset, rule in PAIRS for temperature in TEMPERATURES),
    ),
    draw=draw,
    prompts_factor=2,
    size=(11.0, 3.8),
)

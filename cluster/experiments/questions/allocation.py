"""Where the guesses of a round belong: at every place alike, by the geometric series, at the likeliest outcomes, or wherever reach is
highest.

All four may grow as many nodes at a time. None has a backup: what is compared is what was prepared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster.experiments.draw import COLOURS, MARKERS, OTHERS, draw_curve, finish, legend_below, to_plain
from cluster.experiments.experiment import Experiment
from cluster.experiments.rates import hit_rate, tokens_per_round
from cluster.experiments.results import Results
from cluster.experiments.setting import Setting, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BUDGETS = (1, 2, 3, 4)
TEMPERATURES = (0.0, 1.0)
LOOKAHEAD = 5
SHAPES: dict[str, dict[str, Any]] = {
    "uniform": {"preset": "ssd", "fan_out_shape": "uniform"},
    "geometric": {"preset": "ssd", "fan_out_shape": "geometric"},
    "best-first": {"preset": "ssd", "fan_out_shape": "best-first"},
    "ssd-tree": {"preset": "ssd-tree", "backup": "none"},
}


def _setting(shape: str, temperature: float, budget: int) -> Setting:
    num_chains = budget * (LOOKAHEAD + 1)
    speculation = {"lookahead": LOOKAHEAD, "fan_out": budget, "growth_width": num_chains + 1, "growth_limit": 2 * num_chains * LOOKAHEAD}
    return Setting(curve=shape, x=budget, temperature=temperature, max_step_nodes=num_chains + 1, speculation=SHAPES[shape] | speculation)


def draw(figure: Figure, results: Results) -> None:
    panels = figure.subplots(len(TEMPERATURES), 3)
    metrics = {"hits": hit_rate, "tokens in a round": tokens_per_round, "tokens/s to ar": to_plain(results)}
    for row, temperature in zip(panels, TEMPERATURES, strict=True):
        for axes, (name, metric) in zip(row, metrics.items(), strict=True):
            for shape, colour, marker in zip(SHAPES, (*OTHERS[:3], COLOURS["ssd-tree"]), MARKERS, strict=False):
                draw_curve(axes, results.curve(shape, temperature), metric, color=colour, marker=marker, label=shape)
            axes.set_xticks(BUDGETS)
            finish(axes, f"{name}, T = {temperature:g}", "guesses at each place, on average", "")
    legend_below(figure, panels[0][0], len(SHAPES))


EXPERIMENT = Experiment(
    name="allocation",
    title="The same number of guesses, placed in four ways",
    settings=(
        *map(plain, TEMPERATURES),
        *(_setting(shape, temperature, budget) for temperature in TEMPERATURES for shape in SHAPES for budget in BUDGETS),
    ),
    draw=draw,
    size=(9.0, 5.6),
)

"""How many guesses of a bonus token hit it: `ssd`, uniform, whose draft is so quick that all that is planned is grown in time.

A miss is then an outcome that was not among the guesses, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import linear_regression
from typing import TYPE_CHECKING, NamedTuple

from cluster.experiments.draw import COLOURS, MARKERS, OTHERS, draw_curve, finish, log2_ticks
from cluster.experiments.experiment import Experiment
from cluster.experiments.rates import miss_rate
from cluster.experiments.results import Point, Results
from cluster.experiments.setting import Setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAN_OUTS = tuple(range(1, 9))
TEMPERATURES = {"shared-noise": (0.0, 0.7, 1.0), "rejection": (0.7, 1.0)}
"""At temperature 0 the rules are the same."""
QUICK = 1 / 1000
WIDE = 256
"""Nodes of a step: at F = 8 and K = 5 a plan has 6 x 8 chains."""


def _setting(rule: str, temperature: float, fan_out: int) -> Setting:
    speculation = {"preset": "ssd", "fan_out": fan_out, "growth_width": WIDE, "growth_limit": 4 * WIDE, "verification": rule}
    return Setting(curve=rule, x=fan_out, temperature=temperature, draft_scale=QUICK, max_step_nodes=WIDE, speculation=speculation)


class PowerLaw(NamedTuple):
    """miss(F) = c F^-r."""

    c: float
    r: float


def fitted(points: Sequence[Point]) -> PowerLaw:
    """Least squares of log miss on log F. Half a look-up is added to the misses, or none would have no logarithm."""
    misses = [sum(p.account.lookups) - sum(p.account.hits) for p in points]
    lookups = [sum(p.account.lookups) for p in points]
    rates = [(missed + 0.5) / (looked_up + 1) for missed, looked_up in zip(misses, lookups, strict=True)]
    # Exact sums: a library's solver rounds as its threads and the processor have it, and the picture's bytes with it.
    slope, offset = linear_regression([math.log(p.setting.x) for p in points], [math.log(rate) for rate in rates])
    return PowerLaw(math.exp(offset), -slope)


def draw(figure: Figure, results: Results) -> None:
    panels = figure.subplots(1, 2, sharey=True)
    colours = dict(zip(TEMPERATURES["shared-noise"], (COLOURS["ar"], *OTHERS), strict=False))
    for axes, rule in zip(panels, TEMPERATURES, strict=True):
        for marker, temperature in zip(MARKERS, TEMPERATURES[rule], strict=False):
            points, colour = results.curve(rule, temperature), colours[temperature]
            law = fitted(points)
            label = f"T = {temperature:g}:  ${law.c:.2f}\\,F^{{-{law.r:.2f}}}$"
            draw_curve(axes, points, miss_rate, color=colour, linestyle="", marker=marker, label=label)
            xs = [point.setting.x for point in points]
            axes.plot(xs, [law.c * x**-law.r for x in xs], "--", color=colour, linewidth=1)
        axes.set_yscale("log")
        log2_ticks(axes, FAN_OUTS)
        axes.set_yticks([0.1, 0.2, 0.3, 0.5, 0.7], ["10 %", "20 %", "30 %", "50 %", "70 %"])
        axes.minorticks_off()
        finish(axes, rule.replace("-", " "), "fan-out F (guesses at each place)", "outcomes not prepared for")
        axes.legend(fontsize=8, loc="lower left")
        axes.set_ylim(0.07, 0.8)


EXPERIMENT = Experiment(
    name="fan-out",
    title="Misses against fan-out, when all that is planned is grown in time: the power law fitted to it dashed",
    settings=tuple(
        _setting(rule, temperature, fan_out)
        for rule, temperatures in TEMPERATURES.items()
        for temperature in temperatures
        for fan_out in FAN_OUTS
    ),
    draw=draw,
)

"""Which nodes a step of `ssd-tree` evaluates, how much of what it grows is for the outcome after the next, how true its edges are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.experiments.draw import MARKERS, OTHERS, add_plain, draw_curve, finish, log2_ticks, to_plain
from cluster.experiments.experiment import Experiment
from cluster.experiments.rates import deep_acceptance, deep_hits
from cluster.experiments.results import Point, Results
from cluster.experiments.setting import Setting, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONCURRENCIES = (1, 4, 16)
TEMPERATURES = (0.0, 1.0)
CHOICES = {"by-reach": 4, "by-gain": 16}
"""And the most nodes of a session in a step: by gain, the cost of a step says how many."""


def _setting(choice: str, temperature: float, concurrency: int) -> Setting:
    speculation = {"preset": "ssd-tree", "growth_choice": choice, "growth_width": CHOICES[choice]}
    return Setting(curve=choice, x=concurrency, temperature=temperature, concurrency=concurrency, speculation=speculation)


def draw(figure: Figure, results: Results) -> None:
    speed, deep, edges = figure.subplots(1, 3)
    curves = [(choice, temperature) for choice in CHOICES for temperature in TEMPERATURES]
    for (choice, temperature), colour, marker in zip(curves, OTHERS, MARKERS, strict=False):
        points = results.curve(choice, temperature)
        draw_curve(speed, points, to_plain(results), color=colour, marker=marker, label=f"{choice}, T = {temperature:g}")
    add_plain(speed)
    for temperature, colour in zip(TEMPERATURES, OTHERS, strict=False):
        points = results.curve("by-reach", temperature)
        draw_curve(deep, points, deep_acceptance, color=colour, marker="o", label=f"accepted tokens, T = {temperature:g}")
        draw_curve(deep, points, deep_hits, color=colour, marker="s", linestyle=":", label=f"hits, T = {temperature:g}")
        _draw_reliability(edges, points, color=colour, label=f"T = {temperature:g}")
    for axes in (speed, deep):
        log2_ticks(axes, CONCURRENCIES)
    edges.plot((0, 1), (0, 1), color="#80868b", linestyle="--", linewidth=1, label="calibrated")
    finish(speed, "nodes chosen by reach or by gain", "requests at a time", "tokens/s to ar")
    finish(deep, "grown an outcome earlier", "requests at a time", "share")
    finish(edges, "reliability of edges", "edge probability", "chosen by the target")
    for axes in (speed, deep, edges):
        axes.legend(fontsize=7)


def _draw_reliability(axes: Axes, points: list[Point], color: str, label: str) -> None:
    """Of all loads together."""
    counted = [point.growth for point in points if point.growth is not None]
    columns = [
        [sum(bins) for bins in zip(*(getattr(one, name) for one in counted), strict=True)] for name in ("edges", "expected", "chosen")
    ]
    seen = [(expected / edges, chosen / edges) for edges, expected, chosen in zip(*columns, strict=True) if edges >= 20]
    axes.plot([x for x, _ in seen], [y for _, y in seen], color=color, marker="o", markersize=4, linewidth=1.2, label=label)


EXPERIMENT = Experiment(
    name="growth",
    title="ssd-tree: what a growth step evaluates, what is grown two outcomes ahead, and how true its edges are",
    settings=(
        *(plain(temperature, concurrency) for temperature in TEMPERATURES for concurrency in CONCURRENCIES),
        *(
            _setting(choice, temperature, concurrency)
            for choice in CHOICES
            for temperature in TEMPERATURES
            for concurrency in CONCURRENCIES
        ),
    ),
    draw=draw,
    size=(11.0, 4.0),
)

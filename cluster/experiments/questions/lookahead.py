"""Speed against the length of a chain. Where target and draft take turns, or the target waits for a chain of fixed length, a longer one
costs more than it brings from some K on; growth that stops when the outcome arrives should know no such cliff."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.experiments.draw import COLOURS, MARKERS, draw_curve, finish
from cluster.experiments.experiment import Experiment
from cluster.experiments.rates import tokens_per_s
from cluster.experiments.results import Results
from cluster.experiments.setting import Setting, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOOKAHEADS = tuple(range(1, 11))
CHAINS = ("sd", "ssd", "saguaro")
GROWTH_LIMIT = 512
"""Room for all chains of K = 10."""


def _setting(preset: str, lookahead: int) -> Setting:
    return Setting(curve=preset, x=lookahead, speculation={"preset": preset, "lookahead": lookahead, "growth_limit": GROWTH_LIMIT})


def draw(figure: Figure, results: Results) -> None:
    axes = figure.subplots()
    for preset, marker in zip(CHAINS, MARKERS, strict=False):
        draw_curve(axes, results.curve(preset), tokens_per_s, color=COLOURS[preset], marker=marker, label=preset)
    for preset, line in (("ssd-tree", "-"), ("ar", "--")):
        (point,) = results.curve(preset)
        rate = tokens_per_s(point)
        axes.axhline(rate.value, color=COLOURS[preset], linestyle=line, linewidth=1.5, label=f"{preset} (has no K)")
        axes.axhspan(rate.value - rate.error, rate.value + rate.error, color=COLOURS[preset], alpha=0.12, linewidth=0)
    axes.set_xticks(LOOKAHEADS)
    axes.set_ylim(bottom=0)
    finish(axes, "", "lookahead K (tokens of a chain)", "tokens/s, prompts included")
    axes.legend(fontsize=8, loc="lower right", ncols=2)


EXPERIMENT = Experiment(
    name="lookahead",
    title="Speed against the length of the chain, T = 0, one request at a time",
    settings=(
        plain(),
        Setting(curve="ssd-tree", speculation={"preset": "ssd-tree"}),
        *(_setting(preset, lookahead) for preset in CHAINS for lookahead in LOOKAHEADS),
    ),
    draw=draw,
    size=(7.5, 4.2),
)

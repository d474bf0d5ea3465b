"""What to do on a miss, by how many requests run at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.experiments.draw import COLOURS, MARKERS, OTHERS, add_plain, draw_curve, finish, log2_ticks, to_plain
from cluster.experiments.experiment import Experiment
from cluster.experiments.results import Results
from cluster.experiments.setting import Setting, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONCURRENCIES = (1, 2, 4, 8, 16, 32)
BACKUPS = ("none", "ngram", "wait", "by-batch", "by-gain")


def _setting(curve: str, preset: str, backup: str, concurrency: int) -> Setting:
    return Setting(curve=curve, x=concurrency, concurrency=concurrency, speculation={"preset": preset, "backup": backup})


def draw(figure: Figure, results: Results) -> None:
    axes = figure.subplots()
    curves = dict(zip((f"ssd, {backup}" for backup in BACKUPS), (COLOURS["ar"], *OTHERS), strict=False)) | {
        "ssd-tree, by-gain": COLOURS["ssd-tree"]
    }
    for (curve, colour), marker in zip(curves.items(), MARKERS, strict=True):
        draw_curve(axes, results.curve(curve), to_plain(results), color=colour, marker=marker, label=curve)
    add_plain(axes)
    log2_ticks(axes, CONCURRENCIES)
    finish(axes, "", "requests at a time", "tokens/s to ar at the same concurrency")
    axes.legend(fontsize=8)


EXPERIMENT = Experiment(
    name="backups",
    title="What to do on a miss, by load, T = 0",
    settings=(
        *(plain(concurrency=concurrency) for concurrency in CONCURRENCIES),
        *(_setting(f"ssd, {backup}", "ssd", backup, concurrency) for backup in BACKUPS for concurrency in CONCURRENCIES),
        *(_setting("ssd-tree, by-gain", "ssd-tree", "by-gain", concurrency) for concurrency in CONCURRENCIES),
    ),
    draw=draw,
    size=(7.5, 4.2),
)

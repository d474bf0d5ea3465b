"""A comparison as a picture: the load, the sizes, the latency and the cost over time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autoscale.simulate import Comparison
from ssd_core.pictures import draw_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"policies": "#d9480f", "clairvoyant": "#4285f4", "patient": "#34a853", "static": "#9aa0a6"}


def write_chart(comparison: Comparison, title: str, path: Path) -> None:
    """A PNG. Needs no display."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(draw_png(lambda figure: _draw(figure, comparison, title), (11, 9), dpi=110))


def _draw(figure: Figure, comparison: Comparison, title: str) -> None:
    load = comparison.load
    hours = np.arange(len(load.arrivals)) * load.period_s / 3600
    panels = figure.subplots(5, 1, sharex=True)
    panels[0].plot(hours, load.arrivals / load.period_s, color="#555555", linewidth=0.8)
    for run in comparison.runs:
        for axes, series in zip(
            panels[1:], (run.targets, run.drafts, run.queue_delays_s, np.cumsum(run.devices) * load.period_s / 3600), strict=True
        ):
            axes.plot(hours, series, color=COLOURS[run.name], linewidth=1.0, label=run.name)
    names = ("requests/s", "targets", "drafts", "queue delay, s", "device-hours so far")
    for axes, name in zip(panels, names, strict=True):
        axes.set_ylabel(name, fontsize=9)
        axes.set_ylim(bottom=0)
        axes.grid(True, linewidth=0.4, color="#dadce0")
    panels[-1].set_xlabel("hours")
    panels[1].legend(fontsize=8, frameon=False, ncols=4)
    figure.suptitle(title, fontsize=9)

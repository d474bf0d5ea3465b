"""What all pictures share: colours, curves with error bars, title and footnote, a small PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.experiments.experiment import Experiment
from cluster.experiments.rates import Metric, speedup
from cluster.experiments.results import Point, Results
from ssd_core.pictures import draw_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "ar": "#80868b", "sd": "#1a73e8", "ssd": "#e8890c", "saguaro": "#8e24aa", "ssd-tree": "#c5221f",
}  # fmt: skip
OTHERS = ("#1a73e8", "#e8890c", "#188038", "#8e24aa", "#c5221f", "#00838f")
"""For curves that are no presets."""
MARKERS = ("o", "s", "^", "D", "v", "P")
DPI = 100
NUM_COLOURS = 128
"""Of the PNG: lines and letters need no more, and it keeps the files small."""


def write_plot(experiment: Experiment, results: Results, folder: Path) -> Path:
    """Needs no display. The same results give the same bytes."""
    from PIL import Image

    def draw(figure: Figure) -> None:
        figure.suptitle(f"{experiment.title}\n{_conditions(results)}", fontsize=9)
        experiment.draw(figure, results)

    picture = Image.open(io.BytesIO(draw_png(draw, experiment.size, DPI))).convert("RGB")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{experiment.name}.png"
    picture.quantize(NUM_COLOURS).save(path, optimize=True)
    return path


def draw_curve(axes: Axes, points: Sequence[Point], metric: Metric, **style: Any) -> None:
    """With a bar of one standard error either way. `style`: of Axes.errorbar."""
    rates = [metric(point) for point in points]
    known: dict[str, Any] = {"linewidth": 1.5, "markersize": 4, "elinewidth": 0.8, "capsize": 2, "marker": "o"}
    xs = [point.setting.x for point in points]
    axes.errorbar(xs, [rate.value for rate in rates], yerr=[rate.error for rate in rates], **(known | style))


def to_plain(results: Results) -> Metric:
    """Tokens/s against plain decoding."""
    return lambda point: speedup(point, results.baseline(point))


def finish(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(True, linewidth=0.4, color="#dadce0")
    axes.set_axisbelow(True)


def add_plain(axes: Axes) -> None:
    """The line at 1: as fast as plain decoding."""
    axes.axhline(1, color=COLOURS["ar"], linestyle="--", linewidth=1, label="ar")


def log2_ticks(axes: Axes, values: Sequence[float]) -> None:
    """Values that double, at equal distances."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()


def legend_below(figure: Figure, axes: Axes, columns: int) -> None:
    """One for all panels, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)


def _conditions(results: Results) -> str:
    sizes = f"{results.num_prompts} prompts, {results.max_tokens} tokens each"
    return f"embedded pair in virtual time, {sizes}; bars: one standard error over prompts"

"""The report as a picture: speed by preset and, where there was any speculation, acceptance by position and the gap on a hit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.bench.report import Report
from ssd_core.pictures import draw_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {
    "ar": "#9aa0a6",
    "sd": "#7baaf7",
    "tree": "#4285f4",
    "ssd": "#f6ae4e",
    "saguaro": "#e8821e",
    "ssd-tree": "#d9480f",
    "hf-plain": "#c9c2a5",
    "hf-assisted": "#8a7d3c",
}
OTHER = "#555555"


def write_chart(report: Report, path: Path) -> None:
    """A PNG beside the JSON. Needs no display."""
    panels = [_draw_speed]
    if any(row.accepted_per_position for row in report.rows):
        panels.append(_draw_acceptance)
    if any(report.gap_on_hit.counts):
        panels.append(_draw_gap)
    width = 5.6 + 3.7 * (len(panels) - 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(draw_png(lambda figure: _draw(figure, report, panels), (width, 4.2), dpi=130))


def _draw(figure: Figure, report: Report, panels: Sequence[Callable[[Any, Report], None]]) -> None:
    (all_axes,) = figure.subplots(1, len(panels), squeeze=False, width_ratios=(1.5, 1, 1)[: len(panels)])
    for axes, draw in zip(all_axes, panels, strict=True):
        draw(axes, report)
    workload = report.workload
    sizes = f"{len(workload.prompts)} prompts x {workload.max_tokens} tokens, concurrency {workload.concurrency}"
    figure.suptitle(f"{report.model}: {sizes}\n{report.machine}", fontsize=9)


def _draw_speed(axes, report: Report) -> None:  # type: ignore[no-untyped-def]
    temperatures, contestants = report.workload.temperatures, report.workload.contestants
    width = 0.8 / len(contestants)
    for i, contestant in enumerate(contestants):
        own = [row for row in report.rows if row.preset == contestant]
        places = [temperatures.index(row.temperature) + (i - (len(contestants) - 1) / 2) * width for row in own]
        bars = axes.bar(places, [row.tokens_per_s for row in own], width * 0.92, color=COLOURS.get(contestant, OTHER), label=contestant)
        labels = ["" if row.ratio_to_ar is None else f"{row.ratio_to_ar:.2f}x" for row in own]
        axes.bar_label(bars, labels=labels, fontsize=7, padding=1)
    axes.set_xticks(range(len(temperatures)), [f"temperature {temperature:g}" for temperature in temperatures])
    axes.set_ylabel("tokens/s (label: ratio to ar)")
    axes.margins(y=0.12)
    axes.legend(fontsize=7, ncols=len(contestants), loc="upper center", bbox_to_anchor=(0.5, -0.08), frameon=False)


def _draw_acceptance(axes, report: Report) -> None:  # type: ignore[no-untyped-def]
    styles = ("-", "--", ":", "-.")
    for row in report.rows:
        if row.accepted_per_position:
            places = range(1, len(row.accepted_per_position) + 1)
            style = styles[report.workload.temperatures.index(row.temperature) % len(styles)]
            axes.plot(places, row.accepted_per_position, style, color=COLOURS.get(row.preset, OTHER), linewidth=1.4)
    axes.set_xlabel("position in the speculation")
    axes.set_ylabel("share of rounds that accept it")
    axes.set_ylim(0, 1.02)
    axes.xaxis.get_major_locator().set_params(integer=True)
    shown = [f"{style} T={temperature:g}" for style, temperature in zip(styles, report.workload.temperatures, strict=False)]
    axes.set_title("   ".join(shown), fontsize=8)


def _draw_gap(axes, report: Report) -> None:  # type: ignore[no-untyped-def]
    gaps = report.gap_on_hit
    labels = [f"{1000 * bound:g}" if bound != float("inf") else "more" for bound in gaps.bounds_s]
    axes.bar(range(len(labels)), gaps.counts, color=COLOURS["ssd-tree"])
    axes.set_xticks(range(len(labels)), labels, rotation=60, fontsize=7)
    axes.set_title("verification's end to next launch, on a hit", fontsize=8)
    axes.set_xlabel("at most ... ms")
    axes.set_ylabel("rounds")

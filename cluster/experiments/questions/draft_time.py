"""How slow a draft may be: its steps scaled, everything else as measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.experiments.draw import COLOURS, MARKERS, add_plain, draw_curve, finish, log2_ticks, to_plain
from cluster.experiments.experiment import Experiment
from cluster.experiments.results import Results
from cluster.experiments.setting import Setting, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
PRESETS = ("sd", "ssd", "saguaro", "ssd-tree")


def draw(figure: Figure, results: Results) -> None:
    axes = figure.subplots()
    for preset, marker in zip(PRESETS, MARKERS, strict=False):
        draw_curve(axes, results.curve(preset), to_plain(results), color=COLOURS[preset], marker=marker, label=preset)
    add_plain(axes)
    log2_ticks(axes, SCALES)
    steps_ms = {scale: 1000 * results.costs.draft.pass_cost(scale).step_s(1, 1) for scale in SCALES}
    axes.set_xticks(SCALES, [f"{scale:g}\n{steps_ms[scale]:.2g} ms" for scale in SCALES])
    finish(axes, "", "the draft's step time, times what was measured; and of a step of one node", "tokens/s to ar")
    axes.legend(fontsize=8)


EXPERIMENT = Experiment(
    name="draft-time",
    title="Speed against the draft's step time, T = 0, one request at a time",
    settings=(
        plain(),
        *(Setting(curve=preset, x=scale, draft_scale=scale, speculation={"preset": preset}) for preset in PRESETS for scale in SCALES),
    ),
    draw=draw,
    size=(7.5, 4.2),
)

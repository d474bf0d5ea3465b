"""What C of Saguaro sampling trades: under rejection the draft draws its likeliest tokens more rarely, so that what replaces a rejected one
is likelier to be among the guesses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.experiments.draw import OTHERS, draw_curve, finish, legend_below, to_plain
from cluster.experiments.experiment import Experiment
from cluster.experiments.rates import acceptance, hit_rate, tokens_per_round
from cluster.experiments.results import Results
from cluster.experiments.setting import Setting, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
TEMPERATURES = (0.7, 1.0)
BACKUPS = {"none": "no backup", "by-batch": "backup by-batch, as published"}
"""Without one a miss costs most: that is where hits are worth most."""


def _setting(backup: str, temperature: float, fraction: float) -> Setting:
    speculation = {"preset": "saguaro", "verification": "rejection", "saguaro_c": fraction, "backup": backup}
    return Setting(curve=backup, x=fraction, temperature=temperature, speculation=speculation)


def draw(figure: Figure, results: Results) -> None:
    panels = figure.subplots(1, 4)
    metrics = {
        "first token accepted": acceptance,
        "hits": hit_rate,
        "tokens in a round": tokens_per_round,
        "tokens/s to ar": to_plain(results),
    }
    for axes, (name, metric) in zip(panels, metrics.items(), strict=True):
        for temperature, colour in zip(TEMPERATURES, OTHERS, strict=False):
            for (backup, words), line in zip(BACKUPS.items(), ("-", "--"), strict=True):
                label = f"T = {temperature:g}, {words}"
                draw_curve(axes, results.curve(backup, temperature), metric, color=colour, linestyle=line, label=label)
        finish(axes, name, "C (1: draws as it thinks)", "")
    legend_below(figure, panels[0], 2)


EXPERIMENT = Experiment(
    name="saguaro-c",
    title="Saguaro sampling under rejection, by C",
    settings=(
        *map(plain, TEMPERATURES),
        *(_setting(backup, temperature, fraction) for backup in BACKUPS for temperature in TEMPERATURES for fraction in FRACTIONS),
    ),
    draw=draw,
    prompts_factor=4,
    size=(11.0, 3.6),
)

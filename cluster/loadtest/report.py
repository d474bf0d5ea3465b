"""A load test as text, as JSON, and as one page of HTML with its pictures in it."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from cluster.bench.table import aligned
from cluster.loadtest.ramp import Step
from cluster.loadtest.requests import Outcome
from cluster.loadtest.summary import QUANTILES, Objectives, Summary
from ssd_core.pictures import draw_png, log_scale_in_numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADER = (
    "offered/s", "answered/s", "good/s", "good", "tokens/s", "first token p50 ms", "p90", "p99", "token p50 ms", "p90", "p99",
    "request p50 s", "p90", "p99", "sent late p99 ms", "failed",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Report:
    title: str
    command: str
    machine: str
    objectives: Objectives
    steps: Sequence[Step]
    """At least one."""

    @property
    def limits(self) -> str:
        first_token_s, token_ms = self.objectives.first_token_s, 1e3 * self.objectives.token_s
        return f"good: answered, first token within {first_token_s:g} s, a token within {token_ms:g} ms"

    def text(self) -> str:
        failures = [f"{count} x {message}" for step, _ in self.steps for message, count in step.failures]
        return "\n".join([aligned([HEADER, *(_cells(step) for step, _ in self.steps)]), self.limits, *failures])

    def json(self) -> str:
        steps = [{**asdict(step), "outcomes": [asdict(outcome) for outcome in outcomes]} for step, outcomes in self.steps]
        facts = {"command": self.command, "machine": self.machine, "objectives": asdict(self.objectives), "quantiles": QUANTILES}
        return json.dumps({**facts, "steps": steps}, indent=1) + "\n"

    def page(self) -> str:
        rows = [HEADER, *(_cells(step) for step, _ in self.steps)]
        table = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        images = _image(partial(_over_time, outcomes=self.steps[-1][1]), OVER_TIME)
        if len(self.steps) > 1:
            images = _image(partial(_over_load, steps=self.steps), OVER_LOAD) + images
        return PAGE.format(
            title=html.escape(self.title),
            command=html.escape(self.command),
            machine=html.escape(self.machine),
            table=table,
            images=images,
            limits=html.escape(self.limits),
        )


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
body {{ font: 14px sans-serif; margin: 2em; }} td {{ padding: 2px 10px; text-align: right; border-bottom: 1px solid #ddd; }}
tr:first-child td {{ font-weight: bold; }} code {{ background: #f3f3f3; padding: 2px 4px; }} img {{ max-width: 100%; }}
.wide {{ overflow-x: auto; }}
</style></head><body>
<h1>{title}</h1><p><code>{command}</code></p><p>{machine}</p>
<div class="wide"><table>{table}</table></div><p>{limits}</p>
{images}
</body></html>
"""


def _cells(step: Summary) -> tuple[str, ...]:
    def times(values: Sequence[float], scale: float, form: str) -> list[str]:
        return [format(scale * value, form) for value in values] or ["-"] * len(QUANTILES)

    return (
        f"{step.offered:.2f}",
        f"{step.throughput:.2f}",
        f"{step.goodput:.2f}",
        f"{step.attainment:.0%}",
        f"{step.tokens_per_s:.0f}",
        *times(step.first_token_s, 1e3, ".0f"),
        *times(step.token_s, 1e3, ".1f"),
        *times(step.wall_s, 1, ".2f"),
        f"{1e3 * step.late_s[-1]:.1f}",
        str(step.num_requests - step.num_ok),
    )


OVER_LOAD = "By offered requests a second: those answered and those good; quantiles of the seconds to the first token."
OVER_TIME = "By the time each request of the last load was sent: its seconds to the first token; its seconds to the end."


def _over_load(figure: Figure, steps: Sequence[Step]) -> None:
    rates, times = figure.subplots(1, 2)
    offered = [step.offered for step, _ in steps]
    for name, values in (("answered", [step.throughput for step, _ in steps]), ("good", [step.goodput for step, _ in steps])):
        rates.plot(offered, values, marker="o", label=name)
    rates.plot(offered, offered, linestyle=":", color="#999999", label="offered")
    answered = [step for step, _ in steps if step.num_ok]
    for i, q in enumerate(QUANTILES):
        times.plot([step.offered for step in answered], [step.first_token_s[i] for step in answered], marker="o", label=f"p{100 * q:g}")
    log_scale_in_numbers(times)
    for axes, label in ((rates, "requests a second"), (times, "seconds to the first token")):
        axes.set_xlabel("offered requests a second")
        axes.set_ylabel(label)
        axes.legend(frameon=False)


def _over_time(figure: Figure, outcomes: Sequence[Outcome]) -> None:
    firsts, walls = figure.subplots(1, 2)
    ok, failed = [o for o in outcomes if o.is_ok], [o for o in outcomes if not o.is_ok]
    firsts.plot([o.sent_at_s for o in ok], [o.first_token_s for o in ok], ".")
    walls.plot([o.sent_at_s for o in ok], [o.wall_s for o in ok], ".", label="answered")
    walls.plot([o.sent_at_s for o in failed], [o.wall_s for o in failed], "x", color="#c5221f", label="failed")
    for axes, label in ((firsts, "seconds to the first token"), (walls, "seconds of a request")):
        axes.set_xlabel("sent, seconds from the start (last load)")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
    walls.legend(frameon=False)


def _image(draw: Callable[[Figure], None], description: str) -> str:
    """`description`: for who does not see the picture."""
    content = base64.b64encode(draw_png(draw, (11, 4), dpi=100)).decode()
    return f'<p><img alt="{html.escape(description)}" src="data:image/png;base64,{content}"></p>'

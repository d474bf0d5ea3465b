"""A second of several loops' work beside each other: shares, gaps, and a picture in text or for a trace viewer. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from cluster.bench.table import aligned
from ssd_core.timeline import Activity, Span

SIGNS = {Activity.HOST: "h", Activity.LAUNCH: "l", Activity.DEVICE: "#", Activity.WAIT: "."}
TICK_S = 0.001
"""A sign of the picture: what took most of it."""
LINE_TICKS = 100


@dataclass(frozen=True, slots=True)
class Window:
    """All loops' spans from `began` to `ended`, cut to it."""

    began: float
    ended: float
    spans: Mapping[str, tuple[Span, ...]]
    """By loop."""

    def shares(self, loop: str) -> dict[Activity, float]:
        total = self.ended - self.began
        return {
            activity: sum(span.ended - span.began for span in self.spans[loop] if span.activity is activity) / total
            for activity in Activity
        }

    def gaps_s(self, loop: str) -> list[float]:
        """Between the end of one pass and the beginning of the next on the device, however the time was spent."""
        return [after.began - before.ended for before, after in pairwise(self._passes(loop))]

    def text(self) -> str:
        rows: list[tuple[str, ...]] = [("loop", "passes", *Activity, "median gap ms", "longest")]
        for loop in self.spans:
            gaps = self.gaps_s(loop) or [0.0]
            shares = (f"{share:.0%}" for share in self.shares(loop).values())
            rows.append((loop, str(len(self._passes(loop))), *shares, f"{1e3 * median(gaps):.2f}", f"{1e3 * max(gaps):.2f}"))
        legend = ", ".join(f"{sign} {activity}" for activity, sign in SIGNS.items())
        pictures = [f"{loop}\n" + "\n".join(self._lines(loop)) for loop in self.spans]
        return "\n".join([aligned(rows), f"a sign a millisecond: {legend}", *pictures])

    def _passes(self, loop: str) -> list[Span]:
        return [span for span in self.spans[loop] if span.activity is Activity.DEVICE]

    def _lines(self, loop: str) -> Iterator[str]:
        num_ticks = round((self.ended - self.began) / TICK_S)
        signs = "".join(self._sign(loop, self.began + tick * TICK_S) for tick in range(num_ticks))
        for start in range(0, num_ticks, LINE_TICKS):
            yield signs[start : start + LINE_TICKS]

    def _sign(self, loop: str, at: float) -> str:
        inside = _cut(self.spans[loop], at, at + TICK_S)
        seconds = {activity: sum(span.ended - span.began for span in inside if span.activity is activity) for activity in Activity}
        return SIGNS[max(seconds, key=lambda activity: seconds[activity])] if inside else " "

    def trace(self) -> list[dict[str, Any]]:
        """Events of Chrome's trace format, microseconds from the window's beginning."""
        return [
            {"name": span.activity, "ph": "X", "pid": loop, "tid": loop, "ts": 1e6 * (span.began - self.began),
             "dur": 1e6 * (span.ended - span.began)}
            for loop, spans in self.spans.items()
            for span in spans
        ]  # fmt: skip


def last_second(spans: Mapping[str, Sequence[Span]], seconds: float = 1.0) -> Window:
    """Up to the end of the last pass of any loop."""
    ended = max(span.ended for loop in spans.values() for span in loop if span.activity is Activity.DEVICE)
    return Window(ended - seconds, ended, {name: _cut(loop, ended - seconds, ended) for name, loop in spans.items()})


def _cut(spans: Sequence[Span], began: float, ended: float) -> tuple[Span, ...]:
    cut = (Span(span.activity, max(span.began, began), min(span.ended, ended)) for span in spans)
    return tuple(span for span in cut if span.began < span.ended)

"""What a metric is, and what a process says of itself by a table of them (metric_tables.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

from deployments.messages import Sample

if TYPE_CHECKING:
    from ssd_core.loop_stats import HistogramSnapshot

Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    kind: Kind
    unit: str
    meaning: str
    read: Callable[[Any], Any]
    """From what the table is about: a number; for a histogram its snapshot; with labels of its own, pairs of their values and a number."""
    labels: tuple[str, ...] = ()
    """Besides the process's own."""

    def samples(self, source: Any, own: Labels) -> Iterable[Sample]:
        value = self.read(source)
        if self.kind == "histogram":
            return _histogram(self.name, value, own)
        if not self.labels:
            return (Sample(self.name, value, own),)
        return (Sample(self.name, number, (*own, *zip(self.labels, values, strict=True))) for values, number in value)


def counter(name: str, attribute: str, unit: str, meaning: str) -> Metric:
    return Metric(name, "counter", unit, meaning, attrgetter(attribute))


def gauge(name: str, attribute: str, unit: str, meaning: str) -> Metric:
    return Metric(name, "gauge", unit, meaning, attrgetter(attribute))


def histogram(name: str, attribute: str, meaning: str) -> Metric:
    """Of seconds."""
    return Metric(name, "histogram", "seconds", meaning, attrgetter(attribute))


def samples(table: Sequence[Metric], source: Any, own: Labels = ()) -> tuple[Sample, ...]:
    return tuple(sample for metric in table for sample in metric.samples(source, own))


def _histogram(name: str, told: HistogramSnapshot, own: Labels) -> Iterable[Sample]:
    heights = list(accumulate(told.counts))
    bounds = [*(f"{bound:g}" for bound in told.bounds_s), "+Inf"]
    yield from (Sample(f"{name}_bucket", height, (*own, ("le", bound))) for bound, height in zip(bounds, heights, strict=True))
    yield Sample(f"{name}_sum", told.total_s, own)
    yield Sample(f"{name}_count", heights[-1], own)

"""Prometheus text of samples. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from deployments.messages import Sample
from deployments.metric_tables import metric_of
from deployments.metrics import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def prometheus_text(samples: Iterable[Sample]) -> str:
    """Samples grouped by metric, each with its meaning and kind once."""
    by_metric: dict[str, tuple[Metric, list[str]]] = {}
    for sample in samples:
        metric = metric_of(sample)
        _, lines = by_metric.setdefault(metric.name, (metric, []))
        labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in sample.labels)
        lines.append(f"{sample.name}{{{labels}}} {_number(sample.value)}" if labels else f"{sample.name} {_number(sample.value)}")
    return "".join(
        f"# HELP {metric.name} {metric.meaning} ({metric.unit})\n# TYPE {metric.name} {metric.kind}\n" + "\n".join(lines) + "\n"
        for metric, lines in by_metric.values()
    )


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    """Whole counters stay whole however large."""
    return str(int(value)) if value == int(value) else repr(float(value))

"""A process's samples through Ray's metrics, which every node gathers and offers to Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from ray.util.metrics import Counter, Gauge

from deployments.messages import Sample
from deployments.metric_tables import metric_of

PERIOD_S = 5.0
"""Between two publications; a node hands on what it has every ten seconds."""


async def publish_forever(read: Callable[[], Iterable[Sample]]) -> None:
    """What `read` says, from now on until cancelled."""
    metrics = RayMetrics()
    while True:
        metrics.publish(read())
        await asyncio.sleep(PERIOD_S)


class RayMetrics:
    """Counters are counted on; all else is set, a histogram's parts, too, which come added up."""

    def __init__(self) -> None:
        self._metrics: dict[str, Counter | Gauge] = {}
        self._counted: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def publish(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            metric, tags = self._metric(sample), dict(sample.labels)
            if isinstance(metric, Gauge):
                metric.set(sample.value, tags)
                continue
            key = (sample.name, sample.labels)
            more = sample.value - self._counted.get(key, 0.0)
            self._counted[key] = sample.value
            if more > 0:
                metric.inc(more, tags)

    def _metric(self, sample: Sample) -> Counter | Gauge:
        if sample.name not in self._metrics:
            told = metric_of(sample)
            make = Counter if told.kind == "counter" else Gauge
            name, tag_keys = sample.name.replace(":", "_"), tuple(name for name, _ in sample.labels)
            self._metrics[sample.name] = make(name, description=f"{told.meaning} ({told.unit})", tag_keys=tag_keys)
        return self._metrics[sample.name]

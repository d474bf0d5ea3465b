"""The service's own counters, read from the text of its /metrics. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True, slots=True)
class Buckets:
    """A histogram: `counts[i]` observations at most `bounds_s[i]` seconds and above the bound before it."""

    bounds_s: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()

    @property
    def num_observations(self) -> float:
        return sum(self.counts)

    def share_within(self, seconds: float) -> float | None:
        """Share of observations in buckets that end at or below `seconds`; None without any."""
        if not self.num_observations:
            return None
        inside = sum(n for bound, n in zip(self.bounds_s, self.counts, strict=True) if bound <= seconds * (1 + 1e-9))
        return inside / self.num_observations

    def __add__(self, other: Buckets) -> Buckets:
        if not self.bounds_s or not other.bounds_s:
            return self if self.bounds_s else other
        assert self.bounds_s == other.bounds_s, (self.bounds_s, other.bounds_s)
        return Buckets(self.bounds_s, tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)))


@dataclass(frozen=True, slots=True)
class Counters:
    """Samples by name, over all replicas; histogram buckets by name and upper bound, cumulative as they come."""

    totals: Mapping[str, float]
    """Sums."""
    largest: Mapping[str, float]
    """For gauges that say the same everywhere."""
    cumulative: Mapping[str, Mapping[float, float]]
    gauges: Mapping[str, float] = field(default_factory=dict)
    """Sums of gauges, over all that say them."""
    by_nodes: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """Gauges by number of nodes, the largest of all replicas."""

    def since(self, earlier: Counters) -> Counters:
        """What was counted in between; gauges as they are now."""
        totals = {name: value - earlier.totals.get(name, 0.0) for name, value in self.totals.items()}
        cumulative = {
            name: {bound: n - earlier.cumulative.get(name, {}).get(bound, 0.0) for bound, n in bounds.items()}
            for name, bounds in self.cumulative.items()
        }
        return Counters(totals, self.largest, cumulative, self.gauges, self.by_nodes)

    def total(self, name: str) -> float:
        return self.totals.get(name, 0.0)

    def buckets(self, name: str) -> Buckets:
        bounds = sorted(self.cumulative.get(name, {}))
        heights = [self.cumulative[name][bound] for bound in bounds]
        counts = [height - below for height, below in zip(heights, [0.0, *heights], strict=False)]
        return Buckets(tuple(bounds), tuple(counts))


NOTHING = Counters({}, {}, {})


def parse_metrics(text: str) -> Counters:
    """Prometheus text as Counters."""
    totals: dict[str, float] = defaultdict(float)
    largest: dict[str, float] = {}
    cumulative: dict[str, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    gauges: dict[str, float] = defaultdict(float)
    by_nodes: dict[str, dict[int, float]] = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if "le" in sample.labels:
                cumulative[sample.name.removesuffix("_bucket")][float(sample.labels["le"])] += sample.value
            elif "nodes" in sample.labels:
                own, nodes = by_nodes[sample.name], int(sample.labels["nodes"])
                own[nodes] = max(sample.value, own.get(nodes, sample.value))
            else:
                totals[sample.name] += sample.value
                largest[sample.name] = max(sample.value, largest.get(sample.name, sample.value))
                if family.type == "gauge":
                    gauges[sample.name] += sample.value
    return Counters(dict(totals), largest, {name: dict(bounds) for name, bounds in cumulative.items()}, dict(gauges), dict(by_nodes))

"""How long the parts of a round's messaging take, read from the text of /metrics. Pure; for benchmarks and the README's numbers."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

_BUCKET = re.compile(r'^(\w+)_bucket\{.*le="([^"]+)"\} (\d+)$', re.MULTILINE)
_SUM = re.compile(r"^(\w+)_sum\{[^}]*\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Times:
    """Of one histogram, all replicas together. Seconds."""

    count: int
    mean_s: float
    median_s: float
    """Upper bounds of the buckets in which the median and the 95th percentile lie."""
    p95_s: float


@dataclass(frozen=True, slots=True)
class LinkTimes:
    look_up_hit: Times
    """The store's answer to an outcome, on a hit: the tree moved, what was grown meanwhile taken in, the continuation found."""
    gap_on_hit: Times
    """End of a verification to the start of the next, one session, on a hit."""
    outcome_arrival: Times
    """Outcome handed over by the target's loop to its arrival in the draft's process."""
    growth_arrival: Times
    """End of the draft's growth step to the report's arrival in the target's process."""


def link_times(metrics_text: str) -> LinkTimes:
    buckets: defaultdict[str, defaultdict[float, int]] = defaultdict(lambda: defaultdict(int))
    for name, bound, count in _BUCKET.findall(metrics_text):
        buckets[name][float(bound)] += int(count)
    sums: defaultdict[str, float] = defaultdict(float)
    for name, total in _SUM.findall(metrics_text):
        sums[name] += float(total)

    def times(name: str) -> Times:
        cumulative = sorted(buckets[name].items())
        count = cumulative[-1][1] if cumulative else 0
        if not count:
            return Times(0, 0.0, 0.0, 0.0)
        median_s, p95_s = (next(bound for bound, below in cumulative if below >= share * count) for share in (0.5, 0.95))
        return Times(count, sums[name] / count, median_s, p95_s)

    return LinkTimes(
        look_up_hit=times("ssd_lookup_hit_seconds"),
        gap_on_hit=times("ssd_verify_gap_on_hit_seconds"),
        outcome_arrival=times("ssd_outcome_arrival_seconds"),
        growth_arrival=times("ssd_growth_arrival_seconds"),
    )

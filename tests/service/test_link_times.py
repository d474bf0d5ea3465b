"""deployments/link_times.py and the text it reads."""

from __future__ import annotations

from types import SimpleNamespace

from deployments.link_times import link_times
from deployments.metric_text import prometheus_text
from deployments.metrics import histogram, samples
from ssd_core.loop_stats import Histogram


def test_times_are_read_from_what_the_service_writes() -> None:
    lookup = Histogram()
    for seconds in (2e-5, 2e-5, 9e-4):
        lookup.add(seconds)
    table = (histogram("ssd_lookup_hit_seconds", "lookup", ""),)
    told = SimpleNamespace(lookup=lookup.snapshot())
    text = prometheus_text([sample for replica in "ab" for sample in samples(table, told, (("replica", replica),))])
    times = link_times(text).look_up_hit
    assert times.count == 6 and times.median_s == 5e-5 and times.p95_s == 1e-3
    assert abs(times.mean_s - (2e-5 + 2e-5 + 9e-4) / 3) < 1e-9


def test_what_was_not_measured_is_zero() -> None:
    assert link_times("").growth_arrival.count == 0

"""deployments/link_times.py and the text it reads."""

from __future__ import annotations

from deployments.link_times import link_times
from deployments.messages import Sample
from deployments.metrics import histogram_samples, prometheus_text
from ssd_core.loop_stats import Histogram


def test_times_are_read_from_what_the_service_writes() -> None:
    histogram = Histogram()
    for seconds in (2e-5, 2e-5, 9e-4):
        histogram.add(seconds)
    samples = [s for r in ("a", "b") for s in histogram_samples("ssd_lookup_hit_seconds", histogram, (("replica", r),))]
    times = link_times(prometheus_text(samples)).look_up_hit
    assert times.count == 6 and times.median_s == 5e-5 and times.p95_s == 1e-3
    assert abs(times.mean_s - (2e-5 + 2e-5 + 9e-4) / 3) < 1e-9


def test_what_was_not_measured_is_zero() -> None:
    assert link_times("").growth_arrival.count == 0


def test_text_has_one_type_line_a_metric_and_escaped_labels() -> None:
    text = prometheus_text([Sample("a_total", 3, (("x", 'q"\\\n'),), "counter"), Sample("a_total", 2**53, (), "counter"), Sample("b", 0.5)])
    assert text == '# TYPE a_total counter\na_total{x="q\\"\\\\\\n"} 3\na_total 9007199254740992\n# TYPE b gauge\nb 0.5\n'

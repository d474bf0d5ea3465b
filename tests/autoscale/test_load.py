"""autoscale/load.py"""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoscale.cost_model import H100_GROWTH_STEP
from autoscale.load import LoadSample, PoolReport, TargetReport, gather

REPORT = TargetReport("a", 100.0, 8, 2, 500, 40, 0.25, 300, 100, 1200, 350)


def gathered(*reports: TargetReport, targets: int = 3) -> LoadSample:
    pool = PoolReport(4, 1, 8000, 64000, H100_GROWTH_STEP)
    return gather(reports, pool, now=110.0, period_s=10.0, max_age_s=25.0, num_targets=targets, num_starting=1)


def test_reports_are_summed_and_the_used_share_is_their_mean() -> None:
    sample = gathered(REPORT, replace(REPORT, source="b", time_s=95.0, running=4, used_share=0.75))
    assert (sample.running, sample.queued, sample.tokens, sample.refused_tokens, sample.used_share) == (12, 4, 2400, 80, 0.5)
    assert (sample.time_s, sample.sources, sample.reported_share) == (95.0, ("b", "a"), pytest.approx(2 / 3))


def test_the_latest_of_a_source_counts_once() -> None:
    assert gathered(replace(REPORT, time_s=109.0, running=1), REPORT).running == 1


def test_old_reports_are_missing_reports() -> None:
    sample = gathered(REPORT, replace(REPORT, source="b", time_s=84.0))
    assert sample.sources == ("a",) and sample.reported_share == pytest.approx(1 / 3)
    assert gathered().reported_share == 0


def test_idle_is_nobody_running_or_waiting() -> None:
    assert gathered(replace(REPORT, running=0, queued=0)).is_idle
    assert not gathered(replace(REPORT, running=0)).is_idle

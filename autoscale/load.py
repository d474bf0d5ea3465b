"""What the policies see: the load of one period, gathered from those who reported it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ssd_core.types import StepTimes


@dataclass(frozen=True, slots=True)
class TargetReport:
    """Of one target replica. Totals are those of the period that ended at `time_s`."""

    source: str
    """The replica's name."""
    time_s: float
    running: float
    """Sessions, mean of the period; a simulator's need not be whole. So are the next two."""
    queued: float
    outstanding_tokens: float
    """Still to be emitted, by running and queued sessions."""
    refused_tokens: float
    """Of requests that came and found the queue full. Who tries again is counted again."""
    used_share: float
    """Of its KV cells in use, or of the sessions it may let in: whichever is more."""
    windows: float
    """Verify windows whose outcome was looked up."""
    starved_windows: float
    """Of these, ended with too little growth: the target accepted everything that had been grown, and would have gone on."""
    tokens: float
    """Emitted."""
    plain_tokens: float
    """What the same sessions would have emitted without speculation, by the cost of a pass."""


@dataclass(frozen=True, slots=True)
class PoolReport:
    """Of the draft pool, for the same period."""

    num_drafts: int
    """Serving, ..."""
    num_starting: int
    """... and on their way."""
    draft_steps: float
    """Growth steps of all drafts together."""
    draft_nodes: float
    """Evaluated in them."""
    growth_step: StepTimes
    """How long a draft takes for a step of n nodes: sessions spread over more drafts make steps shorter."""


NO_DRAFTS = PoolReport(0, 0, 0.0, 0.0, StepTimes((1,), (1.0,)))


@dataclass(frozen=True, slots=True)
class LoadSample:
    """One period of the whole service. Totals and sessions are sums over `sources` only; `used_share` is their mean."""

    time_s: float
    """Of its oldest report: a sample is as old as that."""
    period_s: float
    sources: tuple[str, ...]
    """The targets that are in it, ..."""
    num_targets: int
    """... of so many that serve."""
    num_starting_targets: int
    pool: PoolReport
    running: float
    queued: float
    outstanding_tokens: float
    refused_tokens: float
    used_share: float
    windows: float
    starved_windows: float
    tokens: float
    plain_tokens: float

    @property
    def reported_share(self) -> float:
        """Of the targets. Without any there is nothing to miss."""
        return len(self.sources) / self.num_targets if self.num_targets else 1.0

    @property
    def is_idle(self) -> bool:
        return not self.running and not self.queued


def gather(
    reports: Iterable[TargetReport], pool: PoolReport, *, now: float, period_s: float, max_age_s: float, num_targets: int, num_starting: int
) -> LoadSample:
    """Sums the reports that are young enough, the latest of each source."""
    latest: dict[str, TargetReport] = {}
    for report in sorted(reports, key=lambda report: report.time_s):
        if now - report.time_s <= max_age_s:
            latest[report.source] = report
    heard = tuple(latest.values())
    return LoadSample(
        time_s=min((report.time_s for report in heard), default=now),
        period_s=period_s,
        sources=tuple(latest),
        num_targets=num_targets,
        num_starting_targets=num_starting,
        pool=pool,
        running=sum(report.running for report in heard),
        queued=sum(report.queued for report in heard),
        outstanding_tokens=sum(report.outstanding_tokens for report in heard),
        refused_tokens=sum(report.refused_tokens for report in heard),
        used_share=sum(report.used_share for report in heard) / max(len(heard), 1),
        windows=sum(report.windows for report in heard),
        starved_windows=sum(report.starved_windows for report in heard),
        tokens=sum(report.tokens for report in heard),
        plain_tokens=sum(report.plain_tokens for report in heard),
    )

"""How many target replicas Serve should run: a class for Serve's `AutoscalingPolicy`, around the pure policy.

Serve calls it ten times a second with what the replicas' `record_autoscaling_stats` gave, as series; the last period of each counts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from autoscale.config import TargetPolicyConfig
from autoscale.guard import GuardState
from autoscale.load import NO_DRAFTS, LoadSample, TargetReport, gather
from autoscale.target_policy import TargetState, decide_targets
from ssd_core.loop_stats import LoopStats

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext


def autoscaling_stats(stats: LoopStats) -> dict[str, float]:
    """What a replica tells Serve."""
    return {
        "running": float(stats.running),
        "queued": float(stats.queued),
        "outstanding_tokens": float(stats.outstanding_tokens),
        "refused_tokens": float(stats.refused_tokens),
        "used_share": stats.used_share,
        "tokens": float(stats.tokens),
    }


class TargetScaler:
    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = TargetPolicyConfig.model_validate(config)
        self._state: TargetState | None = None
        self._decided_s = 0.0

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The wanted number, and no state: this object keeps it."""
        now = context.current_time or time.time()
        if self._state is None:
            self._state = TargetState(GuardState.begun(context.target_num_replicas, now))
        if now - self._decided_s >= self._config.period_s:
            self._decided_s = now
            self._state = decide_targets(self._config, self._state, self._sample(context, now), now)
        return self._state.guard.size, {}

    def _sample(self, context: AutoscalingContext, now: float) -> LoadSample:
        told: Mapping[str, Mapping[Any, Any]] = context.raw_metrics or {}
        reports, periods = [], []
        for replica in told.get("tokens", {}):
            series = {name: _latest(told[name][replica], self._config.period_s) for name in told if replica in told[name]}
            reports.append(_report(str(replica), series))
            periods.append(series["tokens"][-1].timestamp - series["tokens"][0].timestamp)
        sample = gather(
            reports,
            NO_DRAFTS,  # they are none of its business
            now=now,
            period_s=max(periods, default=0.0),
            max_age_s=self._config.guard.max_age_s,
            num_targets=context.current_num_replicas,
            num_starting=max(0, context.target_num_replicas - context.current_num_replicas),
        )
        return _with_queued(sample, context.total_queued_requests or 0.0)


def _with_queued(sample: LoadSample, count: float) -> LoadSample:
    """Requests for which no replica has room yet wait at Serve's routers. They are like the others."""
    mean_tokens = sample.outstanding_tokens / max(sample.running + sample.queued, 1.0)
    return replace(sample, queued=sample.queued + count, outstanding_tokens=sample.outstanding_tokens + count * mean_tokens)


def _latest(points: Sequence[Any], period_s: float) -> Sequence[Any]:
    return [point for point in points if point.timestamp >= points[-1].timestamp - period_s]


def _report(source: str, series: Mapping[str, Any]) -> TargetReport:
    def mean(name: str) -> float:
        return float(sum(point.value for point in series[name]) / len(series[name]))

    def grown(name: str) -> float:
        return float(series[name][-1].value - series[name][0].value)

    return TargetReport(
        source=source,
        time_s=series["tokens"][-1].timestamp,
        running=mean("running"),
        queued=mean("queued"),
        outstanding_tokens=series["outstanding_tokens"][-1].value,
        refused_tokens=grown("refused_tokens"),
        used_share=mean("used_share"),
        windows=0.0,
        starved_windows=0.0,
        tokens=grown("tokens"),
        plain_tokens=0.0,
    )

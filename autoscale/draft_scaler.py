"""How many drafts a running pool should have, from what targets and drafts say about themselves again and again.

Pure: the clock is an argument. A period's totals are differences between what was said in it last and in the period before: whoever is new
is counted from when it was first heard. Targets that start are not known here: drafts follow when they serve.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from autoscale.config import DraftPolicyConfig
from autoscale.draft_policy import DraftState, decide_drafts
from autoscale.guard import GuardState
from autoscale.load import NO_DRAFTS, PoolReport, TargetReport, gather
from ssd_core.loop_stats import LoopStats
from ssd_core.types import StepTimes


@dataclass(frozen=True, slots=True)
class DraftTotals:
    """Of one draft actor since it began."""

    num_steps: int
    num_nodes: int
    step_times: StepTimes
    """Of growth, as measured at its start."""


@dataclass(slots=True)
class _Target:
    before: LoopStats
    """At the period's beginning."""
    heard: list[LoopStats] = field(default_factory=list)
    time_s: float = 0.0

    def report(self, source: str, period_s: float) -> TargetReport:
        num, last = len(self.heard), self.heard[-1]
        passes, pass_s = last.passes - self.before.passes, last.pass_s - self.before.pass_s
        in_passes = (last.rounds - self.before.rounds) / passes * pass_s / period_s if passes else 0.0
        return TargetReport(
            source=source,
            time_s=self.time_s,
            running=max(in_passes, sum(stats.running for stats in self.heard) / num),  # short sessions are between two moments
            queued=sum(stats.queued for stats in self.heard) / num,
            outstanding_tokens=last.outstanding_tokens,
            refused_tokens=last.refused_tokens - self.before.refused_tokens,
            used_share=last.used_share,
            windows=last.lookups - self.before.lookups,
            starved_windows=last.misses_ungrown - self.before.misses_ungrown,
            tokens=last.tokens - self.before.tokens,
            plain_tokens=plain_tokens(self.before, last),
        )


class DraftScaler:
    def __init__(self, config: DraftPolicyConfig, size: int, now: float) -> None:
        self._config = config
        self._state = DraftState(GuardState(size))
        self._began_s = now
        self._is_awake = False
        self._targets: dict[str, _Target] = {}
        self._drafts: dict[str, DraftTotals] = {}
        self._drafts_before: dict[str, DraftTotals] = {}

    def hear_target(self, source: str, stats: LoopStats, now: float) -> None:
        target = self._targets.setdefault(source, _Target(stats))
        target.heard.append(stats)
        target.time_s = now

    def hear_draft(self, source: str, totals: DraftTotals) -> None:
        self._drafts_before.setdefault(source, totals)
        self._drafts[source] = totals

    def size(self, num_targets: int, num_drafts: int, num_starting: int, now: float) -> int:
        """So many drafts are wanted, of `num_drafts` that serve and `num_starting` on their way. It changes once a period at most. Before
        any target serves nothing is decided: a pool waits for them as it is."""
        if not self._is_awake:
            self._is_awake = num_targets > 0
            self._state = DraftState(GuardState.begun(self._state.guard.size, now))
            self._began_s = now
        if now - self._began_s >= self._config.period_s:
            self._decide(num_targets, num_drafts, num_starting, now)
            self._begin(now)
        return self._state.guard.size

    def _decide(self, num_targets: int, num_drafts: int, num_starting: int, now: float) -> None:
        sample = gather(
            (target.report(source, now - self._began_s) for source, target in self._targets.items() if target.heard),
            self._pool_report(num_drafts, num_starting),
            now=now,
            period_s=now - self._began_s,
            max_age_s=self._config.guard.max_age_s,
            num_targets=num_targets,
            num_starting=0,
        )
        self._state = decide_drafts(self._config, self._state, sample, now)

    def _pool_report(self, num_drafts: int, num_starting: int) -> PoolReport:
        pairs = [(self._drafts_before[source], totals) for source, totals in self._drafts.items()]
        return PoolReport(
            num_drafts=num_drafts,
            num_starting=num_starting,
            draft_steps=sum(after.num_steps - before.num_steps for before, after in pairs),
            draft_nodes=sum(after.num_nodes - before.num_nodes for before, after in pairs),
            growth_step=pairs[-1][1].step_times if pairs else NO_DRAFTS.growth_step,
        )

    def _begin(self, now: float) -> None:
        """Another period. Who was not heard in this one is forgotten."""
        self._began_s = now
        self._targets = {source: _Target(target.heard[-1]) for source, target in self._targets.items() if target.heard}
        self._drafts_before, self._drafts = self._drafts, {}


def plain_tokens(before: LoopStats, after: LoopStats) -> float:
    """What the same sessions would have emitted in the same passes' time without speculation: one token each in a pass of so many nodes,
    and one each while a prompt was read."""
    passes, prompt_passes = after.passes - before.passes, after.prompt_passes - before.prompt_passes
    if not passes:
        return 0.0
    sessions = (after.rounds - before.rounds) / passes
    decoding_s = (after.pass_s - before.pass_s) - (after.prompt_pass_s - before.prompt_pass_s)
    return sessions * (prompt_passes + decoding_s / after.step_times.at(sessions))

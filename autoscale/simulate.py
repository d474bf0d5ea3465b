"""A load replayed against sizes: by the policies, or by a schedule.

Pure. A period ends with a sample and a decision. What is started serves after its start-up; what is removed drains in the next period and
is paid for until its end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from autoscale.config import DraftPolicyConfig, GuardConfig, TargetPolicyConfig
from autoscale.cost_model import CostModel
from autoscale.draft_policy import DraftState, decide_drafts
from autoscale.fluid import MAX_DRAFTS, MAX_TARGETS, Fleet, Sessions
from autoscale.guard import GuardState
from autoscale.load import LoadSample
from autoscale.schedule import Sizes, best_unit, clairvoyant, least_device_s, needed_targets, static
from autoscale.shapes import MEAN_TOKENS, Load, Series
from autoscale.target_policy import TargetState, decide_targets

BUSY = 0.97
"""Of a target's sessions in use when it is as busy as it should be. That guards shrink to the most that was wanted leaves room enough."""
MOST_PATIENCE = 30
"""Periods: foresight saves hardly anything by having requests wait longer than these."""


@dataclass(frozen=True, slots=True)
class Wanted:
    targets: int
    drafts: int


Decide = Callable[[int, LoadSample], Wanted]
"""From the number of the period that ended, and its sample."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run comes to."""

    name: str
    device_s: float
    queue_p50_s: float
    queue_p99_s: float
    answer_s: float
    most_targets: int
    most_drafts: int
    target_changes: int
    draft_changes: int
    reaction_periods: int | None


@dataclass(frozen=True)
class Run:
    """[i]: of period i."""

    name: str
    load: Load
    targets: Series
    """Held, those that start included; so are drafts."""
    drafts: Series
    devices: Series
    queued: Series
    """At the period's end."""
    present: Series
    """Requests, queued or running. Mean."""

    @property
    def queue_delays_s(self) -> Series:
        """[i]: how long requests that came at the end of period i wait: until so many have been admitted as had come by then, or until the
        load ends."""
        came = np.cumsum(self.load.arrivals)
        ends = np.arange(1, len(came) + 1) * self.load.period_s
        delays: Series = np.maximum(0.0, np.interp(came - 1e-6, np.maximum.accumulate(came - self.queued), ends) - ends)
        return delays

    def queue_s(self, share: float) -> float:
        """The queue delay which that share of all requests does not exceed."""
        order = np.argsort(self.queue_delays_s)
        counted = np.cumsum(self.load.arrivals[order])
        return float(self.queue_delays_s[order][np.searchsorted(counted, share * counted[-1])])

    @property
    def answer_s(self) -> float:
        """From request to the last token. Mean (Little's law)."""
        return float(self.present.sum() * self.load.period_s / self.load.arrivals.sum())

    def reaction_periods(self, needed: Series) -> int | None:
        """Decisions from the load's jump until as many targets are asked for as it needs. None: no jump, or it never came to that."""
        jump = self.load.jump
        if jump is None:
            return None
        (enough,) = np.nonzero(self.targets[jump:] >= needed[jump])
        return int(enough[0]) if len(enough) else None

    def summary(self, needed: Series) -> Summary:
        """`needed`: targets, by period."""
        return Summary(
            name=self.name,
            device_s=float(self.devices.sum() * self.load.period_s),
            queue_p50_s=self.queue_s(0.5),
            queue_p99_s=self.queue_s(0.99),
            answer_s=self.answer_s,
            most_targets=int(self.targets.max()),
            most_drafts=int(self.drafts.max()),
            target_changes=int(np.count_nonzero(np.diff(self.targets))),
            draft_changes=int(np.count_nonzero(np.diff(self.drafts))),
            reaction_periods=self.reaction_periods(needed),
        )


def by_schedule(sizes: Sizes) -> Decide:
    """`sizes` hold what starts from its start on."""
    targets, drafts = (np.append(series[1:], series[-1]).astype(int) for series in sizes)
    return lambda period, sample: Wanted(int(targets[period]), int(drafts[period]))


def by_policies(targets: TargetPolicyConfig, drafts: DraftPolicyConfig, start: Wanted) -> Decide:
    target_state, draft_state = TargetState(GuardState(start.targets)), DraftState(GuardState(start.drafts))

    def decide(period: int, sample: LoadSample) -> Wanted:
        nonlocal target_state, draft_state
        target_state = decide_targets(targets, target_state, sample, sample.time_s)
        draft_state = decide_drafts(drafts, draft_state, sample, sample.time_s)
        return Wanted(target_state.guard.size, draft_state.guard.size)

    return decide


def policy_configs(model: CostModel) -> tuple[TargetPolicyConfig, DraftPolicyConfig]:
    """For this pair, with answers of MEAN_TOKENS; all else is what a service gets that says nothing."""
    targets = TargetPolicyConfig(
        guard=GuardConfig(min_size=1, max_size=MAX_TARGETS),
        outstanding_tokens=BUSY * model.max_sessions * MEAN_TOKENS,
        used_share=BUSY,
    )
    drafts = DraftPolicyConfig(
        guard=GuardConfig(max_size=MAX_DRAFTS),
        draft_cost=model.draft_devices,
        target_cost=model.target_devices,
    )
    return targets, drafts


def simulate(name: str, model: CostModel, load: Load, start: Wanted, decide: Decide) -> Run:
    """Begins with `start` serving and nobody there."""
    targets = Fleet(start.targets, round(model.target_start_s / load.period_s))
    drafts = Fleet(start.drafts, round(model.draft_start_s / load.period_s))
    sessions, before, rows = Sessions(model), start, []
    for period in range(len(load.arrivals)):
        targets.begin(period)
        drafts.begin(period)
        sample = sessions.live(period, load, targets, drafts)
        devices = model.cost(max(before.targets, targets.size), max(before.drafts, drafts.size))
        rows.append((targets.size, drafts.size, devices, sample.queued, sessions.mean_present))
        before, wanted = Wanted(targets.size, drafts.size), decide(period, sample)
        targets.resize(wanted.targets, period + 1)
        drafts.resize(wanted.drafts, period + 1)
    return Run(name, load, *np.array(rows, dtype=np.float64).T)


@dataclass(frozen=True)
class Comparison:
    """One load, three ways to size for it."""

    model: CostModel
    load: Load
    runs: tuple[Run, ...]
    """By the policies; by one who knows what will come; by one who knows, and lets requests wait as long as the policies do; for the
    peak."""

    @property
    def summaries(self) -> tuple[Summary, ...]:
        needed = needed_targets(self.model, self.load)
        return tuple(run.summary(needed) for run in self.runs)

    @property
    def least_device_s(self) -> float:
        return least_device_s(self.model, self.load)


def load_for(model: CostModel, targets: float) -> float:
    """Requests/s that keep so many of the best units full."""
    return targets * best_unit(model).tokens_per_s / MEAN_TOKENS


def compare(model: CostModel, load: Load) -> Comparison:
    known = clairvoyant(model, load)
    start = _first(known)
    ours = simulate("policies", model, load, start, by_policies(*policy_configs(model), start))
    best = _scheduled("clairvoyant", model, load, known)
    return Comparison(model, load, (ours, best, _as_late(model, ours, best), _scheduled("static", model, load, static(model, load))))


def _as_late(model: CostModel, ours: Run, known: Run) -> Run:
    """Foresight saves what it can while requests wait no longer than with `ours`, on average and at the 99th percentile."""
    patient = replace(known, name="patient")
    for patience in range(2, MOST_PATIENCE + 1):
        run = _scheduled("patient", model, ours.load, clairvoyant(model, ours.load, patience))
        if run.answer_s > ours.answer_s or run.queue_s(0.99) > ours.queue_s(0.99):
            break
        patient = run
    return patient


def _scheduled(name: str, model: CostModel, load: Load, sizes: Sizes) -> Run:
    return simulate(name, model, load, _first(sizes), by_schedule(sizes))


def _first(sizes: Sizes) -> Wanted:
    return Wanted(int(sizes.targets[0]), int(sizes.drafts[0]))

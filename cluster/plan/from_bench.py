"""From the JSON of `ssd-serve bench` to the planner's figures: times and counts of the parts of a round, never a preset's speed. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from cluster.plan.run_file import Run, RunRow
from ssd_core.config import PresetName
from ssd_core.figures import (
    DevicesFigures,
    DraftedFigures,
    Figures,
    OverlapFigures,
    PlainFigures,
    PresetsFigures,
    TargetFigures,
    TurnFigures,
)
from ssd_core.policies.submit import policy_of


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one temperature: what the planner may know, and what it must meet."""

    temperature: float
    figures: Figures
    tokens_per_s: Mapping[str, float]
    """By preset: all tokens by all the time."""
    speculated: Mapping[str, float]
    """By preset that speculates: share of rounds after the first token that submitted a speculation."""


def measured(run: Run) -> list[Measured]:
    """One for each temperature of the run."""
    temperatures = dict.fromkeys(row.temperature for row in run.rows)
    return [_measured(run, [row for row in run.rows if row.temperature == temperature]) for temperature in temperatures]


@dataclass(frozen=True, slots=True)
class _Parts:
    """A row's totals as means: of a round after the first token, unless said otherwise."""

    row: RunRow
    sessions: float
    """That share a pass."""
    nodes: float
    pass_s: float
    own_work_s: float | None
    """Of one session; None where every round waited for the draft, so that it cannot be told apart."""
    prompt_nodes: float
    """Of one request; so is the time."""
    prompt_s: float
    draft_steps: float
    draft_step_s: float

    @property
    def num_rounds(self) -> float:
        return self.row.totals.rounds - self.row.num_requests


def _parts(row: RunRow, concurrency: int) -> _Parts:
    totals, requests = row.totals, row.num_requests
    passes = totals.passes - totals.prompt_passes
    rounds = totals.rounds - requests
    nodes = 1 + totals.draft_tokens / rounds
    pass_nodes = (totals.pass_nodes - totals.prompt_pass_nodes) / passes
    sessions = 1.0 if concurrency == 1 else max(1.0, pass_nodes / nodes)
    return _Parts(
        row=row,
        sessions=sessions,
        nodes=pass_nodes / sessions,
        pass_s=(totals.pass_s - totals.prompt_pass_s) / passes,
        own_work_s=totals.gap_s / totals.gaps / sessions if totals.gaps else None,
        prompt_nodes=totals.prompt_pass_nodes / requests,
        prompt_s=totals.prompt_pass_s / requests,
        draft_steps=max(0.0, totals.growth_steps - requests) / rounds,  # one step reads the prompt
        draft_step_s=totals.growth_busy_s / totals.growth_steps if totals.growth_steps else 0.0,
    )


def _measured(run: Run, rows: Sequence[RunRow]) -> Measured:
    service, concurrency = run.service, run.workload.concurrency
    target = TargetFigures(
        pass_nodes=service.pass_nodes,
        pass_s=service.pass_s,
        flops_per_node=service.target_flops_per_node or 0.0,
        devices=service.devices_per_target or 1.0,
    )
    parts = {row.preset: _parts(row, concurrency) for row in rows}
    told = [own.own_work_s for own in parts.values() if own.own_work_s is not None]
    shared = _Shared(
        pass_alone_s=target.step_times.at,
        own_work_s=fmean(told) if told else 0.0,
        message_s=_message_seconds(parts.values()),
        prompt_nodes=min(own.prompt_nodes for own in parts.values()),
    )
    figures = Figures(
        target=target,
        draft=DevicesFigures(flops_per_node=service.draft_flops_per_node or 0.0, devices=service.devices_per_draft or 1.0),
        presets=PresetsFigures.model_validate({preset: _MAKE[preset](own, shared) for preset, own in parts.items()}),
        prompt_tokens=max(1.0, shared.prompt_nodes),
        prompt_s=fmean(own.prompt_s for own in parts.values()),
        output_tokens=sum(row.num_tokens for row in rows) / sum(row.num_requests for row in rows),
        request_s=service.request_s,
        concurrency=concurrency,
    )
    return Measured(
        rows[0].temperature,
        figures,
        {row.preset: row.num_tokens / row.wall_s for row in rows},
        {preset: own.row.totals.drafts / own.num_rounds for preset, own in parts.items() if policy_of(own.row.preset).uses_draft},
    )


@dataclass(frozen=True, slots=True)
class _Shared:
    """What one preset's figures take from all of them."""

    pass_alone_s: Callable[[float], float]
    own_work_s: float
    message_s: float
    prompt_nodes: float


def _message_seconds(parts: Iterable[_Parts]) -> float:
    """What the draft's turns took beyond its steps, for each step; over all presets that take turns. Where the draft works all the
    time, what is waited for after a miss is no whole turn."""
    waiting = [own for own in parts if policy_of(own.row.preset).waits]
    steps = sum(own.num_rounds * own.draft_steps for own in waiting)
    beyond = sum(own.row.totals.draft_turn_s - own.num_rounds * own.draft_steps * own.draft_step_s for own in waiting)
    return max(0.0, beyond / steps) if steps else 0.0


def _plain(own: _Parts, shared: _Shared) -> PlainFigures:
    return PlainFigures(
        nodes=own.nodes,
        pass_stretch=own.pass_s / shared.pass_alone_s(own.nodes * own.sessions),
        own_work_s=shared.own_work_s if own.own_work_s is None else own.own_work_s,
    )


def _drafted(own: _Parts, shared: _Shared) -> DraftedFigures:
    totals, requests = own.row.totals, own.row.num_requests
    return DraftedFigures(
        **dict(_plain(own, shared)),
        draft_steps=own.draft_steps,
        draft_nodes=max(0.0, totals.growth_nodes - requests * shared.prompt_nodes) / own.num_rounds,
        draft_step_s=own.draft_step_s,
    )


def _turns(own: _Parts, shared: _Shared) -> TurnFigures:
    drafted = own.row.totals.drafts / own.num_rounds  # rounds without a speculation accept nothing
    accepted = tuple(min(1.0, share * drafted) for share in own.row.accepted_per_position)
    return TurnFigures(**dict(_drafted(own, shared)), accepted_per_position=accepted, message_s=shared.message_s)


def _overlap(own: _Parts, shared: _Shared) -> OverlapFigures:
    totals, drafted = own.row.totals, _drafted(own, shared)
    hits, misses = totals.hit_rounds, totals.miss_rounds
    # Growth ends with the round, so it takes no longer; the time of a step, over which that of prompts is spread, could say otherwise.
    # What a wait after a miss adds to it is the backup's.
    round_s = own.pass_s + own.sessions * drafted.own_work_s
    steps = min(own.draft_steps, round_s / own.draft_step_s) if own.draft_step_s else own.draft_steps
    return OverlapFigures(
        **dict(drafted) | {"draft_steps": steps},
        hit_rate=hits / (hits + misses) if hits + misses else 0.0,
        tokens_after_hit=totals.hit_tokens / hits if hits else 1.0,
        tokens_after_miss=totals.miss_tokens / misses if misses else 1.0,
        nodes_after_hit=1 + totals.hit_draft_tokens / hits if hits else 1.0,
        backup_s=totals.draft_turn_s / misses if misses else 0.0,
    )


_MAKE: dict[PresetName, Callable[[_Parts, _Shared], PlainFigures]] = {
    "ar": _plain,
    "sd": _turns,
    "tree": _turns,
    "ssd": _overlap,
    "saguaro": _overlap,
    "ssd-tree": _overlap,
}

"""How many target replicas. Pure: the clock and the sample are arguments, the state goes in and out.

A replica is full when its sessions have `outstanding_tokens` to emit, or when its KV cells or its places for sessions are in use. Once
sessions queue, all three stop at full and no longer say how much is missing. But then all targets work at their limit: what they emit is
what they can; what comes in, refused or not, and the queue to be worked off, is what they should.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from autoscale.config import TargetPolicyConfig
from autoscale.guard import GuardState, is_usable, resized
from autoscale.load import LoadSample


@dataclass(frozen=True, slots=True)
class TargetState:
    guard: GuardState
    outstanding_tokens: float = 0.0
    """Of all targets that reported, in the last sample that was used."""


def decide_targets(config: TargetPolicyConfig, state: TargetState, sample: LoadSample | None, now: float) -> TargetState:
    """The wanted number is `guard.size` of what is returned."""
    if sample is None or not is_usable(config.guard, state.guard, sample, now):
        return state
    guard = replace(resized(config.guard, state.guard, _wanted(config, state, sample), now), sampled_s=sample.time_s)
    return TargetState(guard, sample.outstanding_tokens)


def _wanted(config: TargetPolicyConfig, state: TargetState, sample: LoadSample) -> float:
    """From shares of the present number, so that targets which did not report are taken to be like the rest."""
    if not sample.sources:
        return config.guard.min_size
    queued_tokens = sample.outstanding_tokens * sample.queued / max(sample.running + sample.queued, 1.0)
    running_tokens = sample.outstanding_tokens - queued_tokens
    loads = [running_tokens / len(sample.sources) / config.outstanding_tokens, sample.used_share / config.used_share]
    if (queued_tokens or sample.refused_tokens) and sample.tokens >= 1:
        came = sample.tokens + sample.outstanding_tokens - state.outstanding_tokens + sample.refused_tokens
        to_work_off = queued_tokens * sample.period_s / config.queue_patience_s
        loads.append((came + to_work_off) / sample.tokens)
    return sample.num_targets * max(loads)

"""Samples for the policies: made by hand, or as a pair of models would give them."""

from __future__ import annotations

from typing import Any

from autoscale.cost_model import H100_GROWTH_STEP, CostModel
from autoscale.load import LoadSample, PoolReport

PERIOD_S = 10.0


def a_sample(time_s: float, *, targets: int = 4, reported: int | None = None, **values: Any) -> LoadSample:
    known: dict[str, Any] = {
        "period_s": PERIOD_S, "num_starting_targets": 0, "pool": PoolReport(2, 0, 1000.0, 64000.0, H100_GROWTH_STEP),
        "running": 8.0 * targets, "queued": 0.0, "outstanding_tokens": 1000.0 * targets, "refused_tokens": 0.0, "used_share": 0.5,
        "windows": 3000.0, "starved_windows": 1000.0, "tokens": 12000.0, "plain_tokens": 3500.0,
    }  # fmt: skip
    sources = tuple(f"t{i}" for i in range(targets if reported is None else reported))
    return LoadSample(time_s=time_s, sources=sources, num_targets=targets, **(known | values))


def sample_of(model: CostModel, time_s: float, *, targets: int, drafts: int, sessions: float, **values: Any) -> LoadSample:
    """So many sessions at each target."""
    speed = model.speed(sessions, drafts / targets).scaled(targets * PERIOD_S)
    steps = speed.steps_per_s * drafts * PERIOD_S
    known: dict[str, Any] = {
        "pool": PoolReport(drafts, 0, steps, steps * speed.step_nodes, model.growth_step),
        "running": sessions * targets, "windows": speed.windows_per_s, "starved_windows": speed.starved_per_s,
        "tokens": speed.tokens_per_s, "plain_tokens": speed.plain_tokens_per_s,
    }  # fmt: skip
    return a_sample(time_s, targets=targets, **(known | values))


class Changes:
    """Of a size."""

    def __init__(self, cooldown_s: float) -> None:
        self._cooldown_s = cooldown_s
        self._grown: list[tuple[float, int]] = []

    def note(self, before: int, after: int, now: float) -> None:
        """What was grown to twice within a cool-down is kept until it ends."""
        lately = [size for time_s, size in self._grown if now - time_s < self._cooldown_s]
        assert after >= before or sum(size > after for size in lately) <= 1
        if after > before:
            self._grown.append((now, after))

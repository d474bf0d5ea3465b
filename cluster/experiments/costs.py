"""What passes and our own work cost, as an experiment is told: measured at its beginning, or read from a file."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from cluster.yaml_errors import read_json, validated
from ssd_core.config import Config
from ssd_core.figures import Positive, Seconds
from ssd_core.types import StepTimes
from ssd_core.virtual_time import PassCost


class LoopCosts(Config):
    """Of the target's loop, whose step is a round, or of the draft's, whose step is a growth step."""

    pass_nodes: tuple[int, ...] = Field(min_length=1)
    """Sizes of a pass of one session whose time is known, ascending, up to those of prompts."""
    pass_s: tuple[Positive, ...]
    """Seconds of a pass of each of these sizes."""
    per_session_s: Seconds = 0.0
    """More of a pass for each session after the first."""
    overhead_s: Seconds = 0.0
    """Our own Python in a step."""
    overhead_per_session_s: Seconds = 0.0
    """More of it for each session after the first."""

    @model_validator(mode="after")
    def _has_a_time_for_each_size(self) -> LoopCosts:
        if len(self.pass_s) != len(self.pass_nodes):
            raise ValueError(f"pass_s has {len(self.pass_s)} times for the {len(self.pass_nodes)} sizes of pass_nodes")
        return self

    def pass_cost(self, scale: float = 1.0) -> PassCost:
        """`scale` times all of it. What a further session takes is charged with the pass, our own work for it included."""
        times = StepTimes(self.pass_nodes, tuple(scale * seconds for seconds in self.pass_s))
        return PassCost(times, scale * (self.per_session_s + self.overhead_per_session_s), scale * self.overhead_s)


class Costs(Config):
    origin: str
    """Where they were measured, and how."""
    target: LoopCosts
    draft: LoopCosts
    latency_s: Seconds
    """Of a message between target and draft, either way."""


def read_costs(path: Path) -> Costs:
    """Raises ConfigError."""
    return validated(Costs, read_json(path), str(path))

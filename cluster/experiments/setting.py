"""One point of an experiment: all that may differ from the next one."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ssd_core.config import Config, FiniteFloat, SpeculationConfig


class Setting(Config):
    curve: str
    """What the point belongs to in the picture. `ar` is what others are compared with."""
    x: FiniteFloat = 0.0
    """Where it stands on that curve."""
    speculation: dict[str, Any]
    """Fields of SpeculationConfig that are not left as they are, as they were named when it ran."""
    temperature: FiniteFloat = Field(default=0.0, ge=0)
    concurrency: int = Field(default=1, ge=1)
    """Requests at a time."""
    draft_scale: FiniteFloat = Field(default=1.0, gt=0)
    """The draft's steps take so many times as long as measured."""
    max_step_nodes: int = Field(default=16, ge=1)
    """Most nodes of a growth step, over all sessions."""

    def speculation_config(self) -> SpeculationConfig:
        """Presets do as they are told, unless self-tuning is what is looked at."""
        return SpeculationConfig.model_validate({"self_tuning": False, **self.speculation})

    def num_requests(self, num_prompts: int) -> int:
        """At least two for each place, so that the places are full most of the time."""
        return num_prompts if self.concurrency == 1 else max(num_prompts, 2 * self.concurrency)


def plain(temperature: float = 0.0, concurrency: int = 1) -> Setting:
    """Plain decoding."""
    return Setting(curve="ar", speculation={"preset": "ar"}, temperature=temperature, concurrency=concurrency)

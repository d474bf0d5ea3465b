"""The average of what was observed lately."""

from __future__ import annotations

from dataclasses import dataclass

from ssd_core.samples import learns

MEMORY = 0.05
"""Weight of the newest observation."""


@dataclass(slots=True)
class Average:
    """`value` is a guess until something is observed."""

    value: float
    num_observed: int = 0

    @learns
    def add(self, observed: float) -> None:
        self.num_observed += 1
        self.value += max(MEMORY, 1.0 / self.num_observed) * (observed - self.value)

"""The average of what was observed lately."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

MEMORY = 0.05
"""Weight of the newest observation."""


@dataclass(slots=True)
class Average:
    """`value` is a guess until something is observed."""

    value: float
    num_observed: int = 0

    def add(self, observed: float) -> None:
        """Take an observation in. One that is not finite says nothing, and would be remembered for ever."""
        if not isfinite(observed):
            return
        self.num_observed += 1
        self.value += max(MEMORY, 1.0 / self.num_observed) * (observed - self.value)

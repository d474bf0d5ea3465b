"""A straight line through what was observed lately: least squares with forgetting, and a slope that is believed until there is evidence."""

from __future__ import annotations

from typing import NamedTuple

from ssd_core.samples import learns

MEMORY = 0.98
"""What an observation counts when one more has been made."""


class Line(NamedTuple):
    mean_x: float
    mean_y: float
    slope: float

    def at(self, x: float) -> float:
        """Never less than a tenth of the mean observation."""
        return max(self.mean_y + self.slope * (x - self.mean_x), 0.1 * self.mean_y)


class LinearFit:
    """y = a + b x, with b >= 0."""

    def __init__(self, start: tuple[float, float], slope: float, doubt: float) -> None:
        """`start`: a point taken for observed at first. `slope`: b, where all observations have one x. `doubt`: by how much x must vary
        before observations say as much of b as this does."""
        self._slope = slope
        self._ridge = doubt**2
        self._weight = self._x = self._xx = self._y = self._xy = 0.0
        self.observe(*start)

    @learns
    def observe(self, x: float, y: float) -> None:
        self._weight = MEMORY * self._weight + 1.0
        self._x = MEMORY * self._x + x
        self._xx = MEMORY * self._xx + x * x
        self._y = MEMORY * self._y + y
        self._xy = MEMORY * self._xy + x * y

    def at(self, x: float) -> float:
        return self.line().at(x)

    def line(self) -> Line:
        """As it lies now."""
        mean_x, mean_y = self._x / self._weight, self._y / self._weight
        variance = max(0.0, self._xx / self._weight - mean_x**2)  # rounding must not make it negative
        covariance = self._xy / self._weight - mean_x * mean_y
        slope = max(0.0, (covariance + self._ridge * self._slope) / (variance + self._ridge))
        return Line(mean_x, mean_y, slope)

"""How long a growth step takes by the nodes it evaluates, learned on line: a + b n, by least squares over recent steps."""

from __future__ import annotations

MEMORY = 0.98
"""What a step counts when one more has been observed."""
START = ((1, 0.0010), (16, 0.0018))
"""Steps (nodes, seconds) taken for observed at first. Only their ratio matters, and a few dozen real ones make them forgotten."""


class StepCost:
    def __init__(self) -> None:
        self._weight = self._n = self._nn = self._t = self._nt = 0.0
        for num_nodes, seconds in START:
            self.observe(num_nodes, seconds)

    def observe(self, num_nodes: int, seconds: float) -> None:
        self._weight = MEMORY * self._weight + 1.0
        self._n = MEMORY * self._n + num_nodes
        self._nn = MEMORY * self._nn + num_nodes * num_nodes
        self._t = MEMORY * self._t + seconds
        self._nt = MEMORY * self._nt + num_nodes * seconds

    def seconds(self, num_nodes: int) -> float:
        """Of a step over so many nodes. Where only one size has been seen lately, a further node is taken to cost nothing."""
        mean_n, mean_t = self._n / self._weight, self._t / self._weight
        spread = self._nn / self._weight - mean_n**2
        slope = max(0.0, (self._nt / self._weight - mean_n * mean_t) / spread) if spread > 1e-6 else 0.0
        return max(mean_t + slope * (num_nodes - mean_n), 0.1 * mean_t)

"""How long a round takes, learned on line: T_verify(n) as measured at start gives the shape, rounds give offset and scale.

Beyond the pass there is our own work between two passes, the attention of further sessions, each to a context of its own, and whoever else
uses the machine: now, or when it was measured at start. So each number of sessions has a line of its own over T_verify(n).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from ssd_core.average import Average
from ssd_core.linear_fit import LinearFit
from ssd_core.samples import learns
from ssd_core.types import StepTimes

START_S = 0.001
"""Beyond T_verify(n), until rounds have told."""
DOUBT = 0.5
"""Of the scale 1, in units of T_verify(1)."""


class RoundCost:
    def __init__(self, step_times: StepTimes) -> None:
        self._verify_s = cache(step_times.at)
        """T_verify(n): asked for the same few n, dozens of times in a round."""
        self._lines: dict[int, LinearFit] = {}
        self._prompt_token_s = Average(0.0)

    def seconds(self, num_sessions: int, num_nodes: int) -> float:
        """Of a round that verifies `num_nodes` nodes, roots included, of `num_sessions` sessions."""
        return self.of(num_sessions)(num_nodes)

    def of(self, num_sessions: int) -> Callable[[int], float]:
        """The same, by number of nodes."""
        verify_s, fit = self._verify_s, self._known(num_sessions)
        if fit is None:
            return lambda num_nodes: verify_s(num_nodes) + START_S
        line = fit.line()
        return lambda num_nodes: line.at(verify_s(num_nodes))

    @learns
    def observe(self, num_sessions: int, num_nodes: int, seconds: float) -> None:
        """Such a round took so long, from its launch to the next."""
        if num_sessions not in self._lines:
            start = (self._verify_s(num_nodes), self.seconds(num_sessions, num_nodes))
            self._lines[num_sessions] = LinearFit(start, slope=1.0, doubt=DOUBT * self._verify_s(1))
        self._lines[num_sessions].observe(self._verify_s(num_nodes), seconds)

    def less_prompts(self, seconds: float, num_prompt_tokens: int, num_sessions: int, num_nodes: int) -> float:
        """Of a round that took so long with so many tokens of prompts in it, the time without what such tokens take on average. The other
        nodes are of `num_sessions` sessions, perhaps none."""
        others_s = self.seconds(num_sessions, num_nodes) if num_sessions else 0.0
        self._prompt_token_s.add((seconds - others_s) / num_prompt_tokens)
        return max(0.0, seconds - num_prompt_tokens * self._prompt_token_s.value)

    def _known(self, num_sessions: int) -> LinearFit | None:
        """Of so many sessions, or of the most below that."""
        return self._lines.get(num_sessions) or self._lines.get(max((n for n in self._lines if n < num_sessions), default=0))

"""How long a round takes, learned on line: T_verify(n) as measured at start for one session, and what rounds proved to cost on top of it.

On top comes our own work between two passes, and the attention of further sessions, each to a context of its own. Both grow with the number
of sessions and hardly with the nodes, so one number for each number of sessions is enough.
"""

from __future__ import annotations

from ssd_core.types import StepTimes

START_S = 0.001
"""Beyond T_verify(n), until rounds have told."""
MEMORY = 0.05
"""Weight of the newest round."""


class RoundCost:
    def __init__(self, step_times: StepTimes) -> None:
        self._step_times = step_times
        self._beyond_s: dict[int, float] = {}

    def seconds(self, num_sessions: int, num_nodes: int) -> float:
        """Of a round that verifies `num_nodes` nodes, roots included, of `num_sessions` sessions."""
        return self._step_times.at(num_nodes) + self._beyond(num_sessions)

    def observe(self, num_sessions: int, num_nodes: int, seconds: float) -> None:
        """Such a round took so long, from its launch to the next."""
        beyond = self._beyond(num_sessions)
        self._beyond_s[num_sessions] = beyond + MEMORY * (seconds - self._step_times.at(num_nodes) - beyond)

    def _beyond(self, num_sessions: int) -> float:
        """What is known of so many sessions, or of the most below that."""
        known = self._beyond_s.get(num_sessions)
        if known is None:
            known = self._beyond_s.get(max((n for n in self._beyond_s if n < num_sessions), default=0), START_S)
        return known

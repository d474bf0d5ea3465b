"""Time that only costs move: a clock, what a pass costs, and an engine that takes that long by the clock instead of the wall's.

What is computed is real; how long it takes is given. So the loops, which read the time from a `clock`, run on any machine as they
would where passes cost so much: without noise, and the same every time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssd_core.engine.base import Engine, Part
from ssd_core.types import StepTimes

if TYPE_CHECKING:
    import torch


class VirtualClock:
    """Seconds since the beginning. Never goes back."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def __call__(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        assert seconds >= 0, seconds
        self._now_s += seconds

    def move_to(self, at_s: float) -> None:
        """Forward to `at_s`; a time already past changes nothing."""
        self._now_s = max(self._now_s, at_s)


@dataclass(frozen=True, slots=True)
class PassCost:
    """Seconds that a step of a loop takes: its engine's pass, and the loop's own work around it."""

    step_times: StepTimes
    """The pass of one session by its nodes. Prompts are charged by it, too, in proportion beyond its last size."""
    per_session_s: float = 0.0
    """More for each session after the first: attention to a context of its own."""
    overhead_s: float = 0.0
    """Our own Python and the launch of the pass."""

    def pass_s(self, num_sessions: int, num_nodes: int) -> float:
        """The engine's part."""
        return self.step_times.at(num_nodes) + self.per_session_s * (num_sessions - 1)

    def step_s(self, num_sessions: int, num_nodes: int) -> float:
        """All of it."""
        return self.pass_s(num_sessions, num_nodes) + self.overhead_s


class TimedEngine(Engine):
    """Another engine, whose passes move `clock` on by `seconds(num_sessions, num_nodes)`."""

    def __init__(self, engine: Engine, seconds: Callable[[int, int], float], clock: VirtualClock) -> None:
        self._engine = engine
        self._seconds = seconds
        self._clock = clock

    def evaluate(self, parts: Sequence[Part]) -> torch.Tensor:
        logits = self._engine.evaluate(parts)
        self._clock.advance(self._seconds(len(parts), sum(len(part.tokens) for part in parts)))
        return logits

    @property
    def vocab_size(self) -> int:
        return self._engine.vocab_size

    @property
    def max_model_len(self) -> int:
        return self._engine.max_model_len

    @property
    def num_cells(self) -> int:
        return self._engine.num_cells

    @property
    def num_free_cells(self) -> int:
        return self._engine.num_free_cells

    @property
    def device(self) -> torch.device:
        return self._engine.device

    @property
    def flops_per_token(self) -> float:
        return self._engine.flops_per_token

    def open(self, session_id: str, num_cells: int) -> None:
        self._engine.open(session_id, num_cells)

    def advance(self, session_id: str, path: Sequence[int], survivors: Sequence[int] = ()) -> None:
        self._engine.advance(session_id, path, survivors)

    def trunk_length(self, session_id: str) -> int:
        return self._engine.trunk_length(session_id)

    def close(self, session_id: str) -> None:
        self._engine.close(session_id)

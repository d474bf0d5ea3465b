"""What runs a pass: the seam between the engine's accounting and its arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from ssd_core.engine.kv import SessionCells


class Work(NamedTuple):
    """A pass over N new nodes, which are in their sessions' tree regions already."""

    sessions: Sequence[SessionCells]
    num_new: Sequence[int]
    """By session: so many nodes at the end of its tree region."""
    tokens: Sequence[int]
    """[N], session by session."""
    positions: Sequence[int]
    """[N]"""
    kept: Sequence[int]
    """[R]: the nodes whose logits are wanted."""


class Runner(Protocol):
    def prepare(self, most_tokens: int) -> None:
        """Build what passes would build on first use, of prompts at most so many tokens at once. Before any session is open."""

    def open(self, session_id: str) -> None:
        """CapacityError when it cannot run one more session."""

    def close(self, session_id: str) -> None: ...

    def run(self, work: Work) -> torch.Tensor:
        """Writes the nodes' keys and values and returns float32 logits [R, V], which stand until the next pass."""

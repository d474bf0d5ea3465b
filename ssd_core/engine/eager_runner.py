"""A pass as one call of a model's forward, for any model and device."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Protocol

import torch

from ssd_core.engine.attention import CellShape, TreePass
from ssd_core.engine.runner import Work


class Forward(Protocol):
    def __call__(self, inputs: torch.Tensor, kept: Sequence[int], ssd_pass: TreePass, /) -> torch.Tensor:
        """inputs [2, N], tokens and positions -> float32 logits [R, V] of the rows `kept`. Writes the nodes' keys and values."""


class EagerRunner:
    """See Runner. `pools` [cells, W] and `shapes` by layer."""

    def __init__(self, forward: Forward, pools: Sequence[torch.Tensor], shapes: Sequence[CellShape]) -> None:
        self._forward, self._pools, self._shapes = forward, pools, shapes

    def prepare(self, most_tokens: int) -> None:
        """It builds nothing."""

    def open(self, session_id: str) -> None:
        """It keeps nothing of sessions."""

    def close(self, session_id: str) -> None: ...

    @torch.inference_mode()
    def run(self, work: Work) -> torch.Tensor:
        inputs = torch.frombuffer(array("q", [*work.tokens, *work.positions]), dtype=torch.int64).view(2, -1).to(self._pools[0].device)
        return self._forward(inputs, work.kept, TreePass(self._pools, self._shapes, work.sessions, work.num_new))

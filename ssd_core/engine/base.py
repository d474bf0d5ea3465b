"""The engine: evaluates nodes of token trees over a KV cache. One protocol for target and draft.

Per session an engine holds a *trunk* (the KV of committed tokens, in order) and a *tree region*: evaluated nodes numbered
0, 1, 2, ... in order of evaluation since the last `advance`. A node attends to the trunk, to its ancestors in the tree region and
to itself. R = rows of logits, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

TRUNK_END = -1


@dataclass(frozen=True, slots=True)
class Part:
    """One session's share of a pass: `tokens[i]` follows tree node `parents[i]`, or the trunk's end (TRUNK_END).

    A parent comes before its children: it is an older tree node, or earlier in the same part (whose i-th node gets the number
    `num_tree_nodes + i`).
    """

    session_id: str
    tokens: Sequence[int]
    parents: Sequence[int]
    logits_from: int = 0
    """Logits are returned for nodes `logits_from` and after: prefill wants the last only, or none."""


class Engine(Protocol):
    @property
    def vocab_size(self) -> int: ...

    @property
    def max_model_len(self) -> int:
        """Longest sequence, prompt and output together."""

    @property
    def num_cells(self) -> int:
        """KV cells in all; a cell holds one token of one session."""

    @property
    def num_free_cells(self) -> int:
        """Cells not reserved by any session."""

    @property
    def device(self) -> torch.device:
        """Where its logits are."""

    @property
    def flops_per_token(self) -> float:
        """Floating-point operations to evaluate one node, attention left out: about two per weight that is multiplied."""

    def open(self, session_id: str, num_cells: int) -> None:
        """Reserve `num_cells` for trunk and tree region together. Raises CapacityError when they are not free."""

    def evaluate(self, parts: Sequence[Part]) -> torch.Tensor:
        """One pass. Returns float32 logits [R, V], parts in order, each its nodes from `logits_from`; they stand until the
        next pass. Appends to the tree regions."""

    def advance(self, session_id: str, path: Sequence[int], survivors: Sequence[int] = ()) -> None:
        """Move the tree nodes `path` (a chain from the trunk's end) to the trunk, keep `survivors` (each with its parent also kept
        or the path's end; renumbered 0, 1, ... in the order given), and free the rest. Nothing is recomputed."""

    def trunk_length(self, session_id: str) -> int: ...

    def close(self, session_id: str) -> None:
        """Give everything of the session back. Unknown sessions are ignored, so that every path may call it."""

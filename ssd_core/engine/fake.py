"""An engine without a model, shipped for tests and simulations. Deterministic; wrong parents, a wrong advance or a wrong renumbering
give wrong logits, because a node's logits are read off the cells on its path, as a real engine's are.

V = vocabulary, R rows of logits.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ssd_core.engine.base import TRUNK_END, Engine, Part
from ssd_core.engine.kv import CellPool, SessionCells
from ssd_core.types import sequence_id

SHARPNESS = 2.0
"""Scale of the Gumbel-distributed logits: at temperature 1 and V = 64 the likeliest token has about 0.65 of the probability."""


class FakeEngine(Engine):
    """The logits of a node are a pure function of `seed` and the last `order` tokens of its path.

    `noise` adds a second such function, scaled: an engine with noise is a draft of the one without, of the same seed. It agrees with
    it on the likeliest token often: 0.2 about 87 %, 0.5 about 62 %, 1 about 35 %, with 64 tokens."""

    def __init__(
        self,
        vocab_size: int = 64,
        *,
        seed: int = 0,
        noise: float = 0.0,
        order: int = 3,
        num_cells: int = 4096,
        max_model_len: int = 1024,
        flops_per_token: float = 1e6,
        delay_s: Callable[[int], float] | None = None,
        yields_nan: Callable[[str], bool] | None = None,
    ) -> None:
        """`delay_s(num_nodes)`: how long a pass sleeps. `yields_nan(session_id)`: whether its logits are NaN in this pass."""
        self._vocab_size, self._seed, self._noise, self._order = vocab_size, seed, noise, order
        self._max_model_len, self._flops_per_token = max_model_len, flops_per_token
        self._delay_s, self._yields_nan = delay_s, yields_nan
        self._cells = CellPool(num_cells)
        self._tokens = array("q", [0]) * num_cells
        """The token a cell holds: this engine's KV."""

    def __repr__(self) -> str:
        return f"FakeEngine(vocab_size={self._vocab_size}, seed={self._seed}, noise={self._noise}, {self._cells})"

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def max_model_len(self) -> int:
        return self._max_model_len

    @property
    def num_cells(self) -> int:
        return self._cells.num_cells

    @property
    def num_free_cells(self) -> int:
        return self._cells.num_free_cells

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def flops_per_token(self) -> float:
        return self._flops_per_token

    def open(self, session_id: str, num_cells: int) -> None:
        self._cells.open(session_id, num_cells)

    def evaluate(self, parts: Sequence[Part]) -> torch.Tensor:
        sessions = self._cells.append(parts, self._max_model_len)
        if self._delay_s is not None:
            time.sleep(self._delay_s(sum(len(part.tokens) for part in parts)))
        rows = []
        for part, session in zip(parts, sessions, strict=True):
            first = len(session.tree) - len(part.tokens)
            for node, token in enumerate(part.tokens, start=first):
                self._tokens[session.tree[node]] = token
            nan = self._yields_nan is not None and self._yields_nan(part.session_id)
            for node in range(first + part.logits_from, len(session.tree)):
                rows.append(np.full(self._vocab_size, np.nan) if nan else self.logits_after(self._context(session, node)))
        logits = np.array(rows, dtype=np.float32).reshape(-1, self._vocab_size)
        return torch.from_numpy(logits)

    def advance(self, session_id: str, path: Sequence[int], survivors: Sequence[int] = ()) -> None:
        self._cells[session_id].advance(path, survivors)

    def trunk_length(self, session_id: str) -> int:
        return len(self._cells[session_id].trunk)

    def close(self, session_id: str) -> None:
        self._cells.close(session_id)

    def check_integrity(self) -> None:
        self._cells.check_integrity()

    def logits_after(self, tokens: Sequence[int]) -> NDArray[np.float64]:
        """Logits [V] after a sequence: what `evaluate` gives for its last token."""
        context = tokens[-self._order :]
        logits = _gumbel(sequence_id(context, self._seed), self._vocab_size)
        if self._noise:
            logits += self._noise * _gumbel(sequence_id(context, ~self._seed), self._vocab_size)
        return SHARPNESS * logits

    def held(self, session_id: str, node: int = TRUNK_END) -> list[int]:
        """The tokens of the cells that a tree node attends to, its own the last; or those of the trunk."""
        session = self._cells[session_id]
        path = [] if node == TRUNK_END else _path(session, node)
        return [self._tokens[cell] for cell in [*session.trunk, *path]]

    def _context(self, session: SessionCells, node: int) -> list[int]:
        """The last `order` tokens of the path to `node`."""
        cells = [*session.trunk[-self._order :], *_path(session, node)]
        return [self._tokens[cell] for cell in cells[-self._order :]]


def _path(session: SessionCells, node: int) -> list[int]:
    """The cells of a tree node's ancestors and its own."""
    return [cell for i, cell in enumerate(session.tree) if session.lineages[node] >> i & 1]


def _gumbel(key: int, size: int) -> NDArray[np.float64]:
    """`size` values with a standard Gumbel distribution; splitmix64 of a counter that starts at `key`."""
    counter = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key % 2**64)
    x = (counter ^ (counter >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    uniform = ((x >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    gumbel: NDArray[np.float64] = -np.log(-np.log(uniform))
    return gumbel

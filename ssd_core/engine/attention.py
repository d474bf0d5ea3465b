"""Tree attention over pooled KV, behind transformers' attention interface: any model that uses the interface runs on it.

The model sees the new nodes of all sessions as one sequence without padding; only this function knows that they are nodes of
several trees. What it needs to know is computed once per pass (`TreePass`), travels through the model as the keyword argument
`ssd_pass`, and is shared by all layers.

Shapes: N new nodes of the pass; B sessions of a group, n new nodes each at most; L trunk, T tree region (new nodes included),
S = L + T columns; H key-value heads, G query heads to each; D and E the widths of keys and values; W = H (D + E) numbers a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers import AttentionInterface

from ssd_core.engine.kv import SessionCells

ATTENTION_NAME = "ssd_tree"
MAX_PADDED_PAIRS = 1024
"""Pairs of query and key that a group may compute for nothing, where its sessions are padded to the longest. More of them cost more than a
second group's operations do (measured on a CPU with eight sessions of 300 tokens)."""
UNSEEN_OR_SEEN = np.array([-np.inf, 0.0], dtype=np.float32)
"""A mask's value by whether the node is seen."""


class Scoring(NamedTuple):
    """How a layer turns products of queries and keys into scores."""

    scaling: float
    window: int | None
    """A query at position p sees positions above p - window; None: all before it."""
    softcap: float | None


class CellShape(NamedTuple):
    """What a cell holds of one layer: the keys of all heads, then the values."""

    num_heads: int
    key_width: int
    value_width: int

    @property
    def num_keys(self) -> int:
        """Numbers of a cell that are keys, H*D."""
        return self.num_heads * self.key_width

    @property
    def size(self) -> int:
        """W."""
        return self.num_heads * (self.key_width + self.value_width)


class AttentionPass(Protocol):
    """What travels as `ssd_pass`."""

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scoring: Scoring) -> torch.Tensor:
        """query [1, H*G, N, D], key [1, H, N, D], value [1, H, N, E] -> [1, N, H*G, E]."""


def register_attention() -> None:
    """Make ATTENTION_NAME known to transformers. No mask function goes with it: for a name without one, models build no mask."""
    AttentionInterface.register(ATTENTION_NAME, _attention)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    ssd_pass: AttentionPass,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    layer = module.layer_idx
    assert isinstance(layer, int), layer
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return ssd_pass.attend(layer, query, key, value, Scoring(scale, sliding_window, softcap)), None


class Group:
    """Sessions that attend together, padded to the longest. One session alone is not padded."""

    def __init__(self, sessions: Sequence[SessionCells], num_new: Sequence[int], device: torch.device, dtype: torch.dtype) -> None:
        self.batch, self.new = len(sessions), max(num_new)
        self.trunk = max(len(session.trunk) for session in sessions)
        self.tree = max(len(session.tree) for session in sessions)
        self.num_new = num_new
        self._dtype, self._device = dtype, device
        self._sessions = sessions
        self.cells = self._gather_index()  # [B * S]
        self._masks: dict[tuple[int | None, int], torch.Tensor | None] = {}

    def _gather_index(self) -> torch.Tensor:
        """Cells by column. Padding repeats a cell of the same session: another's NaN must not get in even with weight 0."""
        if self.batch == 1:
            return torch.frombuffer(self._sessions[0].trunk + self._sessions[0].tree, dtype=torch.int64).to(self._device)
        cells = np.empty((self.batch, self.trunk + self.tree), dtype=np.int64)
        for row, session in zip(cells, self._sessions, strict=True):
            row[:] = session.tree[0]
            row[: len(session.trunk)] = session.trunk
            row[self.trunk : self.trunk + len(session.tree)] = session.tree
        return torch.from_numpy(cells.reshape(-1)).to(self._device)

    def mask(self, window: int | None, query_heads: int) -> torch.Tensor | None:
        """Additive, [B, 1, n*G, S]: 0 where row sees column, else -inf; None where everything is seen."""
        kind = (window, query_heads)
        if kind not in self._masks:
            self._masks[kind] = self._build_mask(window, query_heads)
        return self._masks[kind]

    def _build_mask(self, window: int | None, query_heads: int) -> torch.Tensor | None:
        if window is not None and all(len(s.trunk) + max(s.depths) < window for s in self._sessions):
            return self.mask(None, query_heads)
        if window is None and self.batch == self.new == self.tree == 1:
            return None
        mask = np.zeros((self.batch, self.new, self.trunk + self.tree), dtype=np.float32)
        mask[:, :, self.trunk :] = -np.inf
        for block, session, num_new in zip(mask, self._sessions, self.num_new, strict=True):
            block[:, len(session.trunk) : self.trunk] = -np.inf  # padding
            block[:num_new, self.trunk : self.trunk + len(session.tree)] = _visibility(session, num_new)
            block[num_new:] = block[num_new - 1]  # padding rows see as the last node does
            if window is not None:
                rows, columns = self._positions(session, num_new)
                block[rows[:, None] - columns >= window] = -np.inf
        once = torch.from_numpy(mask).to(self._device, self._dtype)[:, None, :, None]  # [B, 1, n, 1, S]
        return once.expand(-1, -1, -1, query_heads, -1).reshape(self.batch, 1, self.new * query_heads, -1)

    def _positions(self, session: SessionCells, num_new: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of the new nodes [n] and of the columns [S]; padding columns get any (they are masked), padding rows the last."""
        depths = np.array(session.depths) + len(session.trunk)
        columns = np.zeros(self.trunk + self.tree, dtype=np.int64)
        columns[: self.trunk] = np.arange(self.trunk)
        columns[self.trunk : self.trunk + len(depths)] = depths
        return np.pad(depths[-num_new:], (0, self.new - num_new), mode="edge"), columns

    def attend(self, pool: torch.Tensor, query: torch.Tensor, shape: CellShape, scoring: Scoring) -> torch.Tensor:
        """pool [cells, W], query [B*n, H*G, D] -> [B*n, H*G, E]."""
        num_rows, heads, _ = query.shape
        query_heads = heads // shape.num_heads
        # Query heads of one key-value head become rows of one matrix: keys and values are never expanded.
        folded = query.view(self.batch, self.new, shape.num_heads, query_heads, -1).transpose(1, 2)
        folded = folded.reshape(self.batch, shape.num_heads, self.new * query_heads, -1)
        cached = pool.index_select(0, self.cells)  # [B*S, W]
        keys = cached[:, : shape.num_keys].view(self.batch, -1, shape.num_heads, shape.key_width).transpose(1, 2)  # [B, H, S, D]
        values = cached[:, shape.num_keys :].view(self.batch, -1, shape.num_heads, shape.value_width).transpose(1, 2)
        mask = self.mask(scoring.window, query_heads)
        if scoring.softcap is None:
            out = F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask, scale=scoring.scaling)
        else:
            out = _soft_capped_attention(folded, keys, values, mask, scoring.scaling, scoring.softcap)
        out = out.view(self.batch, shape.num_heads, self.new, query_heads, -1).transpose(1, 2)
        return out.reshape(num_rows, heads, -1)


def _visibility(session: SessionCells, num_new: int) -> NDArray[np.float32]:
    """[n, T]: 0 where a new node sees a tree node, its ancestors and itself; else -inf."""
    num_bytes = len(session.tree) // 8 + 1
    lineages = b"".join(lineage.to_bytes(num_bytes, "little") for lineage in session.lineages[-num_new:])
    bits = np.unpackbits(np.frombuffer(lineages, np.uint8).reshape(num_new, -1), axis=1, count=len(session.tree), bitorder="little")
    return UNSEEN_OR_SEEN[bits]


def _soft_capped_attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, scaling: float, softcap: float
) -> torch.Tensor:
    """Gemma 2: scores pass through softcap * tanh(scores / softcap) before the mask."""
    scores = softcap * torch.tanh(query @ keys.transpose(2, 3) * (scaling / softcap))  # [B, H, G*n, S]
    if mask is not None:
        scores = scores + mask
    return scores.softmax(-1, dtype=torch.float32).to(query.dtype) @ values


def alike(num_new: Sequence[int], num_columns: Sequence[int]) -> list[list[int]]:
    """Sessions in groups that waste little on padding: indices, by falling number of new nodes."""
    groups: list[list[int]] = []
    columns = used_pairs = 0
    for i in sorted(range(len(num_new)), key=lambda i: (num_new[i], num_columns[i]), reverse=True):
        widest, pairs = max(columns, num_columns[i]), num_new[i] * num_columns[i]
        if groups and (len(groups[-1]) + 1) * num_new[groups[-1][0]] * widest - used_pairs - pairs <= MAX_PADDED_PAIRS:
            groups[-1].append(i)
            columns, used_pairs = widest, used_pairs + pairs
        else:
            groups.append([i])
            columns, used_pairs = num_columns[i], pairs
    return groups


class TreePass:
    """One pass over the new nodes of several sessions (already appended to their tree regions)."""

    def __init__(
        self, pools: Sequence[torch.Tensor], shapes: Sequence[CellShape], sessions: Sequence[SessionCells], num_new: Sequence[int]
    ) -> None:
        """By layer: `pools` [cells, W] and `shapes`. By session: `num_new` nodes at the end of its tree region."""
        self._pools, self._shapes = pools, shapes
        device, dtype = pools[0].device, pools[0].dtype
        members = alike(num_new, [len(session.trunk) + len(session.tree) for session in sessions])
        self._groups = [Group([sessions[i] for i in of], [num_new[i] for i in of], device, dtype) for of in members]
        self._rows: list[torch.Tensor] = []
        if len(sessions) == 1:
            self._written = self._groups[0].cells[-num_new[0] :]  # [N]
        else:
            self._written = torch.tensor([cell for s, n in zip(sessions, num_new, strict=True) for cell in s.tree[-n:]], device=device)
            self._index_rows(members, num_new, device)

    def _index_rows(self, members: Sequence[Sequence[int]], num_new: Sequence[int], device: torch.device) -> None:
        """Where the rows of each group's padded [B * n] come from, and where the N rows are found in all groups' outputs."""
        first = np.cumsum([0, *num_new])
        back = np.empty(first[-1], dtype=np.int64)
        offset = 0
        for group, of in zip(self._groups, members, strict=True):
            rows = np.empty((group.batch, group.new), dtype=np.int64)
            for row, i in zip(rows, of, strict=True):
                row[:] = first[i + 1] - 1  # padding repeats the session's last row
                row[: num_new[i]] = np.arange(first[i], first[i + 1])
                back[first[i] : first[i + 1]] = offset + np.arange(num_new[i])
                offset += group.new
            self._rows.append(torch.from_numpy(rows.reshape(-1)).to(device))
        self._back = torch.from_numpy(back).to(device)  # [N]

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scoring: Scoring) -> torch.Tensor:
        """See AttentionPass."""
        self.write(layer, torch.cat((key[0].transpose(0, 1).flatten(1), value[0].transpose(0, 1).flatten(1)), -1))
        return self.read(layer, query[0].transpose(0, 1), scoring)[None]

    def write(self, layer: int, keys_values: torch.Tensor) -> None:
        """keys_values [N, W] of the new nodes."""
        self._pools[layer].index_copy_(0, self._written, keys_values)

    def read(self, layer: int, query: torch.Tensor, scoring: Scoring) -> torch.Tensor:
        """query [N, H*G, D] -> [N, H*G, E]."""
        pool, shape = self._pools[layer], self._shapes[layer]
        if not self._rows:
            return self._groups[0].attend(pool, query, shape, scoring)
        outputs = [
            group.attend(pool, query.index_select(0, rows), shape, scoring) for group, rows in zip(self._groups, self._rows, strict=True)
        ]
        return torch.cat(outputs).index_select(0, self._back)


class ShapeProbe:
    """A pass that computes nothing and notes what the layers ask for. Attention's output is zeros of the right shape."""

    def __init__(self) -> None:
        self.shapes: dict[int, CellShape] = {}
        self.windows: dict[int, int | None] = {}

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scoring: Scoring) -> torch.Tensor:
        self.shapes[layer] = CellShape(key.shape[1], key.shape[3], value.shape[3])
        self.windows[layer] = scoring.window
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3])

"""Tree attention over pooled KV, behind transformers' attention interface: any model that uses the interface runs on it.

The model sees the new nodes of all sessions as one sequence without padding; only this function knows that they are nodes of
several trees. What it needs to know is computed once per pass (`TreePass`), travels through the model as the keyword argument
`ssd_pass`, and is shared by all layers.

Shapes: N new nodes of the pass; B sessions of a group, n new nodes each at most; L trunk, T tree region (new nodes included),
S = L + T columns; H key-value heads, G query heads to each; D and E the widths of keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers import AttentionInterface

from ssd_core.engine.base import TRUNK_END
from ssd_core.engine.kv import SessionCells

ATTENTION_NAME = "ssd_tree"
LONG_PART_NODES = 48
"""Parts longer than this attend alone: padding the other sessions to a prompt chunk's length would cost more than a second call."""


class Scoring(NamedTuple):
    """How a layer turns products of queries and keys into scores."""

    scaling: float
    window: int | None
    """A query at position p sees positions above p - window; None: all before it."""
    softcap: float | None


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
        """Additive, [B, 1, G*n, S]: 0 where row sees column, else -inf; None where everything is seen."""
        kind = (window, query_heads)
        if kind not in self._masks:
            self._masks[kind] = self._build_mask(window, query_heads)
        return self._masks[kind]

    def _build_mask(self, window: int | None, query_heads: int) -> torch.Tensor | None:
        if window is not None and all(len(s.trunk) + max(s.depths) < window for s in self._sessions):
            return self.mask(None, query_heads)
        if window is None and self.batch == self.new == self.tree == 1:
            return None
        tree = np.full((self.batch, self.new, self.tree), -np.inf, dtype=np.float32)
        for block, session, num_new in zip(tree, self._sessions, self.num_new, strict=True):
            _show_ancestors(block, session, num_new)
        mask = torch.zeros(self.batch, self.new, self.trunk + self.tree, dtype=self._dtype, device=self._device)
        mask[:, :, self.trunk :] = torch.from_numpy(tree)
        if self.batch > 1:
            lengths = torch.tensor([len(session.trunk) for session in self._sessions], device=self._device)
            is_padding = torch.arange(self.trunk, device=self._device) >= lengths[:, None]  # [B, L]
            mask[:, :, : self.trunk].masked_fill_(is_padding[:, None], -torch.inf)
        if window is not None:
            rows, columns = self._positions()
            mask.masked_fill_(rows[:, :, None] - columns[:, None] >= window, -torch.inf)
        return mask.repeat(1, query_heads, 1)[:, None]

    def _positions(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the new nodes [B, n] and of the columns [B, S]; padding columns get any (they are masked), padding rows the last."""
        rows = np.zeros((self.batch, self.new), dtype=np.int64)
        columns = np.zeros((self.batch, self.trunk + self.tree), dtype=np.int64)
        columns[:, : self.trunk] = np.arange(self.trunk)
        for row, column, session, num_new in zip(rows, columns, self._sessions, self.num_new, strict=True):
            depths = np.array(session.depths) + len(session.trunk)
            column[self.trunk : self.trunk + len(depths)] = depths
            row[:num_new], row[num_new:] = depths[-num_new:], depths[-1]
        return torch.from_numpy(rows).to(self._device), torch.from_numpy(columns).to(self._device)

    def attend(self, pool: torch.Tensor, query: torch.Tensor, widths: tuple[int, int], scoring: Scoring) -> torch.Tensor:
        """pool [cells, H, D+E], query [H*G, B*n, D] -> [B*n, H*G, E]."""
        heads, rows, _ = query.shape
        num_kv_heads = pool.shape[1]
        query_heads = heads // num_kv_heads
        # Query heads of one key-value head become rows of one matrix: keys and values are never expanded.
        if self.batch == 1:
            folded = query.reshape(1, num_kv_heads, query_heads * rows, -1)
        else:
            folded = query.view(num_kv_heads, query_heads, self.batch, self.new, -1).permute(2, 0, 1, 3, 4)
            folded = folded.reshape(self.batch, num_kv_heads, query_heads * self.new, -1)
        cached = pool.index_select(0, self.cells).view(self.batch, -1, num_kv_heads, sum(widths)).transpose(1, 2)  # [B, H, S, D+E]
        keys, values = cached.split(widths, dim=-1)
        mask = self.mask(scoring.window, query_heads)
        if scoring.softcap is None:
            out = F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask, scale=scoring.scaling)
        else:
            out = _soft_capped_attention(folded, keys, values, mask, scoring.scaling, scoring.softcap)
        return out.reshape(self.batch, heads, self.new, -1).transpose(1, 2).reshape(rows, heads, -1)


def _show_ancestors(block: NDArray[np.float32], session: SessionCells, num_new: int) -> None:
    """Write 0 to block [n, T] where a new node sees a tree node: its ancestors and itself. Padding rows see as the last node does."""
    num_old = len(session.tree) - num_new
    parents = session.parents[num_old:]
    if parents[1:] == list(range(num_old, num_old + num_new - 1)):  # a chain, prompt chunks above all
        block[:, session.ancestors(parents[0])] = 0
        block[:num_new, num_old : num_old + num_new][np.tri(num_new, dtype=bool)] = 0
    else:
        for row, parent in enumerate(parents):
            own = num_old + row
            if parent >= num_old:
                block[row] = block[parent - num_old]
            elif parent != TRUNK_END:
                block[row, session.ancestors(parent)] = 0
            block[row, own] = 0
    block[num_new:] = block[num_new - 1]


def _soft_capped_attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, scaling: float, softcap: float
) -> torch.Tensor:
    """Gemma 2: scores pass through softcap * tanh(scores / softcap) before the mask."""
    scores = softcap * torch.tanh(query @ keys.transpose(2, 3) * (scaling / softcap))  # [B, H, G*n, S]
    if mask is not None:
        scores = scores + mask
    return scores.softmax(-1, dtype=torch.float32).to(query.dtype) @ values


class TreePass:
    """One pass over the new nodes of several sessions (already appended to their tree regions)."""

    def __init__(
        self, pools: Sequence[torch.Tensor], widths: Sequence[tuple[int, int]], sessions: Sequence[SessionCells], num_new: Sequence[int]
    ) -> None:
        """By layer: `pools` [cells, H, D+E] and `widths` (D, E). By session: `num_new` nodes at the end of its tree region."""
        self._pools, self._widths = pools, widths
        device, dtype = pools[0].device, pools[0].dtype
        written = [cell for session, n in zip(sessions, num_new, strict=True) for cell in session.tree[-n:]]
        self._written = torch.tensor(written, device=device)  # [N]
        together = [i for i, n in enumerate(num_new) if n <= LONG_PART_NODES]
        members = [[i] for i, n in enumerate(num_new) if n > LONG_PART_NODES] + ([together] if together else [])
        self._groups = [Group([sessions[i] for i in of], [num_new[i] for i in of], device, dtype) for of in members]
        self._rows: list[torch.Tensor] = []
        if len(sessions) > 1:
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
        pool, widths = self._pools[layer], self._widths[layer]
        pool.index_copy_(0, self._written, torch.cat((key, value), -1)[0].transpose(0, 1))
        if not self._rows:
            return self._groups[0].attend(pool, query[0], widths, scoring)[None]
        outputs = [
            group.attend(pool, query[0].index_select(1, rows), widths, scoring)
            for group, rows in zip(self._groups, self._rows, strict=True)
        ]
        return torch.cat(outputs).index_select(0, self._back)[None]


class ShapeProbe:
    """A pass that computes nothing and notes what the layers ask for. Attention's output is zeros of the right shape."""

    def __init__(self) -> None:
        self.shapes: dict[int, tuple[int, int, int]] = {}
        """layer -> H, D, E."""
        self.windows: dict[int, int | None] = {}

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scoring: Scoring) -> torch.Tensor:
        self.shapes[layer] = (key.shape[1], key.shape[3], value.shape[3])
        self.windows[layer] = scoring.window
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3])

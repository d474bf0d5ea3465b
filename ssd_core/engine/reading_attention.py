"""Attention of a pass that reads a piece of a prompt, by torch's own kernels: no tree, only a causal mask, and rows enough for a library.

A graph holds it, so how long the piece and the trunk before it are is told by numbers on the device.

Shapes: M rows of the pass, at most K keys; Q query heads, H key-value heads, D their width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right


class ReadingAttention:
    """The same for every layer but for its pool."""

    def __init__(
        self,
        trunk: torch.Tensor,
        trunk_length: torch.Tensor,
        piece: torch.Tensor,
        piece_length: torch.Tensor,
        query: torch.Tensor,
        attended: torch.Tensor,
        num_heads: int,
        scaling: float,
    ) -> None:
        """Cells of the trunk [K] and the piece [M], in order, and how many of them there are [1]: together at most K. query [M, Q D], and
        attended [M, Q D] to write to; H = num_heads."""
        place = torch.arange(len(trunk), device=trunk.device)
        own = piece[(place - trunk_length).clamp(0, len(piece) - 1)]
        self._cells = torch.where(place < trunk_length, trunk, own)
        nothing = torch.zeros_like(piece_length)
        self._query_ends = torch.cat([nothing, piece_length])
        self._key_ends = torch.cat([nothing, trunk_length + piece_length])
        self._query, self._attended, self._num_heads, self._scaling = query, attended, num_heads, scaling

    def __call__(self, pool: torch.Tensor) -> None:
        """pool [cells, 2 H D]: a cell's keys, then its values."""
        keys, values = pool.index_select(0, self._cells).view(len(self._cells), 2, self._num_heads, -1).unbind(1)  # [K, H, D]
        query = self._query.view(len(self._query), -1, keys.shape[-1])  # [M, Q, D]
        attend = self._on_device if query.is_cuda else self._on_host
        self._attended.view_as(query).copy_(attend(query, keys, values))

    def _on_device(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Flash attention, of one text. The operator behind torch.nn.attention.varlen.varlen_attn, whose arguments change with torch's
        versions where several query heads share keys. Rows beyond the piece are left as they are."""
        attended: torch.Tensor = torch.ops.aten._flash_attention_forward(
            query,
            keys,
            values,
            self._query_ends,
            self._key_ends,
            len(query),
            len(keys),
            0.0,  # dropout
            True,  # causal: the last query sees the last key
            False,
            scale=self._scaling,
        )[0]
        return attended

    def _on_host(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        num_tokens, num_keys = int(self._query_ends[1]), int(self._key_ends[1])
        query, keys, values = (x[None].transpose(1, 2) for x in (query[:num_tokens], keys[:num_keys], values[:num_keys]))
        mask = causal_lower_right(num_tokens, num_keys)
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=self._scaling, enable_gqa=True)
        return F.pad(attended[0].transpose(0, 1), (0, 0, 0, 0, 0, len(self._query) - num_tokens))

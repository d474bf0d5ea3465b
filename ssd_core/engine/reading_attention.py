"""Attention of a pass that reads a piece of a prompt, by torch's own kernels: no tree, only a causal mask, and rows enough for a library.

Shapes: N tokens of the piece, T with those of the trunk before it; M rows of the pass, at least N; Q query heads, H key-value heads, D
their width.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right


def without_compiling() -> AbstractContextManager[None]:
    """In which attention is flash attention where the device has it; not cuDNN's, which compiles for every new length."""
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])


class ReadingAttention:
    """The same for every layer but for its pool."""

    def __init__(
        self, cells: torch.Tensor, query: torch.Tensor, attended: torch.Tensor, num_tokens: int, num_heads: int, scaling: float
    ) -> None:
        """cells [T] of trunk and piece, in order; query [M, Q D], and attended [M, Q D] to write to; H = num_heads."""
        self._cells, self._num_heads, self._scaling = cells, num_heads, scaling
        self._query, self._attended = query[:num_tokens], attended[:num_tokens]
        self._mask = causal_lower_right(num_tokens, len(cells))

    def __call__(self, pool: torch.Tensor) -> None:
        """pool [cells, 2 H D]: a cell's keys, then its values."""
        keys, values = pool.index_select(0, self._cells).view(len(self._cells), 2, self._num_heads, -1).permute(1, 2, 0, 3)  # [H, T, D]
        width = keys.shape[-1]
        query = self._query.view(len(self._query), -1, width).transpose(0, 1)  # [Q, N, D]
        attended = F.scaled_dot_product_attention(
            query[None], keys[None], values[None], attn_mask=self._mask, scale=self._scaling, enable_gqa=True
        )
        self._attended.view(len(self._query), -1, width).copy_(attended[0].transpose(0, 1))

"""Counter-based Gumbel noise: G(seed, position, token), the same in every process and on every device.

Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") with counter (token // 4, position, 0, 0) and the
seed as key; word `token % 4` of the result becomes a uniform in (0, 1), and -log(-log u) a standard Gumbel. V = vocabulary, P = positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

_MASK32 = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_BLOCK_POSITIONS = 16  # noise is made for this many positions at once: fewer, larger operations


def philox(counter: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], seed: int) -> tuple[torch.Tensor, ...]:
    """Four words of 32 random bits for each counter, as int64 tensors of the counters' broadcast shape."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed & _MASK32, (seed >> 32) & _MASK32
    for _ in range(_ROUNDS):
        # The 64-bit product wraps in int64; its two halves are still right.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) & _MASK32) ^ c1 ^ k0, p1 & _MASK32, ((p0 >> 32) & _MASK32) ^ c3 ^ k1, p0 & _MASK32
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK32, (k1 + _KEY_STEPS[1]) & _MASK32
    return c0, c1, c2, c3


def gumbel(seed: int, positions: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Float32 noise [P, V] for int64 `positions` [P]."""
    blocks = torch.arange((vocab_size + 3) // 4, device=positions.device)[None, :]
    zero = torch.zeros((), dtype=torch.int64, device=positions.device)
    words = torch.stack(philox((blocks, positions[:, None], zero, zero), seed), dim=-1)
    uniform = (words.flatten(1)[:, :vocab_size].double() + 0.5) * 2.0**-32
    return uniform.log_().neg_().log_().neg_().float()


class NoiseCache:
    """One session's noise, made a block of positions at a time and forgotten behind the committed end."""

    def __init__(self, seed: int, vocab_size: int, device: torch.device) -> None:
        self._seed = seed
        self._vocab_size = vocab_size
        self._device = device
        self._blocks: dict[int, torch.Tensor] = {}

    def rows(self, positions: Sequence[int]) -> torch.Tensor:
        """Noise [P, V] for the given positions."""
        return torch.stack([self._block(p // _BLOCK_POSITIONS)[p % _BLOCK_POSITIONS] for p in positions])

    def forget_before(self, position: int) -> None:
        first = position // _BLOCK_POSITIONS
        for block in [b for b in self._blocks if b < first]:
            del self._blocks[block]

    def _block(self, block: int) -> torch.Tensor:
        if block not in self._blocks:
            start = block * _BLOCK_POSITIONS
            positions = torch.arange(start, start + _BLOCK_POSITIONS, device=self._device)
            self._blocks[block] = gumbel(self._seed, positions, self._vocab_size)
        return self._blocks[block]

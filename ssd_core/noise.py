"""Counter-based Gumbel noise: G(seed, position, token), the same in every process and on every device.

Philox-4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") with counter (token // 8 + 1, position, 0, 0) and key
(seed, 0): what numpy's generator gives from counter (0, position, 0, 0) on, since it counts before it draws. Its four words of 64 bits
are eight numbers of 32, lower half first; number `token % 8` becomes a uniform in (0, 1), and -log(-log u) a standard Gumbel.
Rejection sampling needs decisions that are independent of that noise and of each other: `uniform` takes them from other keys.

V = vocabulary, P = positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ssd_core.fast_path import has_fast_path

_MASK32, _MASK64 = 2**32 - 1, 2**64 - 1
MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
KEY_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
ROUNDS = 10
DRAW, ACCEPT = 1, 2
"""Second word of the key: what the draft draws, and whether the target accepts it. The shared noise has 0."""
_BLOCK_POSITIONS = 16  # on a GPU noise is made for this many positions at once: its operations are small, their launches are not

Words = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def philox(counter: Words, key: tuple[int, int]) -> Words:
    """Four words of 64 random bits for each counter, as int64 tensors of the counters' broadcast shape."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        high0, low0 = _product(c0, MULTIPLIERS[0])
        high1, low1 = _product(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ _signed(k0), low1, high0 ^ c3 ^ _signed(k1), low0
        k0, k1 = (k0 + KEY_STEPS[0]) & _MASK64, (k1 + KEY_STEPS[1]) & _MASK64
    return c0, c1, c2, c3


def _product(a: torch.Tensor, b: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Upper and lower 64 bits of the unsigned 128-bit product. int64 wraps, and its bits are those of the unsigned number."""
    a0, a1, b0, b1 = a & _MASK32, _upper(a), b & _MASK32, b >> 32
    middle = a1 * b0 + _upper(a0 * b0)
    return a1 * b1 + _upper(middle) + _upper(a0 * b1 + (middle & _MASK32)), a * _signed(b)


def _upper(x: torch.Tensor) -> torch.Tensor:
    return (x >> 32) & _MASK32


def _signed(x: int) -> int:
    return x - 2**64 if x >> 63 else x


def gumbel(seed: int, positions: Sequence[int], vocab_size: int, device: torch.device) -> torch.Tensor:
    """Float32 noise [P, V]."""
    if device.type == "cpu":
        return torch.from_numpy(np.array([_gumbel_row(seed, position, vocab_size) for position in positions]))
    if has_fast_path(device):
        from ssd_core.noise_kernel import gumbel_by_triton

        return gumbel_by_triton(seed, torch.tensor(positions, device=device), vocab_size)
    return gumbel_by_torch(seed, torch.tensor(positions, device=device), vocab_size)


def gumbel_by_torch(seed: int, positions: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """The same for int64 `positions` [P], on their device, whichever it is."""
    blocks = torch.arange(1, (vocab_size + 7) // 8 + 1, device=positions.device)[None, :]
    zero = torch.zeros((), dtype=torch.int64, device=positions.device)
    words = philox((blocks, positions[:, None], zero, zero), (seed, 0))
    halves = torch.stack([half for word in words for half in (word & _MASK32, _upper(word))], dim=-1)
    uniform = (halves.flatten(1)[:, :vocab_size].double() + 0.5) * 2.0**-32
    return uniform.log_().neg_().log_().neg_().float()


def _gumbel_row(seed: int, position: int, vocab_size: int) -> NDArray[np.float32]:
    """[V], in numpy: on a CPU its generator and its logarithm take a third of the time that torch's operations take."""
    words = np.random.Philox(counter=[0, position, 0, 0], key=[seed, 0]).random_raw((vocab_size + 1) // 2)
    numbers = (words.astype("<u8", copy=False).view("<u4")[:vocab_size] + 0.5) * 2.0**-32
    np.negative(np.log(numbers, out=numbers), out=numbers)
    return np.negative(np.log(numbers, out=numbers), out=numbers).astype(np.float32)


def uniform(seed: int, place: int, stream: int) -> float:
    """A number in (0, 1), independent for every seed, place (a node's id or a position, below 2^64) and stream (DRAW or ACCEPT)."""
    counter = np.array([0, place, 0, 0], dtype=np.uint64)  # a list with a number of 64 bits would go through float64
    word = int(np.random.Philox(counter=counter, key=[seed, stream]).random_raw())
    return ((word >> 11) + 0.5) * 2.0**-53


class NoiseCache:
    """One session's noise, made when it is asked for and forgotten behind the committed end."""

    def __init__(self, seed: int, vocab_size: int, device: torch.device) -> None:
        self._seed = seed
        self._vocab_size = vocab_size
        self._device = device
        self._size = 1 if device.type == "cpu" else _BLOCK_POSITIONS
        self._blocks: dict[int, torch.Tensor] = {}

    def row(self, position: int) -> torch.Tensor:
        """[V]"""
        return self._block(position // self._size)[position % self._size]

    def forget_before(self, position: int) -> None:
        first = position // self._size
        for block in [b for b in self._blocks if b < first]:
            del self._blocks[block]

    def _block(self, block: int) -> torch.Tensor:
        if block not in self._blocks:
            positions = range(block * self._size, (block + 1) * self._size)
            self._blocks[block] = gumbel(self._seed, positions, self._vocab_size, self._device)
        return self._blocks[block]

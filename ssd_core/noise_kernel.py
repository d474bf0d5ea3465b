"""Philox and Gumbel noise (see noise.py) as one Triton kernel: by torch's operations it is three hundred launches."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ssd_core import noise

M0, M1 = map(tl.constexpr, noise.MULTIPLIERS)
K0, K1 = map(tl.constexpr, noise.KEY_STEPS)
ROUNDS = tl.constexpr(noise.ROUNDS)
COUNTERS = 256
"""That one program counts: each gives the numbers of eight tokens."""


@triton.jit(do_not_specialize=["seed"])
def _gumbel(positions, out, seed, vocab_size, COUNTERS: tl.constexpr):
    """out [P, V]. One program a position and share of the vocabulary."""
    row = tl.program_id(0)
    block = tl.program_id(1) * COUNTERS + tl.arange(0, COUNTERS)
    c0 = (block + 1).to(tl.uint64)
    c1 = tl.zeros_like(c0) + tl.load(positions + row).to(tl.uint64)
    c2 = tl.zeros_like(c0)
    c3 = tl.zeros_like(c0)
    k0 = tl.zeros_like(c0) + seed.to(tl.uint64)
    k1 = tl.zeros_like(c0)
    for _ in tl.static_range(ROUNDS):
        high0, low0 = tl.umulhi(c0, M0), c0 * M0
        high1, low1 = tl.umulhi(c2, M1), c2 * M1
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 += K0
        k1 += K1
    at, token = out + row.to(tl.int64) * vocab_size, 8 * block
    _store(at, token, c0, vocab_size)
    _store(at, token + 2, c1, vocab_size)
    _store(at, token + 4, c2, vocab_size)
    _store(at, token + 6, c3, vocab_size)


@triton.jit
def _store(at, token, word, vocab_size):
    """The noise of two tokens, of the lower and the upper half of a word."""
    tl.store(at + token, _noise_of(word & 0xFFFFFFFF), mask=token < vocab_size)
    tl.store(at + token + 1, _noise_of(word >> 32), mask=token + 1 < vocab_size)


@triton.jit
def _noise_of(number):
    uniform = (number.to(tl.float64) + 0.5) * (1.0 / 4294967296.0)
    return (-tl.log(-tl.log(uniform))).to(tl.float32)


def gumbel_by_triton(seed: int, positions: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Float32 noise [P, V] for int64 `positions` [P], on their device."""
    out = torch.empty(len(positions), vocab_size, dtype=torch.float32, device=positions.device)
    num_programs = triton.cdiv(triton.cdiv(vocab_size, 8), COUNTERS)
    _gumbel[(len(positions), num_programs)](positions, out, seed, vocab_size, COUNTERS=COUNTERS)
    return out

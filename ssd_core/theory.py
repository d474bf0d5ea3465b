"""What speculation can gain, as formulas. Pure arithmetic, for the planner and for the choice of a backup.

Theorems and corollaries: Kumar, Dao, May, "Speculative Speculative Decoding", arXiv 2603.03251. Letters there and here: p hit rate;
E expected tokens of a round, its bonus token included; T times *in units of one verify*: T_p of growing the next speculation, T_b of the
backup on a miss, T_SD of drafting while the target waits; b sessions in a batch. Speeds are tokens per verify, so they are speed-ups over
plain decoding, whose verify gives one token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Backup(NamedTuple):
    """What stands in for the speculation after a miss."""

    tokens: float
    """E_miss: at least 1, which is what a round without speculation gives."""
    time: float
    """T_b; 0 where it needs no model."""


class Scheme(NamedTuple):
    """Speculation while the target verifies, with a backup for misses."""

    hit_rate: float
    hit_tokens: float
    growth_time: float
    """T_p. Up to 1 it is hidden behind the verify."""
    backup: Backup

    @property
    def tokens_per_round(self) -> float:
        return self.hit_rate * self.hit_tokens + (1 - self.hit_rate) * self.backup.tokens


class Bounds(NamedTuple):
    low: float
    high: float


def chain_tokens(acceptance: float, lookahead: int) -> float:
    """Expected tokens of a round with a chain of K, each accepted with probability a if those before it were:
    sum of a^k for k = 0 ... K = (1 - a^(K+1)) / (1 - a); K + 1 for a = 1. Leviathan et al. 2023, eq. 1."""
    if acceptance == 1:
        return lookahead + 1.0
    return (1.0 - acceptance ** (lookahead + 1)) / (1 - acceptance)


def accepted_tokens(accepted_per_position: Sequence[float]) -> float:
    """The same from measured shares of rounds that accepted at least 1, 2, ... tokens: E = 1 + sum of P(accepted >= k). Holds for trees,
    too: the position is the depth."""
    return 1 + sum(accepted_per_position)


def sd_speed(tokens: float, draft_time: float) -> float:
    """E_SD / (1 + T_SD): target and draft take turns."""
    return tokens / (1 + draft_time)


def ssd_speed(scheme: Scheme) -> float:
    """Theorem 7: [p E_hit + (1-p) E_miss] / [p max(1, T_p) + (1-p) (1 + T_b)]. A hit costs the longer of verify and growth, a miss a verify
    and the backup. Also each session's speed in a batch whose sessions do not wait for each other's misses."""
    return synchronous_speed(scheme, 1)


def synchronous_speed(scheme: Scheme, batch: float) -> float:
    """Corollary 16: the batch goes on together, so one miss makes all wait for the backup, and all hit with p^b:
    [p E_hit + (1-p) E_miss] / [p^b max(1, T_p) + (1 - p^b) (1 + T_b)]."""
    all_hit: float = scheme.hit_rate**batch
    return scheme.tokens_per_round / (all_hit * max(1.0, scheme.growth_time) + (1 - all_hit) * (1 + scheme.backup.time))


def gain_over_sd(hit_rate: float, hit_tokens: float, sd_tokens: float, sd_draft_time: float) -> Bounds:
    """Corollary 9: (1 + T_SD) / (1 + T_SD (1-p)) * E_hit / E_SD <= gain <= (1 + T_SD) E_hit / E_SD. A draft that takes no time leaves
    nothing to hide: both ends meet at E_hit / E_SD."""
    ratio = hit_tokens / sd_tokens
    return Bounds((1 + sd_draft_time) / (1 + sd_draft_time * (1 - hit_rate)) * ratio, (1 + sd_draft_time) * ratio)


def free_drafting_bound(tokens: float, verify_s: float) -> float:
    """Tokens/s if drafting were free and instant: E[tokens of a round] / T_verify(n), n being the nodes that give so many tokens."""
    return tokens / verify_s


def critical_batch(hit_rate: float, hit_tokens: float, growth_time: float, fast: Backup, slow: Backup) -> float:
    """b* of a batch that goes on together (Corollary 16; that it exists is Theorem 17): in larger ones the fast backup gives more tokens
    per time, in smaller ones the slow one. Infinite where the slow one is never worse, 0 where the fast one is better at any size.

    With q = p^b, M = max(1, T_p), N = p E_hit + (1-p) E_miss of each backup, the slow one is better while
        D(q) = N_slow [q M + (1-q) (1 + T_fast)] - N_fast [q M + (1-q) (1 + T_slow)] > 0.
    D is linear in q, with D(0) = N_slow (1 + T_fast) - N_fast (1 + T_slow) and D(1) = M (N_slow - N_fast). A growing batch leads q from p
    down to 0. If D(0) >= 0, the slow one stays better however large the batch. Else D = 0 at q* = D(0) / (D(0) - D(1)), which lies in
    (0, 1) if D(1) > 0, and b* = ln q* / ln p.
    """
    assert 0 <= hit_rate <= 1 and fast.time <= slow.time, (hit_rate, fast, slow)
    if hit_rate == 1:
        return math.inf  # no misses: they are alike
    fast_tokens, slow_tokens = (hit_rate * hit_tokens + (1 - hit_rate) * backup.tokens for backup in (fast, slow))
    at_zero = slow_tokens * (1 + fast.time) - fast_tokens * (1 + slow.time)
    at_one = max(1.0, growth_time) * (slow_tokens - fast_tokens)
    if at_zero >= 0:
        return math.inf
    if at_one <= 0 or hit_rate == 0:
        return 0.0
    return math.log(at_zero / (at_zero - at_one)) / math.log(hit_rate)

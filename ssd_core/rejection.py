"""Rejection sampling, the second way to exactness (Leviathan et al. 2023, Chen et al. 2023; algorithm of the SSD paper). Chains only.

A draft token x ~ q is accepted with probability min(1, p(x) / q(x)). After the first rejection the next token is drawn from
norm(max(p - q, 0)), after full acceptance from p. Then every token is a sample of the target's p, whatever q is, as long as q is what the
draft really drew from: that is why q travels with the token, and why it is exactly sparse (the draft's M likeliest tokens, renormalised).

Saguaro sampling (Kumar, Dao, May 2026, Def. 14) takes weight from the draft's F likeliest tokens: q(t) ~ C exp(y_t / T) there. The residual
p - q then lies on them, and they are the ones that the draft has prepared for: more hits, fewer acceptances.

Three decisions at a position are taken with independent noise: what the draft draws, whether the target accepts it, what it takes instead.
M = the draft's candidates, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ssd_core.noise import ACCEPT, DRAW, uniform
from ssd_core.types import Draw, NodeId

NUM_DRAWN_FROM = 64
"""M: beyond it a draft's distribution has hardly anything, and each costs twelve bytes on the wire."""


def draft_distribution(scores: Sequence[float], num_scaled: int, scale: float) -> NDArray[np.float64]:
    """q [M] over the draft's likeliest tokens, `scores` (logits / T) falling, -inf for what is not allowed: their softmax, with the first
    `num_scaled` times `scale` (F and C of Saguaro sampling; C = 1 leaves all as it is)."""
    weights = np.exp(np.asarray(scores, dtype=np.float64) - scores[0])
    scaled = weights.copy()
    scaled[:num_scaled] *= scale
    if scaled.sum() == 0.0:  # C = 0, and nothing is allowed but the first F
        scaled = weights
    q: NDArray[np.float64] = scaled / scaled.sum()
    return q


def draw(parent: NodeId, tokens: Sequence[int], q: NDArray[np.float64], seed: int) -> Draw:
    """What follows `parent` in the session with this seed: one of `tokens` [M] with their probabilities q [M].

    Each node has noise of its own: which outcomes a draft prepares for may hang on what it drew along other paths, and must tell nothing
    of what it will draw there."""
    index = min(int(np.searchsorted(np.cumsum(q), uniform(seed, parent, DRAW), side="right")), int(np.flatnonzero(q)[-1]))
    allowed = q > 0.0
    kept = [token for token, is_allowed in zip(tokens, allowed, strict=True) if is_allowed]
    return Draw(parent, tokens[index], tuple(kept), tuple(q[allowed].tolist()))


def is_accepted(p_of_token: float, q_of_token: float, position: int, seed: int) -> bool:
    """Whether the token drawn with probability `q_of_token` stands: with probability min(1, p / q)."""
    return uniform(seed, position, ACCEPT) * q_of_token < p_of_token


def residual(p: torch.Tensor, tokens: Sequence[int], q: Sequence[float]) -> torch.Tensor:
    """max(p - q, 0), not normalised, [V]; q is sparse. p itself where rounding leaves nothing of the difference."""
    rest = p.clone()
    rest[list(tokens)] -= torch.tensor(q, dtype=p.dtype, device=p.device)
    rest.clamp_(min=0.0)
    return rest if bool(rest.any()) else p


def sample(weights: torch.Tensor, gumbel: torch.Tensor) -> int:
    """A token with probability in proportion to `weights` [V], by the Gumbel-max rule with noise `gumbel` [V]."""
    return int((weights.log() + gumbel).argmax())

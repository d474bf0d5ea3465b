"""Edge probabilities, learned on line: how surely does the target follow the draft's scores?

The draft's score of a token is `w = y + T G` (its own logits with the shared noise). If the target's logits differ from the draft's by
errors of scale c, the target's choice is distributed about as softmax(w / c). c is not known beforehand; the scale with the least
log loss over recent outcomes is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_core.tree import Candidates

_SCALES = np.array((0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0))
_START = _SCALES.tolist().index(1.0)
_DECAY = 0.995  # remembers some two hundred outcomes
_MISS_PROBABILITY = 1e-3  # charged alike to every scale when the choice was not among the candidates


class EdgeCalibration:
    def __init__(self) -> None:
        self._losses = np.zeros(len(_SCALES))
        self._best = _START
        self.num_observed = 0

    @property
    def scale(self) -> float:
        """Edge probabilities are softmax(scores / scale)."""
        return float(_SCALES[self._best])

    def observe(self, choices: Sequence[tuple[Candidates, int]]) -> None:
        """The target chose each token after a node whose evaluation had proposed these candidates."""
        ranks = [candidates.tokens.index(token) if token in candidates.tokens else None for candidates, token in choices]
        scores = np.array([candidates.scores for candidates, _ in choices])[:, None]  # [choices, 1, candidates]
        probabilities = softmax(scores, _SCALES[:, None])  # [choices, scales, candidates]
        self._losses *= _DECAY ** len(choices)
        for rank, rows in zip(ranks, probabilities, strict=True):
            self._losses -= np.log(np.maximum(0.0 if rank is None else rows[:, rank], _MISS_PROBABILITY))
        self.num_observed += len(choices)
        if self.num_observed >= 20:
            self._best = int(self._losses.argmin())


def softmax(scores: NDArray[Any], scale: NDArray[Any] | float) -> NDArray[Any]:
    """softmax(scores / scale) over the last axis; `scores` descend from a finite number and may be -inf behind. Rows that do not begin
    with a finite number become NaN."""
    with np.errstate(invalid="ignore"):
        weights = np.exp((scores - scores[..., :1]) / scale)
    result: NDArray[Any] = weights / weights.sum(-1, keepdims=True)
    return result

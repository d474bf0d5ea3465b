"""Edge probabilities, learned on line: how surely does the target follow the draft's scores?

The draft's score of a token is `w = y + T G` (its own logits with the shared noise). If the target's logits differ from the draft's by
errors of scale c, the target's choice is distributed about as softmax(w / c). c is not known beforehand; the scale with the least
log loss over recent outcomes is used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ssd_core.tree import Candidates

_SCALES = (0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0)
_START = _SCALES.index(1.0)
_DECAY = 0.995  # remembers some two hundred outcomes
_MISS_PROBABILITY = 1e-3  # charged alike to every scale when the choice was not among the candidates


class EdgeCalibration:
    def __init__(self) -> None:
        self._losses = [0.0] * len(_SCALES)
        self._best = _START
        self.num_observed = 0

    @property
    def scale(self) -> float:
        """Edge probabilities are softmax(scores / scale)."""
        return _SCALES[self._best]

    def observe(self, candidates: Candidates, chosen: int) -> None:
        """The target chose `chosen` after a node whose evaluation had proposed `candidates`."""
        self.num_observed += 1
        rank = candidates.tokens.index(chosen) if chosen in candidates.tokens else None
        for i, scale in enumerate(_SCALES):
            probability = _MISS_PROBABILITY if rank is None else softmax(candidates.scores, scale)[rank]
            self._losses[i] = _DECAY * self._losses[i] - math.log(max(probability, _MISS_PROBABILITY))
        if self.num_observed >= 20:
            self._best = min(range(len(_SCALES)), key=self._losses.__getitem__)


def softmax(scores: Sequence[float], scale: float) -> list[float]:
    """softmax(scores / scale); `scores` are finite at the front and may be -inf behind."""
    top = scores[0]
    weights = [math.exp((score - top) / scale) for score in scores]
    total = sum(weights)
    return [weight / total for weight in weights]

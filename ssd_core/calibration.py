"""Edge probabilities, learned on line: how surely does the target follow the draft's scores?

The draft's score of a token is `w = y + T G` (its own logits with the shared noise). If the target's logits differ from the draft's by
errors of scale c, the target's choice is distributed about as softmax(w / c). c is not known beforehand; the scale with the least
log loss over recent outcomes is used. What is then still wrong on average, for the first, second, ... candidate and by depth below the
root, is corrected by a shift of the log odds (Platt 1999, without the slope: the scale is that already).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd_core.samples import is_sample
from ssd_core.tree import Candidates

_SCALES = np.array((0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0))
_START = _SCALES.tolist().index(1.0)
_DECAY = 0.995  # remembers some two hundred outcomes
_MISS_PROBABILITY = 1e-3  # charged alike to every scale when the choice was not among the candidates
_DEPTHS = 4  # the root, 1 and 2, 3 to 6, 7 and more levels below it
_RANKS = 4  # candidates whose log odds are shifted; the others are hardly ever proposed
_RATE = 0.02  # of the shifts' descent: a few hundred outcomes move one as far as it should go


class Observed(NamedTuple):
    """What the target chose after a node whose evaluation had proposed these candidates."""

    candidates: Candidates
    chosen: int

    @property
    def is_sample(self) -> bool:
        """Whether the scores have a softmax. -inf stands for a token that is not allowed."""
        first, *others = self.candidates.scores
        return is_sample(first) and all(score <= first for score in others)


class EdgeCalibration:
    def __init__(self) -> None:
        self._losses = np.zeros(len(_SCALES))
        self._best = _START
        self._shifts = np.zeros((_DEPTHS, _RANKS))
        self.num_observed = 0

    @property
    def scale(self) -> float:
        """Edge probabilities are softmax(scores / scale), shifted."""
        return float(_SCALES[self._best])

    def shifts(self, depth: int) -> NDArray[np.float64]:
        """Of the log odds of the first candidates after a node so deep, [_RANKS]."""
        row: NDArray[np.float64] = self._shifts[_depth_class(depth)]
        return row

    def observe(self, observed: Sequence[Observed]) -> None:
        choices = [seen for seen in observed if seen.is_sample]
        if not choices:
            return
        ranks = [seen.candidates.tokens.index(seen.chosen) if seen.chosen in seen.candidates.tokens else None for seen in choices]
        scores = np.array([seen.candidates.scores for seen in choices])[:, None]  # [choices, 1, candidates]
        probabilities = softmax(scores, _SCALES[:, None])  # [choices, scales, candidates]
        self._losses *= _DECAY ** len(choices)
        for rank, rows in zip(ranks, probabilities, strict=True):
            self._losses -= np.log(np.maximum(0.0 if rank is None else rows[:, rank], _MISS_PROBABILITY))
        first = probabilities[:, self._best, :_RANKS]
        depths = [_depth_class(seen.candidates.depth) for seen in choices]
        is_chosen = np.array([[rank == i for i in range(first.shape[1])] for rank in ranks])
        np.add.at(self._shifts[:, : first.shape[1]], depths, _RATE * (is_chosen - shifted(first, self._shifts[depths])))
        self.num_observed += len(choices)
        if self.num_observed >= 20:
            self._best = int(self._losses.argmin())


class Corrections(NamedTuple):
    """What turns the scores of N nodes into edge probabilities. Known before the scores are."""

    scales: NDArray[np.float64]
    """[N, 1]"""
    shifts: NDArray[np.float64]
    """[N, _RANKS]"""

    @classmethod
    def at(cls, calibrations: Sequence[EdgeCalibration], depths: Sequence[int]) -> Corrections:
        """Row i is of a node `depths[i]` levels below its root."""
        scales = np.array([calibration.scale for calibration in calibrations])[:, None]
        return cls(scales, np.array([calibration.shifts(depth) for calibration, depth in zip(calibrations, depths, strict=True)]))


def edge_probabilities(scores: NDArray[Any], corrections: Corrections) -> NDArray[Any]:
    """Of the candidates with these scores [N, candidates], falling. They need not sum to one."""
    edges = softmax(scores, corrections.scales)
    edges[:, :_RANKS] = shifted(edges[:, :_RANKS], corrections.shifts)
    return edges


def shifted(probabilities: NDArray[Any], shifts: NDArray[Any]) -> NDArray[Any]:
    """The probabilities [N, up to _RANKS] whose log odds are greater by `shifts` [N, _RANKS]."""
    odds = np.exp(shifts[:, : probabilities.shape[1]])
    likelier = probabilities * odds
    result: NDArray[Any] = likelier / (1.0 - probabilities + likelier)  # written so, rounding never makes it more than 1
    return result


def _depth_class(depth: int) -> int:
    return min((depth + 1).bit_length() - 1, _DEPTHS - 1)


def softmax(scores: NDArray[Any], scale: NDArray[Any] | float) -> NDArray[Any]:
    """softmax(scores / scale) over the last axis; `scores` descend from a finite number and may be -inf behind. Rows that do not begin
    with a finite number become NaN."""
    with np.errstate(invalid="ignore"):
        weights = np.exp((scores - scores[..., :1]) / scale)
    result: NDArray[Any] = weights / weights.sum(-1, keepdims=True)
    return result

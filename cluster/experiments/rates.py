"""Figures of a point, each with its standard error: what would come of other prompts, by drawing these again and again. Pure.

Every figure is a ratio of two sums over requests, so one table of drawn weights serves them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluster.experiments.results import Point

NUM_DRAWS = 400
SEED = 0


class Rate(NamedTuple):
    value: float
    error: float
    """Standard deviation over bootstrap samples of the requests."""


Metric = Callable[[Point], Rate]


def tokens_per_s(point: Point) -> Rate:
    """Of all requests together. Only the error comes from the single requests' times: they do not add up where several run at a time."""
    account = point.account
    value = sum(account.tokens) / point.seconds
    apart = _rate(account.tokens, account.seconds)
    return Rate(value, apart.error * value / apart.value)


def tokens_per_round(point: Point) -> Rate:
    return _rate(point.account.tokens, point.account.rounds)


def hit_rate(point: Point) -> Rate:
    return _rate(point.account.hits, point.account.lookups)


def miss_rate(point: Point) -> Rate:
    hits = hit_rate(point)
    return Rate(1.0 - hits.value, hits.error)


def acceptance(point: Point) -> Rate:
    """Of the first token of what is submitted."""
    return _rate(point.account.first_accepted, point.account.drafts)


def deep_acceptance(point: Point) -> Rate:
    """Share of accepted tokens that had been grown before the outcome before. Counted over all requests: no error is known."""
    return Rate(point.growth.deep_accepted / max(point.growth.accepted, 1) if point.growth else 0.0, 0.0)


def deep_hits(point: Point) -> Rate:
    """Share of hits that needed no growth from the pass before. As above."""
    return Rate(point.growth.deep_hits / max(point.growth.hits, 1) if point.growth else 0.0, 0.0)


def speedup(point: Point, baseline: Point) -> Rate:
    """Tokens/s against those of `baseline`, over the same requests: prompts that are slow in both do not count as a spread."""
    value = tokens_per_s(point).value / tokens_per_s(baseline).value
    weights = _weights(len(point.account.tokens))
    draws = _ratios(weights, point.account.tokens, point.account.seconds)
    baseline_draws = _ratios(weights, baseline.account.tokens, baseline.account.seconds)
    ratios = draws / baseline_draws
    return Rate(value, float(ratios.std() / ratios.mean() * value))


def _rate(parts: Sequence[float], wholes: Sequence[float]) -> Rate:
    if not sum(wholes):
        return Rate(0.0, 0.0)
    draws = _ratios(_weights(len(parts)), parts, wholes)
    return Rate(sum(parts) / sum(wholes), float(draws.std()))


def _weights(num_requests: int) -> NDArray[np.int64]:
    """[draws, requests]: how often each request was drawn; the same at every call."""
    return np.random.default_rng(SEED).multinomial(num_requests, np.full(num_requests, 1 / num_requests), size=NUM_DRAWS)


def _ratios(weights: NDArray[np.int64], parts: Sequence[float], wholes: Sequence[float]) -> NDArray[np.float64]:
    drawn_wholes = weights @ np.array(wholes, dtype=float)
    drawn_parts = weights @ np.array(parts, dtype=float)
    is_defined = drawn_wholes > 0
    ratios: NDArray[np.float64] = drawn_parts[is_defined] / drawn_wholes[is_defined]
    return ratios

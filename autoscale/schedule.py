"""Sizes that need no policy: a pool for the peak, and one that knows what will come. The policies are held against both."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from autoscale.cost_model import CostModel
from autoscale.fluid import MAX_DRAFTS, MAX_TARGETS
from autoscale.shapes import Load, Series

RATIOS = (0.0, *(2.0 ** (i / 8) for i in range(-40, 33)))
"""Drafts for each target that are tried."""


class Sizes(NamedTuple):
    """Held in each period, those that start included."""

    targets: Series
    drafts: Series


class Unit(NamedTuple):
    """One full target with its best share of drafts: the most tokens/s per cost."""

    drafts: float
    tokens_per_s: float
    devices: float


@lru_cache
def best_unit(model: CostModel) -> Unit:
    units = (Unit(ratio, model.speed(model.max_sessions, ratio).tokens_per_s, model.cost(1, ratio)) for ratio in RATIOS)
    return max(units, key=lambda unit: unit.tokens_per_s / unit.devices)


def needed_targets(model: CostModel, load: Load) -> Series:
    """[i]: of the best units, so many that they emit in a period what came in it, as far as that is possible."""
    return np.clip(np.ceil(load.tokens / load.period_s / best_unit(model).tokens_per_s), 1, MAX_TARGETS)


def least_device_s(model: CostModel, load: Load) -> float:
    """No sizes can do with less: every target always full, none ever starting."""
    unit = best_unit(model)
    return float(load.tokens.sum() / unit.tokens_per_s * unit.devices)


def clairvoyant(model: CostModel, load: Load, patience: int = 1) -> Sizes:
    """What is needed, started just in time, and kept where it would have to start again. Needed is the mean of the last `patience` periods:
    the more of them, the fewer peaks are met, and the longer requests wait."""
    came = np.append(np.zeros(patience), np.cumsum(load.tokens))
    mean = Load(
        load.arrivals, (came[patience:] - came[:-patience]) / np.minimum(np.arange(1, len(load.tokens) + 1), patience), load.period_s
    )
    targets = _highest_ahead(needed_targets(model, mean), math.ceil(model.target_start_s / load.period_s))
    return Sizes(targets, np.minimum(np.ceil(best_unit(model).drafts * targets), MAX_DRAFTS))


def static(model: CostModel, load: Load) -> Sizes:
    """What the busiest period needs, always."""
    return Sizes(*(np.full_like(series, series.max()) for series in clairvoyant(model, load)))


def _highest_ahead(series: Series, ahead: int) -> Series:
    padded = np.append(series, np.full(ahead, series[-1]))
    highest: Series = np.lib.stride_tricks.sliding_window_view(padded, ahead + 1).max(axis=1)
    return highest

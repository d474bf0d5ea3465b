"""Loads to try the policies on: made up, or recorded."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssd_core.errors import ConfigError

Series = NDArray[np.float64]

DAY_S = 86400.0
PERIOD_S = 10.0
"""Between two decisions: Serve pushes its metrics so often."""
MEAN_TOKENS = 512.0
"""Of an answer."""
JUMP = 5.0
"""So much more within one period is no wave, and no chance."""


@dataclass(frozen=True)
class Load:
    """[i]: what came in period i."""

    arrivals: Series
    """Requests."""
    tokens: Series
    """That they will emit."""
    period_s: float = PERIOD_S

    @property
    def jump(self) -> int | None:
        """The first period in which JUMP times as many tokens came as in the one before."""
        (jumps,) = np.nonzero(self.tokens[1:] > JUMP * np.maximum(self.tokens[:-1], 1.0))
        return int(jumps[0]) + 1 if len(jumps) else None


def diurnal(peak: float, low: float = 0.2) -> Series:
    """Requests/s of a day from midnight: a wave with its peak at four in the afternoon, and a share `low` of it at four in the night."""
    hours = _times(DAY_S) / 3600
    return peak * (low + (1 - low) * (1 + np.cos((hours - 16) * math.pi / 12)) / 2)


def burst(peak: float, factor: float = 10.0) -> Series:
    """An hour; from its 20th to its 40th minute `factor` times the load of the rest."""
    minutes = _times(3600.0) / 60
    return np.where((minutes >= 20) & (minutes < 40), peak, peak / factor)


def flash_crowd(peak: float, factor: float = 50.0) -> Series:
    """Two hours: in the 20th minute the load rises to `factor` times what it was within two minutes, then half of it goes every ten."""
    minutes = _times(7200.0) / 60 - 20
    rising = factor ** (np.clip(minutes, 0, 2) / 2)
    falling = 0.5 ** (np.maximum(minutes - 2, 0) / 10)
    return peak / factor * np.maximum(rising * falling, 1.0)


SHAPES = {"diurnal": diurnal, "burst": burst, "flash-crowd": flash_crowd}


def drawn(requests_per_s: Series, seed: int = 0) -> Load:
    """Poisson arrivals at these rates, answers of MEAN_TOKENS."""
    arrivals = np.random.default_rng(seed).poisson(requests_per_s * PERIOD_S).astype(np.float64)
    return Load(arrivals, arrivals * MEAN_TOKENS)


def read_trace(path: Path) -> Load:
    """A recording as JSON lines: {"time_s": ..., "arrivals": ..., "tokens": ...}, requests that came at that time and what they emitted.
    Raises ConfigError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    if not lines:
        raise ConfigError(f"{path}: no lines")
    times, arrivals, tokens = np.array([_row(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]).T
    if not arrivals.any():
        raise ConfigError(f"{path}: no request ever comes")
    periods = ((times - times.min()) / PERIOD_S).astype(int)
    return Load(np.bincount(periods, arrivals).astype(np.float64), np.bincount(periods, tokens).astype(np.float64))


def _row(line: str, place: str) -> tuple[float, float, float]:
    try:
        row = json.loads(line)
        values = float(row["time_s"]), float(row["arrivals"]), float(row["tokens"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{place}: numbers are expected in time_s, arrivals and tokens ({error})") from error
    if not all(math.isfinite(value) and value >= 0 for value in values):
        raise ConfigError(f"{place}: {line}: finite numbers of 0 or more are expected")
    return values


def _times(seconds: float) -> Series:
    return np.arange(0.0, seconds, PERIOD_S)

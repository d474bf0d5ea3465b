"""When requests come, and what they ask for. Pure but for reading a trace."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from pydantic import Field

from cluster.yaml_errors import read_text, validated
from ssd_core.config import Config, FiniteFloat
from ssd_core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Arrival:
    at_s: float
    """From the test's start."""
    prompt: str
    max_tokens: int
    seed: int


class TraceLine(Config):
    """One request of a recorded trace: a line of JSON."""

    at_s: FiniteFloat = Field(ge=0)
    """From the trace's start, in any order."""
    prompt: str | None = Field(default=None, min_length=1)
    """None: one of the shipped prompts."""
    max_tokens: int | None = Field(default=None, ge=1)
    """None: as the test says."""


def poisson(rate: float, seconds: float, prompts: Sequence[str], max_tokens: int, seed: int) -> list[Arrival]:
    """`rate` requests a second on average, each independent of the others."""
    random, at_s = Random(seed), 0.0
    arrivals: list[Arrival] = []
    while (at_s := at_s + random.expovariate(rate)) < seconds:
        arrivals.append(Arrival(at_s, prompts[len(arrivals) % len(prompts)], max_tokens, len(arrivals)))
    return arrivals


def recorded(path: Path, prompts: Sequence[str], max_tokens: int) -> list[Arrival]:
    """By time. Raises ConfigError, which names the line."""
    lines = enumerate(read_text(path).splitlines(), start=1)
    told = [_line(path, number, line) for number, line in lines if line.strip()]
    if not told:
        raise ConfigError(f"--trace: {path} has no requests")
    told.sort(key=lambda line: line.at_s)
    return [Arrival(line.at_s, line.prompt or prompts[i % len(prompts)], line.max_tokens or max_tokens, i) for i, line in enumerate(told)]


def _line(path: Path, number: int, line: str) -> TraceLine:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}:{number}: not JSON: {error}") from None
    return validated(TraceLine, content, f"{path}:{number}")

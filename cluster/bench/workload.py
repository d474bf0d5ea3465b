"""What is measured, in which order. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal, TypeVar

from ssd_core.config import PRESETS
from ssd_core.errors import ConfigError

T = TypeVar("T")


Text = Literal["any", "code", "prose"]


@dataclass(frozen=True, slots=True)
class Case:
    """One request but for its preset. Its seed is the prompt's index: every preset and repeat must give the same tokens."""

    prompt_index: int
    prompt: str
    temperature: float

    @property
    def seed(self) -> int:
        return self.prompt_index


@dataclass(frozen=True, slots=True)
class Workload:
    prompts: tuple[str, ...]
    presets: tuple[str, ...] = PRESETS
    peers: tuple[str, ...] = ()
    """Measured among the presets; one request at a time only."""
    temperatures: tuple[float, ...] = (0.0,)
    concurrency: int = 1
    repeats: int = 1
    max_tokens: int = 128
    warm_up_tokens: int = 32
    """Of each answer before anything is measured: on a GPU as many as `max_tokens`, what is captured on first use comes by then."""
    lookahead: int | None = None
    """K of the chain presets; None: what the service was given."""

    @property
    def contestants(self) -> tuple[str, ...]:
        return self.presets + self.peers

    @property
    def num_requests(self) -> int:
        return len(self.prompts) * len(self.contestants) * len(self.temperatures) * self.repeats


@dataclass(frozen=True, slots=True)
class Block:
    """What is timed as one: cases that run under one preset, `concurrency` of them at a time."""

    preset: str
    """Or a peer."""
    temperature: float
    repeat: int
    group: int
    """Blocks of the same temperature, repeat and group differ in nothing but their preset: they are compared as a pair."""
    cases: tuple[Case, ...]


def held_out_prompts(num_prompts: int, text: Text = "any") -> tuple[str, ...]:
    """Prompts from files that the embedded pair was not trained on. `prose`: the quarter of them whose ends are most like prose, which are
    docstrings and comments; `code`: the others. Raises ConfigError when there are not that many."""
    prompts: list[str] = json.loads((files("ssd_core") / "pretrained" / "prompts.json").read_text(encoding="utf-8"))
    if text != "any":
        by_prose = sorted(prompts, key=_prose_share, reverse=True)
        prose = set(by_prose[: len(prompts) // 4])
        prompts = [prompt for prompt in prompts if (prompt in prose) == (text == "prose")]
    if num_prompts > len(prompts):
        raise ConfigError(f"--prompts = {num_prompts}: only {len(prompts)} held-out prompts of this kind are shipped")
    return tuple(prompts[:num_prompts])


def _prose_share(prompt: str) -> float:
    """Of the characters of its end, those that prose is made of."""
    end = prompt[-400:]
    return sum(character.isalpha() or character in " .," for character in end) / len(end)


def blocks(workload: Workload) -> Iterator[Block]:
    """Presets alternate within every group, each time beginning with the next one: slow drifts of the machine hit all alike.

    One at a time, a group is one prompt. Concurrently, it is all of them: a queue that keeps `concurrency` requests running.
    """
    indices = range(len(workload.prompts))
    groups = [(i,) for i in indices] if workload.concurrency == 1 else [tuple(indices)]
    for temperature in workload.temperatures:
        for repeat in range(workload.repeats):
            for group, members in enumerate(groups):
                cases = tuple(Case(i, workload.prompts[i], temperature) for i in members)
                for preset in rotated(workload.contestants, group + repeat):
                    yield Block(preset, temperature, repeat, group, cases)


def rotated(items: tuple[T, ...], by: int) -> tuple[T, ...]:
    by %= len(items)
    return items[by:] + items[:by]

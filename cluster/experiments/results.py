"""What came of an experiment, as it stands in its JSON file: raw counts by request, from which every figure is computed when drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.experiments.costs import Costs
from cluster.experiments.setting import Setting
from cluster.yaml_errors import read_json, validated
from ssd_core.config import Config
from ssd_core.errors import ConfigError

if TYPE_CHECKING:
    from cluster.experiments.experiment import Experiment


class Account(Config):
    """Of the requests of one point, one entry of each column for each request."""

    seconds: tuple[float, ...]
    """From arrival to the last token, in virtual time."""
    tokens: tuple[int, ...]
    rounds: tuple[int, ...]
    drafts: tuple[int, ...]
    """Rounds that submitted something ..."""
    first_accepted: tuple[int, ...]
    """... and of these the ones whose first token was accepted."""
    hits: tuple[int, ...]
    lookups: tuple[int, ...]


class Growth(Config):
    """Of a point, what became of what was grown."""

    accepted: int
    deep_accepted: int
    """Accepted tokens that had been grown before the outcome before."""
    hits: int
    deep_hits: int
    """Hits on what had been grown before the round began."""
    edges: tuple[int, ...]
    """By bins of their probability, children proposed after nodes that the target came by ..."""
    expected: tuple[float, ...]
    """... the sum of these probabilities ..."""
    chosen: tuple[int, ...]
    """... and how many the target chose."""


class Point(Config):
    setting: Setting
    seconds: float
    """From the first request to the last token."""
    draft_busy_s: float
    account: Account
    growth: Growth | None = None
    """Not counted by every experiment."""


class Provenance(Config):
    command: str
    commit: str
    """Of the code that ran; `-dirty` with changes, empty outside a checkout."""
    machine: str
    """That computed it. Times are those of the costs, wherever it ran."""


class Results(Config):
    experiment: str
    provenance: Provenance
    costs: Costs
    num_prompts: int
    """Held-out prompts; more where many requests run at a time."""
    max_tokens: int
    """Of every answer."""
    took_s: float
    """By the wall clock."""
    points: tuple[Point, ...]

    def curve(self, name: str, temperature: float | None = None) -> list[Point]:
        """Its points by rising x."""
        own = [point for point in self.points if point.setting.curve == name and temperature in (None, point.setting.temperature)]
        return sorted(own, key=lambda point: point.setting.x)

    def baseline(self, point: Point) -> Point:
        """Plain decoding at the same temperature and concurrency."""
        wanted = (point.setting.temperature, point.setting.concurrency)
        return next(p for p in self.curve("ar") if (p.setting.temperature, p.setting.concurrency) == wanted)

    def to_json(self) -> str:
        """A line for each point."""
        content = self.model_dump(mode="json", exclude={"points"})
        head = json.dumps(content, indent=1, allow_nan=False).removesuffix("\n}")
        lines = ",\n  ".join(json.dumps(point.model_dump(mode="json"), allow_nan=False) for point in self.points)
        return f'{head},\n "points": [\n  {lines}\n ]\n}}\n'

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.experiment}.json"
        path.write_text(self.to_json(), encoding="utf-8")
        return path


def read_results(path: Path, experiment: Experiment | None = None) -> Results:
    """`experiment`: whose results they must be, whole; None: of any. Raises ConfigError."""
    results = validated(Results, read_json(path), str(path))
    if experiment is None:
        return results
    if results.experiment != experiment.name:
        raise ConfigError(f"{path}: experiment = {results.experiment!r}: these are not the results of {experiment.name}")
    measured = [point.setting for point in results.points]
    missing = sum(setting not in measured for setting in experiment.settings)
    if missing:
        raise ConfigError(f"{path}: points: {missing} of the {len(experiment.settings)} settings of {experiment.name} are missing")
    return results

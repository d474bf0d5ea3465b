"""The JSON of `ssd-serve bench`, as far as the planner reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, field_validator

from cluster.bench.peer import PEERS
from cluster.bench.service import ServiceFacts
from cluster.bench.totals import Totals
from cluster.yaml_errors import read_json, validated
from ssd_core.config import FiniteFloat, PresetName
from ssd_core.errors import ConfigError


class RunRow(BaseModel):
    """What is read of a Row of the bench's report."""

    temperature: float
    preset: PresetName
    num_requests: int = Field(ge=1)
    num_tokens: int = Field(ge=1)
    wall_s: FiniteFloat = Field(gt=0)
    accepted_per_position: tuple[float, ...]
    totals: Totals


class RunWorkload(BaseModel):
    concurrency: int


class Run(BaseModel):
    """What is read of the file."""

    model: str
    command: str
    workload: RunWorkload
    service: ServiceFacts
    rows: tuple[RunRow, ...] = Field(min_length=1)
    """Of presets."""

    @field_validator("rows", mode="before")
    @classmethod
    def _of_presets(cls, rows: Any) -> Any:
        """The service counts nothing of a peer: there are no parts to plan with. A preset with settings of its own is not that preset."""
        if not isinstance(rows, list):
            return rows
        return [row for row in rows if not (isinstance(row, dict) and (row.get("preset") in PEERS or ":" in str(row.get("preset"))))]


def read_run(path: Path) -> Run:
    """Raises ConfigError: a line for each field that is missing or wrong."""
    run = validated(Run, read_json(path, "the JSON of a bench"), str(path))
    if not run.service.pass_nodes:
        raise ConfigError(f"{path}: service.pass_nodes: the service did not say how long its target's passes take")
    if run.service.num_targets not in (None, 1):
        raise ConfigError(f"{path}: service.num_targets = {run.service.num_targets:g}: figures are of one target replica")
    if not all(row.totals.rounds > row.num_requests and row.totals.passes > row.totals.prompt_passes for row in run.rows):
        raise ConfigError(f"{path}: rows: the service counted no rounds, or answers of one token only")
    return run

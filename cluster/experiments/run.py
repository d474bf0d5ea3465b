"""From an experiment to its results."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cluster.bench.machine import this_machine
from cluster.bench.workload import held_out_prompts
from cluster.experiments.costs import Costs
from cluster.experiments.experiment import Experiment
from cluster.experiments.measure_costs import measure_costs
from cluster.experiments.rates import tokens_per_s
from cluster.experiments.results import Provenance, Results
from cluster.experiments.rig import Rig
from deployments.engines import load_engine, load_tokenizer
from ssd_core.config import EngineConfig
from ssd_core.text import prompt_ids

NUM_SHIPPED = 256
"""Held-out prompts."""


def load_rig(target: str, draft: str, costs: Costs | None, num_prompts: int, max_tokens: int) -> Rig:
    """Models by name. Without `costs` they are measured."""
    tokenizer = load_tokenizer(target).tokenizer
    prompts = [prompt_ids(tokenizer, prompt) for prompt in held_out_prompts(NUM_SHIPPED)]
    target_engine, draft_engine = load_engine(EngineConfig(model=target)), load_engine(EngineConfig(model=draft))
    costs = costs or measure_costs(target_engine, draft_engine, prompts)
    return Rig(target_engine, draft_engine, prompts, costs, num_prompts, max_tokens)


def run_experiment(experiment: Experiment, rig: Rig, provenance: Provenance, progress: Callable[[str], None]) -> Results:
    began = time.perf_counter()
    rig = replace(rig, num_prompts=experiment.prompts_factor * rig.num_prompts)
    points = []
    for number, setting in enumerate(experiment.settings, start=1):
        points.append(rig.measure(setting))
        rate = tokens_per_s(points[-1]).value
        progress(
            f"{experiment.name} {number}/{len(experiment.settings)}: {setting.curve} {setting.x:g}, T={setting.temperature:g}: {rate:.0f}"
        )
    return Results(
        experiment=experiment.name,
        provenance=provenance,
        costs=rig.costs,
        num_prompts=rig.num_prompts,
        max_tokens=rig.max_tokens,
        took_s=round(time.perf_counter() - began, 1),
        points=tuple(points),
    )


def this_provenance(command: str) -> Provenance:
    """Of what runs now: asked before a run, for the checkout may change while it lasts."""
    return Provenance(command=command, commit=_commit(), machine=str(this_machine()))


def _commit() -> str:
    words = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""

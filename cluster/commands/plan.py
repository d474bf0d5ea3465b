"""`ssd-serve plan`: what each preset would do and cost, predicted from figures; or where on a cluster it all goes. Starts nothing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

from cluster.bench.speculated import warnings
from cluster.commands.common import (
    OK,
    USAGE,
    Subparsers,
    add_subcommand,
    check_writable,
    positive,
    positive_number,
    temperature,
    write_file,
)
from cluster.plan.demand import ClusterConfig
from cluster.plan.from_bench import Measured, measured
from cluster.plan.placement import place
from cluster.plan.placement_text import placement_text
from cluster.plan.run_file import read_run
from cluster.plan.text import LEGEND, plan_text
from cluster.yaml_errors import read_yaml, validated
from ssd_core.errors import ConfigError
from ssd_core.figures import Figures
from ssd_core.planner import plan

PURPOSE = "Predict speed and cost of every preset, and recommend one; or say where on a cluster targets and drafts go. Starts nothing."
EXAMPLES = """\
  ssd-serve plan --bench results/bench.json                      beside what that run measured
  ssd-serve plan --bench results/bench.json --save figures.yaml  its figures, to be edited
  ssd-serve plan figures.yaml --concurrency 8 --draft-step-ms 2  what if
  ssd-serve plan --cluster cluster/configs/clusters/two-racks.yaml   which devices hold which target groups and drafts

With slower steps than the figures were taken with, growth is planned as the theory has it: the target waits until it is done. The service
does not wait; it takes what is there, and misses more often."""
CLUSTER_HELP = """place targets and drafts on the cluster of a YAML file (fields: cluster/plan/topology.py, demand.py), without further
options; exit code 2 if something has no place"""
OF_FIGURES = ("temperature", "concurrency", "draft_step_ms", "prefer", "save")
"""Options that say nothing about a cluster."""


def add(subparsers: Subparsers) -> None:
    parser = add_subcommand(subparsers, "plan", run, PURPOSE, EXAMPLES)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("figures", nargs="?", metavar="FIGURES", help="a YAML file; the fields are in ssd_core/figures.py")
    source.add_argument("--bench", type=Path, metavar="FILE", help="take the figures from what `ssd-serve bench --json FILE` wrote")
    source.add_argument("--cluster", type=Path, metavar="FILE", help=CLUSTER_HELP)
    parser.add_argument("--temperature", type=temperature, metavar="T", help="with --bench: this one only (default: all)")
    parser.add_argument("--concurrency", type=positive, metavar="C", help="what if so many sessions ran at a time")
    parser.add_argument("--draft-step-ms", type=positive_number, metavar="MS", help="what if a growth step took so long, in every preset")
    parser.add_argument("--prefer", choices=("speed", "cost"), help="what the recommendation goes by (default: speed)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the figures there as YAML; one temperature only")


def run(args: argparse.Namespace) -> int:
    return _place(args) if args.cluster else _predict(args)


def _place(args: argparse.Namespace) -> int:
    for name in OF_FIGURES:
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')}: not with --cluster")
    placement = place(validated(ClusterConfig, read_yaml(args.cluster), str(args.cluster)))
    print(placement_text(placement))
    return USAGE if placement.unplaced else OK


def _predict(args: argparse.Namespace) -> int:
    check_writable("--save", args.save)
    cases = _from_bench(args) if args.bench else [_from_yaml(args.figures)]
    if args.save and len(cases) > 1:
        raise ConfigError(f"--save: choose one --temperature of {', '.join(f'{case.temperature:g}' for case in cases)}")
    for case in cases:
        figures = _what_if(case.figures, args)
        if args.bench:
            print(f"temperature {case.temperature:g}, {figures.concurrency} at a time")
        # A measurement of something else is nothing to compare with.
        print(plan_text(plan(figures, args.prefer or "speed"), case.tokens_per_s if figures == case.figures else None) + "\n")
        for line in warnings((preset, case.temperature, share) for preset, share in case.speculated.items()):
            print(line + "\n")
        if args.save:
            content = figures.model_dump(mode="json", by_alias=True, exclude_none=True)
            write_file(args.save, yaml.safe_dump(content, sort_keys=False))
    print(LEGEND)
    return OK


def _from_bench(args: argparse.Namespace) -> list[Measured]:
    cases = measured(read_run(args.bench))
    wanted = [case for case in cases if args.temperature in (None, case.temperature)]
    if not wanted:
        raise ConfigError(f"--temperature {args.temperature:g}: {args.bench} has {', '.join(f'{case.temperature:g}' for case in cases)}")
    return wanted


def _from_yaml(path: str) -> Measured:
    return Measured(0.0, validated(Figures, read_yaml(Path(path)), path), {}, {})


def _what_if(figures: Figures, args: argparse.Namespace) -> Figures:
    changes: dict[str, Any] = {}
    if args.concurrency:
        changes["concurrency"] = args.concurrency
    if args.draft_step_ms:
        step = {"draft_step_s": args.draft_step_ms / 1000}
        drafted = {name: own.model_copy(update=step) for name, own in figures.presets if name != "ar" and own is not None}
        changes["presets"] = figures.presets.model_copy(update=drafted)
    return figures.model_copy(update=changes)

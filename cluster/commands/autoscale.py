"""`ssd-serve autoscale`: the scaling policies, tried on a load. Starts nothing."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from autoscale.chart import write_chart
from autoscale.cost_model import MODELS
from autoscale.fluid import MAX_TARGETS
from autoscale.shapes import SHAPES, drawn, read_trace
from autoscale.simulate import Comparison, compare, load_for
from cluster.bench.table import aligned
from cluster.commands.bench import command_line
from cluster.commands.common import OK, Subparsers, add_subcommand, check_writable, positive, progress, seed, write_file
from ssd_core.errors import ConfigError

EXAMPLES = """\
  ssd-serve autoscale simulate diurnal                               a day, at most a hundred targets needed
  ssd-serve autoscale simulate flash-crowd --pair four-and-one --targets 1000 --plot results/crowd.png
  ssd-serve autoscale simulate --trace recorded.jsonl --json results/replay.json

A trace has lines like {"time_s": 0.5, "arrivals": 3, "tokens": 1536}: requests that came, and what they emitted. The same load is met by
the policies; by one who knows it beforehand (`clairvoyant`); by one who knows it and lets requests wait as long as the policies do
(`patient`); and by what its peak needs. `least` is what it would cost if every target were always full."""

COLUMNS = {
    "sizes": "who decides how many targets and drafts there are: the policies; `clairvoyant`, who knows the load beforehand;\n"
    "`patient`, who knows it and lets requests wait as long as the policies do; `static`, what the peak needs",
    "device-hours": "devices that were held, times the hours",
    "to clairvoyant": "their ratio to those of `clairvoyant`",
    "to patient": "their ratio to those of `patient`",
    "to least": "their ratio to what the load would take if every target were always full",
    "queue p50 s": "seconds that a request waits for a place at a target, median over requests",
    "queue p99 s": "the same, 99th percentile",
    "answer s": "seconds from a request to its last token, mean",
    "targets, at most": "targets held at the same time, those that start included",
    "target changes": "periods in which their number changed",
    "drafts, at most": "draft actors held at the same time",
    "draft changes": "periods in which their number changed",
    "reaction, periods": "decisions from the load's jump until as many targets are asked for as it needs; -: no jump, or never",
}
"""What the table says, with its unit, by the heading of each column."""


def add(subparsers: Subparsers) -> None:
    parser = add_subcommand(
        subparsers, "autoscale", run, "Try the scaling policies on a load, made up or recorded. Starts nothing.", EXAMPLES
    )
    actions = parser.add_subparsers(metavar="simulate", required=True)
    simulate = actions.add_parser("simulate", help="replay a load, print a table")
    source = simulate.add_mutually_exclusive_group(required=True)
    source.add_argument("shape", nargs="?", choices=tuple(SHAPES), help="a made-up load")
    source.add_argument("--trace", type=Path, metavar="FILE", help="a recorded one, as JSON lines")
    simulate.add_argument(
        "--pair",
        choices=tuple(MODELS),
        default="pair",
        help="32B and 0.6B on an H100 each (default), or an assumed one, on four devices and one",
    )
    simulate.add_argument("--targets", type=positive, default=100, metavar="N", help="needed at a shape's peak (default: 100)")
    simulate.add_argument("--seed", type=seed, default=0, metavar="N", help="of a shape's arrivals (default: 0)")
    simulate.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    simulate.add_argument("--plot", type=Path, metavar="FILE", help="write a picture (PNG) there")


def run(args: argparse.Namespace) -> int:
    if args.targets > MAX_TARGETS:
        raise ConfigError(f"--targets {args.targets}: no more than {MAX_TARGETS} are simulated")
    check_writable("--json", args.json)
    check_writable("--plot", args.plot)
    model = MODELS[args.pair]
    load = read_trace(args.trace) if args.trace else drawn(SHAPES[args.shape](load_for(model, args.targets)), args.seed)
    comparison = compare(model, load)
    print(_table(comparison))
    if args.json:
        write_file(args.json, json.dumps(_content(comparison, args), indent=1) + "\n")
    if args.plot:
        write_chart(comparison, command_line(args.argv), args.plot)
        progress(f"wrote {args.plot}")
    return OK


def _table(comparison: Comparison) -> str:
    rows = comparison.summaries
    device_s = {row.name: row.device_s for row in rows}
    cells = (
        (
            row.name,
            f"{row.device_s / 3600:.1f}",
            f"{row.device_s / device_s['clairvoyant']:.3f}",
            f"{row.device_s / device_s['patient']:.3f}",
            f"{row.device_s / comparison.least_device_s:.3f}",
            f"{row.queue_p50_s:.2f}",
            f"{row.queue_p99_s:.2f}",
            f"{row.answer_s:.2f}",
            str(row.most_targets),
            str(row.target_changes),
            str(row.most_drafts),
            str(row.draft_changes),
            "-" if row.reaction_periods is None else str(row.reaction_periods),
        )
        for row in rows
    )
    legend = "\n".join(f"{name}: {meaning}" for name, meaning in COLUMNS.items())
    return f"{aligned([tuple(COLUMNS), *cells])}\n\n{legend}\nA period is {comparison.load.period_s:g} s: so often sizes are decided."


def _content(comparison: Comparison, args: argparse.Namespace) -> dict[str, object]:
    return {
        "command": command_line(args.argv),
        "least_device_s": comparison.least_device_s,
        "runs": [
            asdict(row) | {"targets": run.targets.tolist(), "drafts": run.drafts.tolist()}
            for row, run in zip(comparison.summaries, comparison.runs, strict=True)
        ],
    }

"""`ssd-serve experiments`: the pictures of cluster/experiments/README.md, drawn from what is stored; and measured again."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from cluster.commands.bench import command_line
from cluster.commands.common import OK, Subparsers, add_subcommand, check_writable, positive, progress
from cluster.experiments.catalog import EXPERIMENTS
from cluster.experiments.costs import read_costs
from cluster.experiments.draw import write_plot
from cluster.experiments.experiment import Experiment
from cluster.experiments.results import read_results

FOLDER = Path(__file__).parent.parent / "experiments"
"""What is shipped: results, pictures and the page that shows them."""
OUT = Path("results/experiments")
ALL = "all"
NAMES = tuple(experiment.name for experiment in EXPERIMENTS)

EXAMPLES = """\
  ssd-serve experiments plot                                  all pictures again, from the stored results
  ssd-serve experiments run lookahead --out results/mine      measure one again; 12 prompts take two minutes or less
  ssd-serve experiments plot lookahead --results results/mine --out results/mine

Speeds are computed in virtual time, from what passes cost on this machine (measured first) or on the one of `--costs`."""


def add(subparsers: Subparsers) -> None:
    parser = add_subcommand(subparsers, "experiments", run, "Draw the experiments from stored results, or run them again.", EXAMPLES)
    actions = parser.add_subparsers(metavar="plot|run", required=True)
    plot = actions.add_parser("plot", help="draw pictures from results")
    plot.add_argument("names", nargs="*", type=_name, metavar="NAME", help=f"out of {', '.join(NAMES)} (default: all)")
    plot.add_argument("--results", type=Path, default=FOLDER / "results", metavar="DIR", help="where they lie (default: the stored ones)")
    plot.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"where PNGs go (default: {OUT})")
    plot.set_defaults(action=_plot)
    again = actions.add_parser("run", help="measure, and write results")
    again.add_argument("names", nargs="+", type=_name, metavar="NAME", help=f"out of {', '.join(NAMES)}; or {ALL}")
    again.add_argument("--prompts", type=positive, default=12, metavar="N", help="held-out prompts (default: 12)")
    again.add_argument("--max-tokens", type=positive, default=96, metavar="M", help="tokens of every answer (default: 96)")
    again.add_argument("--costs", type=Path, metavar="FILE", help="what passes cost, as JSON (default: measured)")
    again.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"(default: {OUT})")
    again.set_defaults(action=_run)


def run(args: argparse.Namespace) -> int:
    code: int = args.action(args)
    return code


def _plot(args: argparse.Namespace) -> int:
    check_writable("--out", *(args.out / f"{experiment.name}.png" for experiment in _named(args.names or [ALL])))
    for experiment in _named(args.names or [ALL]):
        path = write_plot(experiment, read_results(args.results / f"{experiment.name}.json", experiment), args.out)
        progress(f"wrote {path}")
    return OK


def _run(args: argparse.Namespace) -> int:
    from cluster.experiments.run import load_rig, run_experiment, this_provenance

    wanted = _named(args.names)
    costs = read_costs(args.costs) if args.costs else None
    check_writable("--out", *(args.out / f"{experiment.name}.json" for experiment in wanted))
    provenance = this_provenance(command_line(args.argv))
    rig = load_rig("embedded:target", "embedded:draft", costs, args.prompts, args.max_tokens)
    for experiment in wanted:
        path = run_experiment(experiment, rig, provenance, progress).write(args.out)
        progress(f"wrote {path}")
    return OK


def _name(text: str) -> str:
    if text not in (*NAMES, ALL):
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(NAMES)}, {ALL}")
    return text


def _named(names: Sequence[str]) -> list[Experiment]:
    """In the order of the page."""
    return [experiment for experiment in EXPERIMENTS if experiment.name in names or ALL in names]

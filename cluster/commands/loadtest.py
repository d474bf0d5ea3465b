"""`ssd-serve loadtest`: load on any running service, and what its clients see of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from cluster.bench.machine import this_machine
from cluster.bench.workload import held_out_prompts
from cluster.client import RestClient
from cluster.commands.bench import command_line
from cluster.commands.common import (
    FAILED,
    OK,
    Subparsers,
    add_preset,
    add_subcommand,
    api_key,
    check_writable,
    http_url,
    positive,
    positive_number,
    progress,
    temperature,
    write_file,
)
from cluster.loadtest.arrivals import Arrival, poisson, recorded
from cluster.loadtest.ramp import Step, ramp
from cluster.loadtest.report import Report
from cluster.loadtest.requests import Target
from cluster.loadtest.run import ClosedLoop, Load, OpenLoop, Workers
from cluster.loadtest.summary import Objectives, summary
from ssd_core.errors import ConfigError

EXAMPLES = """\
  ssd-serve loadtest --url http://127.0.0.1:8000 --rate 2 --seconds 60        open loop, Poisson arrivals
  ssd-serve loadtest --url URL --clients 32 --seconds 60                      closed loop
  ssd-serve loadtest --url URL --trace requests.jsonl                         as recorded: {"at_s": 0.5, "prompt": "...", "max_tokens": 64}
  ssd-serve loadtest --url URL --ramp 1 --out results/ramp                    ever more load, until it is not kept up with; HTML and JSON

Exit code 1 where no request was answered."""
FACTOR = 1.5
MOST_STEPS = 20


def add(subparsers: Subparsers) -> None:
    parser = add_subcommand(subparsers, "loadtest", run, "Put load on a running service, and say what its clients see.", EXAMPLES)
    parser.add_argument("--url", type=http_url, required=True, help="of the service; SSD_API_KEY is its key, where it wants one")
    load = parser.add_mutually_exclusive_group(required=True)
    load.add_argument("--rate", type=positive_number, metavar="R", help="so many requests a second on average, whenever they come")
    load.add_argument("--clients", type=positive, metavar="N", help="so many clients, each with one request at a time")
    load.add_argument("--trace", type=Path, metavar="FILE", help="requests as recorded, a line of JSON each")
    load.add_argument("--ramp", type=positive_number, metavar="R", help=f"from R requests a second on, {FACTOR:g} times as many each time")
    parser.add_argument("--seconds", type=positive_number, default=30.0, help="of each load, in which requests are sent (default: 30)")
    parser.add_argument("--max-tokens", type=positive, default=128, help="of each answer, which has no other end (default: 128)")
    parser.add_argument("--prompts", type=positive, default=64, help="how many of the shipped prompts take turns (default: 64)")
    parser.add_argument("--temperature", type=temperature, default=0.0, help="(default: 0)")
    add_preset(parser)
    parser.add_argument("--first-token-ms", type=positive_number, default=1000.0, help="objective: time to the first token (default: 1000)")
    parser.add_argument("--token-ms", type=positive_number, default=100.0, help="objective: time of a token after it (default: 100)")
    parser.add_argument("--processes", type=positive, default=2, help="that send (default: 2); more where sending is late")
    parser.add_argument("--seed", type=int, default=0, help="of the arrivals (default: 0)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write report.html and report.json there")


def run(args: argparse.Namespace) -> int:
    key, prompts = api_key(), held_out_prompts(args.prompts)
    load = None if args.ramp else _load(args, prompts)
    if args.out:
        check_writable("--out", args.out / "report.html", args.out / "report.json")
    with RestClient(args.url, api_key=key) as client:
        target = Target(client.url, client.model, key, args.preset, args.temperature)
    objectives = Objectives(args.first_token_ms / 1e3, args.token_ms / 1e3)
    steps: list[Step] = []
    with Workers(args.processes) as workers:
        for step, outcomes in _steps(args, workers, target, objectives, prompts, load):
            progress(f"offered {step.offered:.2f}/s: answered {step.throughput:.2f}/s, good {step.attainment:.0%}")
            steps.append((step, outcomes))
    if not steps:
        raise ConfigError(f"--seconds = {args.seconds:g}: no request came in so short a time at so low a rate")
    title = f"Load test of {target.model}"
    report = Report(title, command_line(args.argv), str(this_machine()), objectives, steps)
    print(report.text())
    if args.out:
        write_file(args.out / "report.html", report.page())
        write_file(args.out / "report.json", report.json())
    return OK if any(step.num_ok for step, _ in steps) else FAILED


def _steps(
    args: argparse.Namespace, workers: Workers, target: Target, objectives: Objectives, prompts: tuple[str, ...], load: Load | None
) -> Iterator[Step]:
    """`load`: None for a ramp."""
    if load is None:
        yield from ramp(
            partial(workers.run, target), objectives, prompts,
            rate=args.ramp, factor=FACTOR, most_steps=MOST_STEPS, seconds=args.seconds, max_tokens=args.max_tokens, seed=args.seed,
        )  # fmt: skip
    else:
        outcomes = workers.run(target, load)
        if outcomes:
            yield summary(outcomes, objectives), outcomes


def _load(args: argparse.Namespace, prompts: tuple[str, ...]) -> Load:
    if args.trace:
        return OpenLoop(tuple(recorded(args.trace, prompts, args.max_tokens)))
    if args.clients:
        asked = (Arrival(0.0, prompt, args.max_tokens, number) for number, prompt in enumerate(prompts))
        return ClosedLoop(tuple(asked), args.clients, args.seconds)
    return OpenLoop(tuple(poisson(args.rate, args.seconds, prompts, args.max_tokens, args.seed)))

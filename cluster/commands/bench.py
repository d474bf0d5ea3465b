"""`ssd-serve bench`: the presets against each other, through the service, on the same prompts."""

from __future__ import annotations

import argparse
import shlex
from contextlib import ExitStack
from pathlib import Path

from cluster.bench.run import run_bench
from cluster.bench.workload import Workload, held_out_prompts
from cluster.client import RestClient
from cluster.commands.common import (
    FAILED,
    OK,
    Subparsers,
    add_config,
    add_subcommand,
    api_key,
    find_config,
    lookahead,
    positive,
    progress,
    temperature,
)
from cluster.local import LocalService
from ssd_core.config import PRESETS

EXAMPLES = """\
  ssd-serve bench --json results/bench.json
  ssd-serve bench --presets ar,sd,ssd-tree --temperature 0 0.8 --prompts 24 --repeats 3
  ssd-serve bench --concurrency 8 --prompts 32
  ssd-serve bench --url http://127.0.0.1:8000      a service that is up; SSD_API_KEY is its key, if it wants one

exit code 1: some preset answered with other tokens than the rest"""


def add(subparsers: Subparsers) -> None:
    parser = add_subcommand(subparsers, "bench", run, "Measure the presets against each other, alternating, on held-out prompts.", EXAMPLES)
    parser.add_argument("--presets", type=_presets, default=PRESETS, metavar="A,B,...", help=f"(default: {','.join(PRESETS)})")
    parser.add_argument("--prompts", type=positive, default=12, metavar="N", help="held-out prompts (default: 12)")
    parser.add_argument("--max-tokens", type=positive, default=128, metavar="N", help="tokens of every answer (default: 128)")
    parser.add_argument("--temperature", type=temperature, nargs="+", default=[0.0, 0.8], metavar="T", help="one or more (default: 0 0.8)")
    parser.add_argument("--concurrency", type=positive, default=1, metavar="C", help="requests at a time (default: 1)")
    parser.add_argument("--repeats", type=positive, default=1, metavar="R", help="times everything is measured (default: 1)")
    parser.add_argument("--lookahead", type=lookahead, metavar="K", help="length of a chain speculation (default: the service's)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there, every request included")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw the result as a PNG")
    where = parser.add_mutually_exclusive_group()
    add_config(where, is_option=True)
    where.add_argument("--url", metavar="URL", help="measure a service that is up instead of starting one")


def run(args: argparse.Namespace) -> int:
    workload = Workload(
        prompts=held_out_prompts(args.prompts),
        presets=args.presets,
        temperatures=tuple(args.temperature),
        concurrency=args.concurrency,
        repeats=args.repeats,
        max_tokens=args.max_tokens,
        lookahead=args.lookahead,
    )
    with ExitStack() as stack:
        url = args.url
        if url is None:
            url = stack.enter_context(LocalService(find_config(args.config or "demo"), progress=progress)).url
        client = stack.enter_context(RestClient(url, api_key=api_key()))
        report = run_bench(workload, client, command_line(args.argv), progress)
    print(report.text())
    if args.json:
        report.write(args.json)
        progress(f"wrote {args.json}")
    if args.chart:
        from cluster.bench.chart import write_chart

        write_chart(report, args.chart)
        progress(f"wrote {args.chart}")
    return OK if report.is_exact else FAILED


def command_line(argv: list[str]) -> str:
    return shlex.join(["ssd-serve", *argv])


def _presets(text: str) -> tuple[str, ...]:
    presets = tuple(text.split(","))
    unknown = [preset for preset in presets if preset not in PRESETS]
    if unknown or len(set(presets)) != len(presets):
        raise argparse.ArgumentTypeError(f"{text!r}: each once, out of {', '.join(PRESETS)}")
    return presets

"""`ssd-serve demo`: the main job. The embedded pair as a service, one completion as it arrives, the presets compared."""

from __future__ import annotations

import argparse
from pathlib import Path

from cluster.bench.chart import write_chart
from cluster.bench.run import run_bench
from cluster.bench.workload import Workload, held_out_prompts
from cluster.client import CompletionRequest, RestClient
from cluster.commands.bench import command_line
from cluster.commands.common import FAILED, OK, Subparsers, add_subcommand, check_writable, positive, progress, startable_config
from cluster.config import HttpConfig
from cluster.local import LocalService

EXAMPLES = """\
  ssd-serve demo                 two to three minutes on two CPU cores; writes results/demo.json and results/demo.png
  ssd-serve demo --prompts 2     a quick look

exit code 1: some preset answered with other tokens than the rest"""

SHOWN_PROMPT = 'def read_config(path):\n    """Read a JSON configuration file and return a dictionary."""\n    with open(path'
TEMPERATURES = (0.0, 0.8)


def add(subparsers: Subparsers) -> None:
    parser = add_subcommand(subparsers, "demo", run, "Start the embedded pair, show a completion, compare the presets, stop.", EXAMPLES)
    parser.add_argument("--prompts", type=positive, default=6, metavar="N", help="held-out prompts (default: 6)")
    parser.add_argument("--max-tokens", type=positive, default=128, metavar="N", help="tokens of every answer (default: 128)")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="where the results go (default: results)")


def run(args: argparse.Namespace) -> int:
    workload = Workload(prompts=held_out_prompts(args.prompts), temperatures=TEMPERATURES, max_tokens=args.max_tokens)
    check_writable("--out", args.out / "demo.json", args.out / "demo.png")
    config = startable_config("demo").model_copy(update={"http": HttpConfig(port=0)})
    with LocalService(config, progress=progress) as service, RestClient(service.url, api_key=service.api_key) as client:
        progress("one completion, streamed through POST /v1/completions:")
        print(SHOWN_PROMPT, end="", flush=True)
        for piece in client.stream(CompletionRequest(SHOWN_PROMPT, max_tokens=args.max_tokens)):
            print(piece, end="", flush=True)
        print("\n")
        report = run_bench(workload, client, command_line(args.argv), progress)
        progress("shutting down")
    print(report.text())
    report.write(args.out / "demo.json")
    write_chart(report, args.out / "demo.png")
    progress(f"wrote {args.out / 'demo.json'} and {args.out / 'demo.png'}")
    return OK if report.is_exact else FAILED

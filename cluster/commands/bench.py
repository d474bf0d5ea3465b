"""`ssd-serve bench`: the presets against each other, through the service, on the same prompts."""

from __future__ import annotations

import argparse
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import get_args

from cluster.bench.contestant import contestant
from cluster.bench.peer import PEERS
from cluster.bench.peer_process import PeerProcess
from cluster.bench.run import PeerRoom, run_bench
from cluster.bench.workload import Text, Workload, held_out_prompts
from cluster.client import RestClient
from cluster.commands.common import (
    FAILED,
    OK,
    Subparsers,
    add_config,
    add_subcommand,
    api_key,
    check_writable,
    http_url,
    lookahead,
    positive,
    progress,
    startable_config,
    temperature,
)
from cluster.config import RootConfig
from cluster.local import LocalService
from ssd_core.config import PRESETS
from ssd_core.errors import ConfigError

EXAMPLES = """\
  ssd-serve bench --json results/bench.json
  ssd-serve bench --presets ar,sd,ssd-tree --temperature 0 0.8 --prompts 24 --repeats 3
  ssd-serve bench --presets ar,ssd-tree,ssd-tree:self_tuning=false:tree_nodes=4,sd:lookahead=3
  ssd-serve bench --concurrency 8 --prompts 32
  ssd-serve bench --presets ar,sd,ssd-tree --peers hf-plain,hf-assisted      ... and transformers, plain and with the draft as assistant
  ssd-serve bench --url http://127.0.0.1:8000      a service that is up; SSD_API_KEY is its key, if it wants one

exit code 1: some preset, or a peer at T=0, answered with other tokens than the rest"""


def add(subparsers: Subparsers) -> None:
    parser = add_subcommand(subparsers, "bench", run, "Measure the presets against each other, alternating, on held-out prompts.", EXAMPLES)
    parser.add_argument(
        "--presets",
        type=_presets,
        default=PRESETS,
        metavar="A,B,...",
        help=f"each a preset, or one with settings (default: {','.join(PRESETS)})",
    )
    peers_help = f"the same models run by others on as many cores, out of {','.join(PEERS)} (default: none)"
    parser.add_argument("--peers", type=_peers, default=(), metavar="A,B,...", help=peers_help)
    parser.add_argument("--text", choices=get_args(Text), default="any", help="kind of the prompts (default: any)")
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
    where.add_argument("--url", type=http_url, metavar="URL", help="measure a service that is up instead of starting one")


def run(args: argparse.Namespace) -> int:
    workload = Workload(
        prompts=held_out_prompts(args.prompts, args.text),
        presets=args.presets,
        peers=args.peers,
        temperatures=tuple(args.temperature),
        concurrency=args.concurrency,
        repeats=args.repeats,
        max_tokens=args.max_tokens,
        lookahead=args.lookahead,
    )
    _check_peers(args)
    check_writable("--json", args.json)
    check_writable("--chart", args.chart)
    with ExitStack() as stack:
        url, key, room = args.url, api_key(), None
        if url is None:
            config = startable_config(args.config or "demo")
            service = stack.enter_context(LocalService(config, progress=progress))
            url, key = service.url, service.api_key
            room = _peer_room(config, stack) if workload.peers else None
        client = stack.enter_context(RestClient(url, api_key=key))
        report = run_bench(workload, client, command_line(args.argv), progress, room)
    print(report.text())
    if args.json:
        report.write(args.json)
        progress(f"wrote {args.json}")
    if args.chart:
        from cluster.bench.chart import write_chart

        write_chart(report, args.chart)
        progress(f"wrote {args.chart}")
    return OK if report.is_exact else FAILED


def _check_peers(args: argparse.Namespace) -> None:
    """Raises ConfigError where there would be nothing to compare."""
    if args.peers and args.concurrency > 1:
        raise ConfigError(f"--concurrency = {args.concurrency}: a peer answers one request at a time; leave out --peers")
    if args.peers and args.url:
        raise ConfigError(f"--url = {args.url}: peers run the models of a service's configuration; name it with --config instead")


def _peer_room(config: RootConfig, stack: ExitStack) -> PeerRoom:
    target, draft = config.service.target, config.service.draft
    progress("loading the peers' models")
    models = stack.enter_context(PeerProcess(target.engine, draft.engine))
    return PeerRoom(models, target.num_replicas * target.engine.num_threads + draft.num_actors * draft.engine.num_threads)


def command_line(argv: list[str]) -> str:
    return shlex.join(["ssd-serve", *argv])


def _presets(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    try:
        for name in names:
            contestant(name)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if len(set(names)) != len(names):
        raise argparse.ArgumentTypeError(f"{text!r}: each once, out of {', '.join(PRESETS)}")
    return names


def _peers(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not set(names) <= set(PEERS) or len(set(names)) != len(names):
        raise argparse.ArgumentTypeError(f"{text!r}: each once, out of {', '.join(PEERS)}")
    return names

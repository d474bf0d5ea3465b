"""`ssd-serve generate PROMPT`: one completion, shown as it arrives; in this process, or from a running service."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from cluster.client import CompletionRequest, RestClient
from cluster.commands.common import (
    OK,
    Subparsers,
    add_preset,
    add_subcommand,
    api_key,
    http_url,
    lookahead,
    positive,
    progress,
    seed,
    temperature,
    utf8,
)
from ssd_core.config import SpeculationConfig
from ssd_core.errors import ConfigError

EXAMPLES = """\
  ssd-serve generate 'def fibonacci(n):'
  ssd-serve generate 'import os' --temperature 0.8 --seed 7 --preset ssd
  ssd-serve generate - --url http://127.0.0.1:8000 < prompt.txt      a service that is up; SSD_API_KEY is its key, if it wants one"""


def add(subparsers: Subparsers) -> None:
    parser = add_subcommand(subparsers, "generate", run, "Complete one prompt and show the text as it arrives.", EXAMPLES)
    parser.add_argument("prompt", type=utf8, metavar="PROMPT", help="the text to go on from; - reads it from standard input")
    add_preset(parser)
    parser.add_argument("--lookahead", type=lookahead, metavar="K", help="length of a chain speculation (sd, ssd)")
    parser.add_argument("--max-tokens", type=positive, default=128, metavar="N", help="longest output (default: 128)")
    parser.add_argument("--temperature", type=temperature, default=0.0, metavar="T", help="0 is greedy (default: 0)")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="same seed, same text, in every preset (default: 0)")
    parser.add_argument("--url", type=http_url, metavar="URL", help="a running service; without it both models run in this process")


def run(args: argparse.Namespace) -> int:
    prompt = _standard_input() if args.prompt == "-" else args.prompt
    request = CompletionRequest(
        prompt=prompt,
        preset=args.preset,
        lookahead=args.lookahead,
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        seed=args.seed,
    )
    for piece in _from_service(args.url, request) if args.url else _in_process(request):
        print(piece, end="", flush=True)
    print()
    return OK


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"PROMPT = -: standard input is not UTF-8 text ({error.reason} at byte {error.start})") from error


def _from_service(url: str, request: CompletionRequest) -> Iterator[str]:
    with RestClient(url, api_key=api_key()) as client:
        yield from client.stream(request)


def _in_process(request: CompletionRequest) -> Iterator[str]:
    progress("loading the embedded pair")
    from ssd_core.generate import Pair

    wanted = {"preset": request.preset, "lookahead": request.lookahead}
    speculation = SpeculationConfig.model_validate({name: value for name, value in wanted.items() if value is not None})
    pair = Pair.load()
    chunks = pair.stream(
        request.prompt,
        speculation=speculation,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        seed=request.seed,
    )
    for chunk in chunks:
        yield chunk.text

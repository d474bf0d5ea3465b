"""What several subcommands share: where lines go, and the arguments that mean the same everywhere."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import httpx
from pydantic import ValidationError

from cluster.config import CONFIGS, RootConfig, load_config
from deployments.preflight import Findings, inspect_service
from ssd_core.config import PRESETS, SpeculationConfig
from ssd_core.errors import ConfigError

OK, FAILED, USAGE = 0, 1, 2
"""Exit codes: done; a check or the service failed; the command line or the configuration is wrong."""

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
_STARTED = time.monotonic()


def progress(line: str) -> None:
    """What is going on, with the seconds since the start, to stderr: results alone go to stdout."""
    print(f"[{time.monotonic() - _STARTED:6.1f} s] {line}", file=sys.stderr, flush=True)


def check_writable(option: str, *files: Path | None) -> None:
    """Raises ConfigError unless each can be written, before the work that is to fill it. Makes the folders they need."""
    for file in files:
        if file is None:
            continue
        folder = file.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{option} = {file}: the folder {folder} cannot be made: {error.strerror}") from error
        if file.is_dir() or not os.access(file if file.exists() else folder, os.W_OK):
            raise ConfigError(f"{option} = {file}: {'it is a folder' if file.is_dir() else 'it cannot be written'}")


def write_file(path: Path, text: str) -> None:
    """With the folders it needs, and say so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    progress(f"wrote {path}")


def add_subcommand(
    subparsers: Subparsers, name: str, run: Callable[[argparse.Namespace], int], purpose: str, examples: str
) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        name, help=purpose, description=purpose, epilog=f"examples:\n{examples}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run=run)
    return parser


def find_config(name: str) -> RootConfig:
    """The configuration in a file, or in the shipped example of that name. Raises ConfigError."""
    shipped = {path.stem: path for path in CONFIGS.glob("*.yaml")}
    if name in shipped and not Path(name).is_file():
        return load_config(shipped[name])
    if not Path(name).exists():
        raise ConfigError(f"{name}: no such file, nor a shipped example ({', '.join(sorted(shipped))})")
    return load_config(name)


def startable_config(name: str) -> RootConfig:
    """As `find_config`, with the files it names looked at, those of the hub fetched. Raises ConfigError."""
    config = find_config(name)
    raise_mistakes(name, inspect_service(config.service))
    return config


def raise_mistakes(name: str, findings: Findings) -> None:
    """Raises ConfigError with a line for each mistake in the service of the configuration `name`."""
    if findings.mistakes:
        raise ConfigError("\n".join(f"{name}: service.{mistake}" for mistake in findings.mistakes))


def api_key() -> str | None:
    """The key for a service that wants one. From the environment: an argument would show in the list of processes."""
    return os.environ.get("SSD_API_KEY")


def add_config(parser: argparse._ActionsContainer, *, is_option: bool = False) -> None:
    names = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.yaml")))
    text = f"a YAML file, or a shipped example: {names}"
    if is_option:
        parser.add_argument("--config", metavar="CONFIG", help=f"service to start: {text} (default: demo)")
    else:
        parser.add_argument("config", metavar="CONFIG", help=text)


def add_preset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", choices=PRESETS, help="how to speculate (default: as the service is configured)")


def http_url(text: str) -> str:
    shown = text.rpartition("@")[2]  # without the password that may stand before it
    try:
        url = urlsplit(text)
        is_complete = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        httpx.URL(text)  # the client's own opinion
    except (httpx.InvalidURL, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{shown!r}: {error}") from error
    if not is_complete:
        raise argparse.ArgumentTypeError(f"{shown!r} is not of the form http://HOST:PORT")
    return text


def utf8(text: str) -> str:
    """Bytes of the command line that are no text arrive as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError(f"not UTF-8 text (at character {error.start})") from error
    return text


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def positive_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return value


def lookahead(text: str) -> int:
    """As `SpeculationConfig.lookahead` allows."""
    try:
        return SpeculationConfig(lookahead=int(text)).lookahead
    except ValidationError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.errors()[0]['msg']}") from error


def seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{value} is not in 0 ... 2^63 - 1")
    return value


def temperature(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"{text} is not a finite number of 0 or more")
    return value

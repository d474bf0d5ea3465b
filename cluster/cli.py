"""`ssd-serve`: the command line. Exit codes: 0 done, 1 a check or the service failed, 2 wrong usage or configuration, 130 Ctrl-C.

Whatever goes wrong outside the program ends with a line on stderr; a traceback is a mistake of ours."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from ssd_core.errors import ConfigError, InvalidRequestError, SSDError

INTERRUPTED = 130

DESCRIPTION = "Speculative speculative decoding, served by Ray: exact tokens, drafted while the target verifies."
EXAMPLES = """\
examples:
  ssd-serve demo                                  see it work on this machine
  ssd-serve up demo                               a service to send requests to
  ssd-serve generate 'def fibonacci(n):'          one completion, without a service
  ssd-serve bench --json results/bench.json       measure
  ssd-serve plan --bench results/bench.json       which preset, at which price, with how many drafts
  ssd-serve autoscale simulate diurnal            the scaling policies over a day
  ssd-serve experiments plot                      the pictures of cluster/experiments/README.md
  ssd-serve loadtest --url URL --ramp 1           ever more load on a running service
  ssd-serve dashboards push --url URL             what speculation does, in Grafana
  ssd-serve COMMAND --help                        more about one of them"""


def build_parser() -> argparse.ArgumentParser:
    from cluster.commands import autoscale, bench, dashboards, demo, experiments, generate, inflate, loadtest, plan, up, validate

    parser = argparse.ArgumentParser(
        prog="ssd-serve", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (demo, up, generate, bench, plan, autoscale, experiments, loadtest, dashboards, inflate, validate):
        command.add(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        # These imports take a second, in which Ctrl-C is to end as quietly as later.
        from cluster.commands.common import FAILED, USAGE

        args = build_parser().parse_args(words)
        args.argv = words
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except (ConfigError, InvalidRequestError) as error:
        return _fail(USAGE, error)
    except SSDError as error:
        return _fail(FAILED, error)
    except BrokenPipeError:  # whoever read the output has left: `ssd-serve ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still held back for it goes nowhere
        return FAILED
    except OSError as error:
        return _fail(FAILED, _of_the_system(error))
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, "interrupted")


def _terminate(signum: int, frame: FrameType | None) -> None:
    """As Ctrl-C: whatever was started is stopped on the way out, which a second SIGTERM does not cut short."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _of_the_system(error: OSError) -> str:
    """The file, where there is one, and what the system says."""
    return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)


def _fail(code: int, error: Exception | str) -> int:
    print(f"ssd-serve: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

"""`ssd-serve dashboards`: into a running Grafana, or as files for Prometheus, Grafana and Kubernetes."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from cluster.commands.common import OK, Subparsers, add_subcommand, check_writable, http_url, progress, write_file

TOKEN = "GRAFANA_TOKEN"
EXAMPLES = f"""\
  {TOKEN}=... ssd-serve dashboards push --url https://grafana.example       folder, data source, dashboards, alert rules
  ssd-serve dashboards push --url http://admin:secret@localhost:3000 --prometheus http://localhost:9090
  ssd-serve dashboards render --out monitoring --target localhost:8000     the same as files, with Prometheus' own

Pushing again brings everything up to date and makes nothing twice. A token in the environment does not show in the list of processes."""


def add(subparsers: Subparsers) -> None:
    parser = add_subcommand(subparsers, "dashboards", run, "Show what speculation does, in Grafana, from Prometheus.", EXAMPLES)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    pushing = actions.add_parser("push", help="bring everything into a running Grafana")
    pushing.add_argument(
        "--url", type=http_url, required=True, help=f"Grafana's; its token is taken from {TOKEN}, or user and password stand in it"
    )
    rendering = actions.add_parser("render", help="write the files")
    rendering.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    rendering.add_argument("--target", action="append", metavar="HOST:PORT", help="of the service (default: localhost:8000; repeatable)")
    rendering.add_argument("--key-file", metavar="FILE", help="on Prometheus' machine: the service's API key")
    for action in (pushing, rendering):
        default = "http://localhost:9090"
        action.add_argument("--prometheus", default=default, metavar="URL", help=f"as Grafana reaches it (default: {default})")


def run(args: argparse.Namespace) -> int:
    from cluster.monitoring.grafana import push  # Grafana's client takes a third of a second, and every command would wait for it
    from cluster.monitoring.render import files

    if args.action == "push":
        for line in push(args.url, os.environ.get(TOKEN), args.prometheus):
            progress(line)
        return OK
    rendered = files(args.target or ["localhost:8000"], args.prometheus, args.key_file)
    check_writable("--out", *(args.out / path for path in rendered))
    for path, text in rendered.items():
        write_file(args.out / path, text)
    return OK

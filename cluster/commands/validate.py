"""`ssd-serve validate CONFIG`: is this configuration right, and are the files it names? Starts nothing."""

from __future__ import annotations

import argparse

from cluster.commands.common import OK, Subparsers, add_config, add_subcommand, find_config, raise_mistakes
from deployments.preflight import inspect_service

EXAMPLES = """\
  ssd-serve validate my.yaml     each mistake gets a line: file, field, value, what is wrong; exit code 2
                                 models that only the hub has are named as not checked: nothing is downloaded
  ssd-serve validate demo        the shipped example"""


def add(subparsers: Subparsers) -> None:
    parser = add_subcommand(subparsers, "validate", run, "Check a configuration without starting anything.", EXAMPLES)
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    config = find_config(args.config)
    service = config.service
    findings = inspect_service(service, downloads=False)
    for line in findings.unchecked:
        print(f"{args.config}: not checked: service.{line}")
    raise_mistakes(args.config, findings)
    print(f"{args.config}: {'the rest is valid' if findings.unchecked else 'valid'}")
    print(f"  {service.model_name} at http://{config.http.host}:{config.http.port}, preset {service.speculation.preset}")
    print(f"  target: {service.target.num_replicas} x {service.target.engine.model} on {service.target.engine.device}")
    print(f"  draft:  {service.draft.num_actors} x {service.draft.engine.model} on {service.draft.engine.device}")
    return OK

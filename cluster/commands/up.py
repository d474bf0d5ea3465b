"""`ssd-serve up CONFIG`: the service, until Ctrl-C."""

from __future__ import annotations

import argparse
import json
import threading

from cluster.commands.common import OK, Subparsers, add_config, add_subcommand, progress, startable_config
from cluster.local import LocalService

EXAMPLES = """\
  ssd-serve up demo              the embedded pair on this machine
  ssd-serve up my.yaml           as described there"""


def add(subparsers: Subparsers) -> None:
    parser = add_subcommand(subparsers, "up", run, "Start the service and keep it up until Ctrl-C.", EXAMPLES)
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    config = startable_config(args.config)
    try:
        with LocalService(config, progress=progress) as service:
            key = "" if service.api_key is None else " -H 'authorization: Bearer '$SSD_API_KEY"
            body = json.dumps({"model": config.service.model_name, "prompt": "import os\n", "max_tokens": 64, "stream": True})
            print(f"up at {service.url}; Ctrl-C ends it. Try:")
            print(f"  curl -N {service.url}/v1/completions -H 'content-type: application/json'{key} -d '{body}'")
            print(f"Its Ray, for a Python handle: {service.joining}", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        progress("down")
    return OK

"""Generation from Python, without HTTP, from a running service.

serve run deployments.app:build_app
python -m deployments.example_handle "def fibonacci(n):" --application default
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import ray
from ray import serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", nargs="?", default="def fibonacci(n):\n")
    parser.add_argument("--application", default="ssd", help="name of the Serve application")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--preset", help="how to speculate: ar, sd, tree, ssd, ssd-tree")
    args = parser.parse_args()

    if not ray.is_initialized():
        ray.init(address="auto", log_to_driver=False)
    ingress: Any = serve.get_app_handle(args.application).options(stream=True)
    fields = {"max_tokens": args.max_tokens, "temperature": args.temperature, "preset": args.preset}
    for chunk in ingress.generate.remote(args.prompt, **fields):
        sys.stdout.write(chunk.text)
        sys.stdout.flush()
        if chunk.finish_reason is not None:
            stats = chunk.stats
            sys.stdout.write(f"\n--- {chunk.finish_reason.value}: {stats.num_tokens} tokens in {stats.num_rounds} rounds, ")
            sys.stdout.write(f"{stats.num_accepted} speculated ones accepted\n")


if __name__ == "__main__":
    main()

"""`ssd-serve inflate`: a small model as a checkpoint of a large one's shape, with the small one's text and the large one's cost."""

from __future__ import annotations

import argparse
from pathlib import Path

from cluster.commands.common import OK, Subparsers, add_subcommand, check_writable, progress
from ssd_core.config import EngineConfig
from ssd_core.errors import ConfigError

EXAMPLES = """\
  ssd-serve inflate embedded:target 32B /models/target-32b
  ssd-serve inflate embedded:draft 0.6B /models/draft-0.6b --device cuda
  vllm bench latency --model /models/target-32b     any engine runs it

Our own engine needs no files for it: `model: embedded:target@32B` in a configuration inflates at the start."""


def add(subparsers: Subparsers) -> None:
    parser = add_subcommand(
        subparsers, "inflate", run, "Write a small Qwen3 model as a checkpoint of a large shape that computes the same function.", EXAMPLES
    )
    parser.add_argument("model", metavar="MODEL", help="embedded:target, embedded:draft, or a Qwen3 model's name or folder")
    parser.add_argument("shape", metavar="SHAPE", help="8B, 32B or 0.6B (Qwen3's), 70B or 1B (the sizes of Llama's)")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where to write; zeros take no room on the disk")
    parser.add_argument("--device", default="cpu", help="where to build it: it must fit there (default: cpu)")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"), help="(default: bfloat16)")


def run(args: argparse.Namespace) -> int:
    from ssd_core.engine.inflate import inflate, shape_config
    from ssd_core.engine.loader import resolve
    from ssd_core.engine.sparse_checkpoint import write_sparse
    from ssd_core.engine.weights import find_device, load_model

    if args.folder.exists() and not args.folder.is_dir():
        raise ConfigError(f"FOLDER = {args.folder}: it is a file")
    if args.folder.exists() and any(args.folder.iterdir()):
        raise ConfigError(f"FOLDER = {args.folder}: it is not empty")
    find_device(args.device)
    check_writable("FOLDER", args.folder / "model.safetensors")
    small = load_model(EngineConfig(model=args.model, dtype=args.dtype))
    large = inflate(small, shape_config(small.config, args.shape), args.device, small.dtype)
    write_sparse(large, args.folder, resolve(args.model))
    file = args.folder / "model.safetensors"
    progress(f"wrote {file}: {file.stat().st_size / 1e9:.1f} GB, {file.stat().st_blocks * 512 / 1e9:.1f} GB of them on the disk")
    return OK

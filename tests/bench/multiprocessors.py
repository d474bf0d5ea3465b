"""Whether the engine is right on shares of a GPU: `python -m tests.bench.multiprocessors` runs it over MPS at several shares.

Each share is a process of its own, with random weights in bfloat16 in the shapes of a draft and of targets with few layers. Its
logits of a long prompt, a tree and a decoded token are compared with the model's own in float32, as ratios of Euclidean norms. The
MPS daemon is started for as long as this runs, in folders of its own; no setting of the device is changed.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel, Qwen3Config

from ssd_core.engine import library_check
from ssd_core.engine.base import TRUNK_END, Part
from ssd_core.engine.inflate import COMMON, SHAPES, empty_model
from ssd_core.engine.torch_engine import TorchEngine

SHARES = (12, 25, 38, 45, 50, 55, 60, 66, 70, 75, 78, 80, 88, 91, 94, 100)
LAYERS = {"0.6B": 28, "8B": 4, "32B": 4}
PROMPT_TOKENS = 700
AT_ONCE = 4
"""Shares that are tried at the same time, as clients of one MPS daemon."""
MAX_ERROR = 0.03
"""Three times what bfloat16 gives at 132 multiprocessors."""


def random_model(shape: str) -> PreTrainedModel:
    config = Qwen3Config(**{**SHAPES[shape], "num_hidden_layers": LAYERS[shape]}, **COMMON, tie_word_embeddings=False)
    model = empty_model(config, "cuda", torch.bfloat16)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.02) if parameter.ndim > 1 else torch.nn.init.ones_(parameter)
    return model


@torch.inference_mode()
def error_of(shape: str) -> float:
    """The engine's logits of a prompt's end, a tree below it and a token after it, against float32."""
    model = random_model(shape)
    tokens = [(i * 7919 + 17) % COMMON["vocab_size"] for i in range(PROMPT_TOKENS + 4)]
    exact = copy.deepcopy(model).float()
    with sdpa_kernel(SDPBackend.MATH):
        expected = exact(input_ids=torch.tensor([tokens], device="cuda"), use_cache=False).logits[0, PROMPT_TOKENS - 1 :]
    del exact
    engine = TorchEngine(model, 2**30, 4096)
    engine.open("s", PROMPT_TOKENS + 16)
    prompt = Part("s", tokens[:PROMPT_TOKENS], range(TRUNK_END, PROMPT_TOKENS - 1), PROMPT_TOKENS - 1)
    logits = [engine.evaluate([prompt]).clone()]
    engine.advance("s", range(PROMPT_TOKENS))
    first, second, third, last = tokens[PROMPT_TOKENS:]
    tree = engine.evaluate([Part("s", [first, 5, second, third], [TRUNK_END, TRUNK_END, 0, 2])])
    logits.append(tree[[0, 2, 3]].clone())
    engine.advance("s", [0, 2, 3])
    logits.append(engine.evaluate([Part("s", [last], [TRUNK_END])]).clone())
    found = torch.cat(logits)
    return (torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected)).item()


def one_share() -> dict[str, object]:
    count = torch.cuda.get_device_properties(0).multi_processor_count
    was_right = library_check.are_right(
        [(4096, 1024), (1024, 3072), (10240, 5120)], torch.device("cuda"), torch.bfloat16, torch.nn.functional.linear
    )
    began = time.perf_counter()
    errors = {}
    for shape in LAYERS:
        errors[shape] = round(error_of(shape), 5)
        torch.cuda.empty_cache()
    seconds = round(time.perf_counter() - began, 1)
    told = count - (torch._C._get_sm_carveout_experimental() or 0)
    return {"multiprocessors": count, "library is told of": told, "library was right": was_right, "errors": errors, "seconds": seconds}


def start(share: int, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.bench.multiprocessors", "--one"],
        env={**environment, "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": str(share)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(process: subprocess.Popen[str]) -> dict[str, object]:
    out, errors = process.communicate()
    result: dict[str, object] = json.loads(out.splitlines()[-1]) if process.returncode == 0 else {"failed": errors[-500:]}
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", type=int, nargs="+", default=SHARES, help="percentages of the device")
    parser.add_argument("--one", action="store_true", help="this process only, on whatever share it has")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.one:
        sys.stdout.write(json.dumps(one_share()) + "\n")
        return 0
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        mps = os.environ | {"CUDA_MPS_PIPE_DIRECTORY": f"{folder}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{folder}/log"}
        for name in ("pipe", "log"):
            Path(folder, name).mkdir()
        subprocess.run(["nvidia-cuda-mps-control", "-d"], env=mps, check=True)
        try:
            for at_once in range(0, len(args.shares), AT_ONCE):
                processes = {share: start(share, mps) for share in args.shares[at_once : at_once + AT_ONCE]}
                rows += [{"share": share, **outcome(process)} for share, process in processes.items()]
                sys.stdout.write("".join(f"{row}\n" for row in rows[at_once:]))
                sys.stdout.flush()
        finally:
            subprocess.run(["nvidia-cuda-mps-control"], env=mps, input="quit\n", text=True, check=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    wrong = [row["share"] for row in rows if "failed" in row or not all(e <= MAX_ERROR for e in row["errors"].values())]
    sys.stdout.write((f"wrong at shares {wrong}" if wrong else f"right at {len(rows)} shares") + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

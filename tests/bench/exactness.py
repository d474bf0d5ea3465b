"""Whether presets give the same tokens on a GPU, where batches of different shapes round differently: `python -m tests.bench.exactness`.

The embedded pair, inflated, both models in this process and on one device. Said for each preset: in how many answers a token differs from
plain decoding's, and where it does first (after that the texts have parted).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from cluster.bench.workload import held_out_prompts
from ssd_core.config import EngineConfig
from ssd_core.engine.inflate import SHAPES
from ssd_core.engine.loader import load_tokenizer
from ssd_core.engine.measure import measure_step_times
from ssd_core.engine.torch_engine import TorchEngine
from ssd_core.generate import Pair


def inflated_engine(name: str, shape: str) -> TorchEngine:
    return TorchEngine.load(EngineConfig(model=f"embedded:{name}@{shape}", device="cuda", dtype="bfloat16", kv_budget_bytes=4 * 2**30))


def inflated_pair(target_shape: str, draft_shape: str) -> Pair:
    target, draft = inflated_engine("target", target_shape), inflated_engine("draft", draft_shape)
    loaded = load_tokenizer("embedded:target")
    step_times = measure_step_times(target, (1, 8, 16, 32, 64), context=256, repeats=3)
    return Pair(target, draft, loaded.tokenizer, loaded.eos_token_ids, step_times=step_times)


def answers(pair: Pair, preset: str, temperature: float, arguments: argparse.Namespace) -> Iterator[tuple[int, ...]]:
    for seed, prompt in enumerate(held_out_prompts(arguments.prompts)):
        completion = pair.generate(
            prompt, preset=preset, temperature=temperature, seed=seed, max_tokens=arguments.max_tokens, ignore_eos=True
        )
        yield completion.tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="8B")
    parser.add_argument("--draft-shape", choices=SHAPES, default="0.6B")
    parser.add_argument("--presets", nargs="+", default=["sd", "ssd", "ssd-tree"])
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.0, 0.8])
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--max-tokens", type=int, default=96)
    arguments = parser.parse_args()
    pair = inflated_pair(arguments.shape, arguments.draft_shape)
    for temperature in arguments.temperature:
        plain = list(answers(pair, "ar", temperature, arguments))
        for preset in arguments.presets:
            own = answers(pair, preset, temperature, arguments)
            firsts = [
                next((i for i, (a, b) in enumerate(zip(*both, strict=True)) if a != b), None) for both in zip(plain, own, strict=True)
            ]
            parted = [first for first in firsts if first is not None]
            sys.stdout.write(f"T={temperature} {preset}: {len(parted)} of {len(plain)} answers differ, first at {parted}\n")


if __name__ == "__main__":
    main()

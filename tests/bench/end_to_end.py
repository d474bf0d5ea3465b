"""Our presets against each other and against vLLM, on the same checkpoint and prompts, one GPU for the target and one for the draft:

    python -m tests.bench.end_to_end --shape 32B --draft-shape 0.6B --vllm ar sd ngram --json result.json

The embedded pair, inflated: the cost of the large shapes, the text of the small ones. First the whole service is started, HTTP included,
and its presets alternate; then vLLM's engines are loaded one to a GPU, because they do not fit beside it. `--gpus 1` has target and draft
share one, to try things; `--shape none --device cpu` takes the small pair as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from cluster.bench.report import Report
from cluster.bench.run import run_bench
from cluster.bench.workload import Workload, held_out_prompts
from cluster.client import CompletionRequest, RestClient
from cluster.commands.common import progress
from cluster.config import HttpConfig, RootConfig
from cluster.local import APP_NAME, LocalService
from deployments.config import DraftConfig, ServiceConfig, TargetConfig
from ssd_core.config import EngineConfig, SpeculationConfig
from ssd_core.engine.inflate import SHAPES
from ssd_core.engine.loader import load_tokenizer, resolve
from ssd_core.engine.sparse_checkpoint import write_sparse
from ssd_core.engine.weights import load_model
from tests.bench.bandwidth import copy_bandwidth
from tests.bench.comparison import Comparison, Facts, Scene, comparison
from tests.bench.timeline import Window, last_second

OUTPUT_ROOM = 64
"""Tokens between a prompt of the longest context with its answer and the longest sequence of the engines."""
TIMELINE_TOKENS = 512
"""Of the answer whose last second is drawn."""
WIDTH = {"tree_nodes": 32, "branching": 8, "growth_width": 16, "growth_limit": 512, "lookahead": 10, "fan_out": 4}
"""A pass over 32 nodes costs a GPU hardly more than one over a single node: more is submitted and grown than on a CPU. The best of
those that NOTES.md tried in virtual time."""


def scenes(arguments: argparse.Namespace) -> Iterator[Scene]:
    """Long contexts with few sessions only: what they need of the KV budget must be there."""
    varied = (arguments.context, arguments.batch, arguments.temperature)
    for context, batch, temperature in one_at_a_time(*varied) if arguments.one_at_a_time else product(*varied):
        if context * batch <= arguments.max_tokens_in_flight:
            yield Scene(context, batch, temperature, prompts_of(context, max(arguments.prompts, 2 * batch)))


def one_at_a_time(*varied: Sequence[Any]) -> Iterator[list[Any]]:
    """The first of each; then each other one with the first of the rest."""
    firsts = [values[0] for values in varied]
    yield firsts
    for place, values in enumerate(varied):
        for value in values[1:]:
            yield [*firsts[:place], value, *firsts[place + 1 :]]


def prompts_of(context: int, number: int) -> tuple[str, ...]:
    """Held-out prompts, each behind as much of the others as makes about `context` tokens."""
    tokenizer = load_tokenizer("embedded:target").tokenizer
    texts = held_out_prompts(256)
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    prompts = []
    for own in range(number):
        before: list[int] = []
        other = own
        while len(before) + len(ids[own]) < context:
            other = (other + 1) % len(ids)
            before = ids[other] + before
        prompts.append(tokenizer.decode((before + ids[own])[-context:]))
    return tuple(prompts)


def service_config(arguments: argparse.Namespace) -> RootConfig:
    share = 1.0 if arguments.gpus > 1 else 0.5
    common: dict[str, Any] = {
        "device": arguments.device,
        "dtype": arguments.dtype,
        "max_model_len": max_model_len(arguments),
        "prefill_chunk_tokens": arguments.prefill_chunk_tokens,
    }
    target = EngineConfig(
        model=inflated("target", arguments.shape),
        kv_budget_bytes=int(arguments.kv_gib * 2**30),
        step_times_nodes=(1, 8, 16, 32, 48, 64, 96, 128, 192, 256),
        **common,
    )
    draft = EngineConfig(model=inflated("draft", arguments.draft_shape), kv_budget_bytes=int(arguments.draft_kv_gib * 2**30), **common)
    num_gpus = share if arguments.device == "cuda" else 0.0
    return RootConfig(
        service=ServiceConfig(
            model_name=f"{arguments.shape}/{arguments.draft_shape}, inflated from the embedded pair",
            target=TargetConfig(engine=target, num_gpus=num_gpus, max_sessions=max(arguments.batch)),
            draft=DraftConfig(engine=draft, num_gpus=num_gpus, max_step_nodes=arguments.max_step_nodes),
            speculation=SpeculationConfig(**{**WIDTH, **json.loads(arguments.speculation)}),
        ),
        http=HttpConfig(port=0),
    )


def max_model_len(arguments: argparse.Namespace) -> int:
    return max(arguments.context) + max(arguments.max_tokens, TIMELINE_TOKENS) + OUTPUT_ROOM


def inflated(name: str, shape: str) -> str:
    return f"embedded:{name}" + ("" if shape == "none" else f"@{shape}")


@dataclass(frozen=True, slots=True)
class Ours:
    reports: list[tuple[Scene, Report]]
    gpu_bytes: int
    """What both models' GPUs hold meanwhile."""
    timeline: Window


def measure_ours(arguments: argparse.Namespace, command: str) -> Ours:
    reports = []
    with LocalService(service_config(arguments), progress=progress) as service, RestClient(service.url, api_key=service.api_key) as client:
        for scene in scenes(arguments):
            progress(f"context {scene.context}, batch {scene.batch}, T={scene.temperature:g}")
            workload = Workload(
                prompts=scene.prompts,
                presets=tuple(arguments.presets),
                temperatures=(scene.temperature,),
                concurrency=scene.batch,
                repeats=arguments.repeats,
                max_tokens=arguments.max_tokens,
                warm_up_tokens=arguments.max_tokens,
            )
            reports.append((scene, run_bench(workload, client, command, progress)))
        return Ours(reports, gpu_bytes_used() if arguments.device == "cuda" else 0, draw(client, arguments))


def draw(client: RestClient, arguments: argparse.Namespace) -> Window:
    """The last second of one answer of the last preset."""
    from ray import serve

    prompt = prompts_of(arguments.context[0], 1)[0]
    client.complete(CompletionRequest(prompt, preset=arguments.presets[-1], max_tokens=TIMELINE_TOKENS, ignore_eos=True))
    return last_second(serve.get_deployment_handle("Target", APP_NAME).spans.remote().result())


def gpu_bytes_used() -> int:
    return sum(total - free for free, total in map(torch.cuda.mem_get_info, range(torch.cuda.device_count())))


def measure_vllm(arguments: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """By mode, what its process wrote: of ever more modes. Each GPU has one engine at a time."""
    models = {"model": folder / "target", "draft": folder / "draft"}
    for (key, path), shape in zip(models.items(), (arguments.shape, arguments.draft_shape), strict=True):
        progress(f"writing the {key}'s checkpoint")
        write_inflated(path, shape, arguments)
    tokenizer = load_tokenizer("embedded:target").tokenizer
    runs = [
        {
            "name": scene.name,
            "batch": scene.batch,
            "temperature": scene.temperature,
            "max_tokens": arguments.max_tokens,
            "prompts": [tokenizer.encode(prompt, add_special_tokens=False).ids for prompt in scene.prompts],
            "repeats": arguments.repeats,
        }
        for scene in scenes(arguments)
    ]
    results: dict[str, Any] = {}
    for first in range(0, len(arguments.vllm), arguments.gpus):
        modes = arguments.vllm[first : first + arguments.gpus]
        processes = [start_vllm(mode, gpu, models, runs, arguments, folder) for gpu, mode in enumerate(modes)]
        for mode, process in zip(modes, processes, strict=True):
            code = process.wait()
            path = folder / f"{mode}.result.json"
            results[mode] = json.loads(path.read_text()) if path.exists() else {}
            if code != 0:
                results[mode]["error"] = (folder / f"{mode}.log").read_text()[-4000:]
        yield results


def write_inflated(folder: Path, shape: str, arguments: argparse.Namespace) -> None:
    name = inflated(folder.name, shape)
    model = load_model(EngineConfig(model=name, device=arguments.device, dtype=arguments.dtype))
    write_sparse(model, folder, resolve(name))
    del model
    torch.cuda.empty_cache()


def start_vllm(
    mode: str, gpu: int, models: dict[str, Path], runs: Sequence[dict[str, Any]], arguments: argparse.Namespace, folder: Path
) -> subprocess.Popen[bytes]:
    progress(f"vLLM {mode}")
    spec = {
        "mode": mode,
        "model": str(models["model"]),
        "draft": str(models["draft"]),
        "num_speculative_tokens": arguments.vllm_tokens,
        "dtype": arguments.dtype,
        "max_model_len": max_model_len(arguments),
        "gpu_memory_utilization": 0.92,
        "kv_cache_memory_bytes": int((arguments.kv_gib + (arguments.vllm_draft_kv_gib if mode == "sd" else 0)) * 2**30),
        "enforce_eager": False,
        "max_num_seqs": max(arguments.batch),
        "multiprocess": True,
        "async_scheduling": True if mode == "sd" else None,  # 0.26 would not by itself, though it can
        "workload": runs,
    }
    path = folder / f"{mode}.json"
    path.write_text(json.dumps(spec))
    environment = {"CUDA_VISIBLE_DEVICES": str(gpu)} if arguments.device == "cuda" else {}
    with (folder / f"{mode}.log").open("wb") as log:
        words = [sys.executable, "-m", "tests.bench.vllm_process", str(path), str(folder / f"{mode}.result.json")]
        return subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=os.environ | environment)


def facts(arguments: argparse.Namespace) -> Facts:
    if arguments.device != "cuda":
        return Facts("CPU", None)
    facts = Facts(f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, torch {torch.__version__}", copy_bandwidth())
    torch.cuda.empty_cache()
    return facts


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=(*SHAPES, "none"), default="32B")
    parser.add_argument("--draft-shape", choices=(*SHAPES, "none"), default="0.6B")
    parser.add_argument("--presets", nargs="+", default=["ar", "sd", "saguaro", "ssd", "ssd-tree"], help="as for `ssd-serve bench`")
    parser.add_argument("--speculation", default="{}", help="JSON: other settings of the service than WIDTH")
    parser.add_argument("--vllm", nargs="*", choices=("ar", "sd", "ngram"), default=[], help="which of vLLM's modes (default: none)")
    parser.add_argument("--vllm-tokens", type=int, default=5, help="tokens that vLLM speculates (default: 5)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 8, 16, 32])
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--context", type=int, nargs="+", default=[512, 4096, 16384])
    parser.add_argument("--one-at-a-time", action="store_true", help="vary one of these three, the first of the others; not all together")
    parser.add_argument("--max-tokens-in-flight", type=int, default=32768, help="scenes with more context in all are left out")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--prompts", type=int, default=6, help="of a scene, and at least two for each place in the batch")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--kv-gib", type=float, default=9.0)
    parser.add_argument("--draft-kv-gib", type=float, default=6.0)
    parser.add_argument("--vllm-draft-kv-gib", type=float, default=3.0, help="vLLM's draft keeps no trees (default: 3)")
    parser.add_argument("--max-step-nodes", type=int, default=64)
    parser.add_argument("--prefill-chunk-tokens", type=int, default=1024)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--trace", type=Path, help="the second of work, for chrome://tracing or Perfetto")
    return parser.parse_args(argv)


def main() -> None:
    arguments = parse()
    command = shlex.join(["python", "-m", "tests.bench.end_to_end", *sys.argv[1:]])
    known = facts(arguments)
    ours = measure_ours(arguments, command)
    if arguments.trace:
        arguments.trace.write_text(json.dumps(ours.timeline.trace()))
    tell(arguments, comparison(known, command, ours.reports, {}, ours.gpu_bytes, ours.timeline))
    with tempfile.TemporaryDirectory() as folder:
        for vllm in measure_vllm(arguments, Path(folder)) if arguments.vllm else ():
            tell(arguments, comparison(known, command, ours.reports, vllm, ours.gpu_bytes, ours.timeline))


def tell(arguments: argparse.Namespace, result: Comparison) -> None:
    """Also before vLLM is measured, and after each of its modes: should one break, nothing is lost."""
    sys.stdout.write(result.text() + "\n")
    if arguments.json:
        arguments.json.write_text(result.to_json())


if __name__ == "__main__":
    main()

"""How long a pass takes on a GPU, by shape, context, sessions and nodes: `python -m tests.bench.passes --shape 32B`.

Weights are random (a model inflated from a small one is mostly zeros, and zeros multiply faster than data). Three times are told: the
graph's own, by events around its replay; the whole pass with its arg-max, from the call to the tokens on the host; and what the host did
before it could wait. The floor is the weights' bytes over the bandwidth of a copy.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from transformers import Qwen3Config

from ssd_core.engine import products
from ssd_core.engine.base import TRUNK_END, Part
from ssd_core.engine.graph_runner import GraphRunner
from ssd_core.engine.inflate import COMMON, SHAPES, empty_model
from ssd_core.engine.measure import fill_trunk
from ssd_core.engine.torch_engine import TorchEngine
from ssd_core.sampling import choices, likeliest
from tests.bench.bandwidth import copy_bandwidth

WARM_UP, REPEATS = 4, 15
ROOM = 1024
"""Cells of a session beyond its context; also the most nodes of a pass."""
NUM_CANDIDATES = 12


class Times(NamedTuple):
    """Medians, milliseconds."""

    batch: int
    nodes: int
    """Of each session."""
    graph: float
    with_choices: float
    with_candidates: float
    """As a draft wants them: the twelve likeliest of every row."""
    host: float


def random_engine(shape: str, kv_gib: float) -> TorchEngine:
    config = Qwen3Config(**SHAPES[shape], **COMMON, tie_word_embeddings=False)
    model = empty_model(config, "cuda", torch.bfloat16)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.02) if parameter.ndim > 1 else torch.nn.init.ones_(parameter)
    return TorchEngine(model, int(kv_gib * 2**30), 32768)


def measure(engine: TorchEngine, sessions: Sequence[str], nodes: int) -> Times:
    """Chains of so many nodes below every trunk's end, forgotten afterwards; long ones as pieces of prompts, for the last logits."""
    logits_from = nodes - 1 if nodes > products.MAX_STREAMED else 0
    parts = [Part(session, range(5, 5 + nodes), range(TRUNK_END, nodes - 1), logits_from) for session in sessions]
    graph, chosen, candidates, host = [], [], [], []
    for _ in range(WARM_UP + REPEATS):
        torch.cuda.synchronize()
        began = time.perf_counter()
        logits = engine.evaluate(parts)
        host.append(time.perf_counter() - began)
        choices(logits)
        chosen.append(time.perf_counter() - began)
        forget(engine, sessions)
        began = time.perf_counter()
        likeliest(engine.evaluate(parts), NUM_CANDIDATES)[0].cpu()
        candidates.append(time.perf_counter() - began)
        forget(engine, sessions)
        graph.append(replay_s(engine))
    return Times(len(sessions), nodes, *(1e3 * median(times[WARM_UP:]) for times in (graph, chosen, candidates, host)))


def forget(engine: TorchEngine, sessions: Sequence[str]) -> None:
    for session in sessions:
        engine.advance(session, [], [])


def replay_s(engine: TorchEngine) -> float:
    """The newest pass's graph once more, by itself."""
    runner = engine._runner
    assert isinstance(runner, GraphRunner) and runner.newest is not None
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    before.record()
    runner.newest.replay()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="0.6B")
    parser.add_argument("--context", type=int, nargs="+", default=[512])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 16, 32, 64])
    parser.add_argument("--kv-gib", type=float, default=8.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    bandwidth = copy_bandwidth()
    engine = random_engine(arguments.shape, arguments.kv_gib)
    floor_ms = engine.flops_per_token / bandwidth * 1e3  # two bytes, and two operations, for each weight
    write = sys.stdout.write
    write(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; {arguments.shape} shape, bfloat16, random weights\n")
    write(f"copy {bandwidth / 1e12:.2f} TB/s; floor {floor_ms:.2f} ms\n")
    results: list[dict[str, object]] = []
    for context in arguments.context:
        write(f"context {context}\n batch  nodes    graph  of floor  +choices  +candidates   host (ms)\n")
        sessions: list[str] = []
        for batch in sorted(arguments.batch):
            if engine.num_free_cells < (batch - len(sessions)) * (context + ROOM):
                write(f"{batch:6}  no room\n")
                continue
            while len(sessions) < batch:
                sessions.append(f"{context}-{len(sessions)}")
                engine.open(sessions[-1], context + ROOM)
                fill_trunk(engine, sessions[-1], context)
            for nodes in arguments.nodes:
                if batch * nodes > ROOM:
                    continue
                times = measure(engine, sessions, nodes)
                results.append({"context": context, "floor_ms": floor_ms, **times._asdict()})
                write(
                    f"{batch:6} {nodes:6} {times.graph:8.3f} {times.graph / floor_ms:8.2f}x {times.with_choices:9.3f} "
                    f"{times.with_candidates:12.3f} {times.host:8.3f}\n"
                )
        for session in sessions:
            engine.close(session)
    if arguments.json:
        arguments.json.write_text(json.dumps({"device": torch.cuda.get_device_name(), "shape": arguments.shape, "passes": results}))


if __name__ == "__main__":
    main()

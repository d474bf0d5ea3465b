"""One layer's attention of a tree pass on a GPU, ours beside others': `python -m tests.bench.attention --shape 32B --context 512 4096`.

Each session has a trunk of random keys and values and, below its end, a tree of nodes with two children each. Ours is launched as
GraphRunner launches it and reads keys and values from the engine's pool. FlexAttention (compiled for each size) and torch's
scaled_dot_product_attention have theirs gathered into one piece. Not timed: that gathering, FlexAttention's block mask, and what ours finds
once for all layers of a pass. FlashInfer is left out: it builds its kernels at first use and wants a network for it, which is not there.

Times are of launches in a CUDA graph. Before each launch a sweep over other memory clears the cache, as a layer's weights do; a graph of
sweeps alone is subtracted. The floor is the bytes of keys and values over the bandwidth of a copy.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch.nn.attention.flex_attention import flex_attention

from ssd_core.engine.graph_runner import GraphRunner
from ssd_core.engine.inflate import SHAPES
from tests.bench.bandwidth import copy_bandwidth
from tests.bench.contestants import Case, ask, difference, flex, flex_options, in_float32, new_runner, sdpa

WARM_UP, REPEATS = 3, 20
LAUNCHES = 10
"""In a graph: its own launch is nothing beside them."""
SWEEP_BYTES = 2**27
"""More than the 50 MiB of an H200's second-level cache."""
WAIT_CYCLES = 200_000
"""That the device waits before a replay, while the host hands it over."""
MAX_DIFFERENCE = 2e-2
"""From float32, of the largest value: far above bfloat16's rounding, far below a mistake."""


class Row(NamedTuple):
    """Medians, microseconds of one launch; None for who could not."""

    context: int
    batch: int
    nodes: int
    ours: float | None
    flex: float | None
    sdpa: float | None
    floor: float
    difference: float
    """The largest of those that are timed."""
    notes: str


class Stopwatch:
    """Times launches that find the cache full of other things."""

    def __init__(self) -> None:
        self._sweep = torch.ones(SWEEP_BYTES // 4, device="cuda")
        self._sweeps = self.captured(lambda: None)

    def captured(self, launch: Callable[[], object]) -> torch.cuda.CUDAGraph:
        """`launch` has run before: what there is to compile is compiled."""
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(LAUNCHES):
                self._sweep.sum()
                launch()
        return graph

    def launch_us(self, graphs: dict[str, torch.cuda.CUDAGraph]) -> dict[str, float]:
        """Medians; the graphs take turns."""
        rounds = [{name: _replay_us(graph) for name, graph in {**graphs, "": self._sweeps}.items()} for _ in range(WARM_UP + REPEATS)]
        medians = {name: median(times[name] for times in rounds[WARM_UP:]) for name in rounds[0]}
        return {name: (medians[name] - medians[""]) / LAUNCHES for name in graphs}


def _replay_us(graph: torch.cuda.CUDAGraph) -> float:
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(WAIT_CYCLES)
    before.record()
    graph.replay()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) * 1e3


def measure(runner: GraphRunner, case: Case, stopwatch: Stopwatch, bandwidth: float, with_flex: bool) -> Row:
    question, ours = ask(runner, case)
    contestants = [("ours", ours), ("sdpa", sdpa(question))]
    if with_flex:
        torch.compiler.reset()  # it counts what was compiled for other sizes, and stops at eight
        compiled = torch.compile(flex_attention, dynamic=False)
        contestants += [("flex", flex(question, compiled, options)) for options in flex_options(question)]
    exact = in_float32(question)
    graphs, differences, notes = {}, [0.0], [] if with_flex else ["flex: no time left to compile"]
    for name, attend in contestants:
        if name in graphs:
            continue
        try:
            off = difference(attend(), exact)
            assert off <= MAX_DIFFERENCE, f"differs by {off:.3f}"
            graphs[name] = stopwatch.captured(attend)
            differences.append(off)
        except Exception as error:  # who cannot do this size says so, and the others go on
            inner = getattr(error, "inner_exception", error)
            notes.append(f"{name}: {type(inner).__name__} {inner}".splitlines()[0][:100])
    us = stopwatch.launch_us(graphs)
    floor = (question.keys.nbytes + question.values.nbytes) / bandwidth * 1e6
    return Row(*case, us.get("ours"), us.get("flex"), us.get("sdpa"), floor, max(differences), "; ".join(notes))


def line(row: Row) -> str:
    def ratio(of: float | None, to: float | None) -> str:
        return f"{of / to:10.2f}x" if of and to else f"{'-':>11}"

    times = "".join(f"{us:9.1f}" if us else f"{'-':>9}" for us in (row.ours, row.flex, row.sdpa, row.floor))
    sizes = f"{row.context:8}{row.batch:6}{row.nodes:6}"
    return f"{sizes}{times}{ratio(row.ours, row.floor)}{ratio(row.flex, row.ours)}{row.difference:12.4f}  {row.notes}".rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="32B")
    parser.add_argument("--context", type=int, nargs="+", default=[512, 4096, 16384])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 16, 32, 64])
    parser.add_argument("--flex-s", type=float, default=70.0, help="once so many seconds have passed FlexAttention is compiled no more")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("attention is measured on a GPU, and torch finds none")
    began = time.perf_counter()
    cases = [Case(*sizes) for sizes in product(arguments.context, arguments.batch, arguments.nodes)]
    longest = max(case.context + case.nodes for case in cases)
    runner = new_runner(arguments.shape, max(arguments.batch) * longest, longest, "cuda", torch.bfloat16)
    stopwatch, bandwidth = Stopwatch(), copy_bandwidth()
    device, sizes, write = torch.cuda.get_device_name(), runner.sizes, sys.stdout.write
    write(f"{device}, torch {torch.__version__}; copy {bandwidth / 1e12:.2f} TB/s; bfloat16, one layer of the {arguments.shape} shape: ")
    write(f"{sizes.Q} query heads, {sizes.H} key-value heads, {sizes.D} wide; microseconds\n")
    write(" context batch nodes     ours     flex     sdpa    floor ours/floor  flex/ours  difference\n")
    rows = []
    for case in cases:
        rows.append(measure(runner, case, stopwatch, bandwidth, with_flex=time.perf_counter() - began < arguments.flex_s))
        write(line(rows[-1]))
        sys.stdout.flush()
    if arguments.json:
        facts = {"device": device, "torch": torch.__version__, "shape": arguments.shape, "bytes_per_s": bandwidth}
        arguments.json.write_text(json.dumps({**facts, "rows": [row._asdict() for row in rows]}))


if __name__ == "__main__":
    main()

"""Compiles for an H100 what passes launch, where there is no GPU: `python -m tests.engine.compile_kernels`, not in Triton's interpreter.

The host's side runs as on a GPU, on a CPU's tensors; in place of each launch its kernel is compiled, with the launch's own types, constants
and options. One line of JSON for each kernel.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

import torch
from transformers import Qwen3Config
from triton import JITFunction, knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from ssd_core import noise_kernel
from ssd_core.engine import cuda_kernels, products
from ssd_core.engine.base import TRUNK_END
from ssd_core.engine.graph_inputs import SHARE
from ssd_core.engine.graph_runner import GraphRunner
from ssd_core.engine.inflate import COMMON, SHAPES, empty_model
from ssd_core.engine.kv import CellPool
from ssd_core.engine.runner import Work

MODULES = (cuda_kernels, products, noise_kernel)
CONTEXT = 2 * SHARE + 44
"""Whole shares of the trunk, and some more."""
PASSES = {"0.6B": (1, products.MAX_STREAMED, 2 * products.MAX_STREAMED), "32B": (16,)}
"""By shape, nodes of the passes: one; several, in the smallest bucket and the largest that is streamed; more, for the library. Two query
heads to a key-value head in the first shape, eight in the other."""


class Compiled(NamedTuple):
    kernel: str
    num_bytes: int
    """Of machine code."""
    shared_bytes: int
    stack_bytes: int
    """Of a thread: where registers are spilled to."""


class NoDevice:
    """Triton's driver, as far as compiling asks it."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Launches:
    """Compiles what is launched and does not run it."""

    def __init__(self) -> None:
        self.kernels: dict[int, Any] = {}
        self.functions: set[str] = set()
        """All that were compiled, with those that they call."""
        driver.set_active(NoDevice())
        launch = JITFunction.run

        def compile_only(function: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
            kernel = launch(function, *args, grid=grid, warmup=True, **options)
            self.kernels[id(kernel)] = kernel
            called = re.findall(r"tt\.func private @([\w.]+?)__", kernel.asm["source"])
            self.functions.update([f"{function.module}.{function.__name__}", *called])

        JITFunction.run = compile_only


def run_passes(shape: str, nodes: tuple[int, ...]) -> None:
    """Of one session, over one layer; nothing is computed."""
    sizes = {**COMMON, **SHAPES[shape], "num_hidden_layers": 1, "vocab_size": 16384}
    config = Qwen3Config(**sizes, tie_word_embeddings=False)
    num_cells = CONTEXT + max(nodes)
    pool = torch.zeros(num_cells + 1, 2 * config.num_key_value_heads * config.head_dim, dtype=torch.bfloat16)
    runner = GraphRunner(empty_model(config, "cpu", torch.bfloat16), [pool], num_cells)
    for count in nodes:
        cells = CellPool(num_cells)
        cells.open("a", num_cells)
        session = cells["a"]
        session.trunk.extend(session.free.pop() for _ in range(CONTEXT))
        session.append([TRUNK_END] * count)
        runner.open("a")
        runner.run(Work([session], [count], [0] * count, [CONTEXT] * count, range(count)))
        runner.close("a")


def stack_bytes(code: bytes) -> int:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return max(map(int, re.findall(r"\b(?:STACK|LOCAL):(\d+)", told)))


def main() -> None:
    launches = Launches()
    for shape, nodes in PASSES.items():
        run_passes(shape, nodes)
    noise_kernel.gumbel_by_triton(0, torch.zeros(4, dtype=torch.int64), 1000)
    ours = {f"{module.__name__}.{name}" for module in MODULES for name, value in vars(module).items() if isinstance(value, JITFunction)}
    assert ours and ours <= launches.functions, f"launched by none of these passes: {sorted(ours - launches.functions)}"
    for kernel in launches.kernels.values():
        code = kernel.asm["cubin"]
        compiled = Compiled(kernel.name, len(code), kernel.metadata.shared, stack_bytes(code))
        sys.stdout.write(json.dumps(compiled._asdict()) + "\n")


if __name__ == "__main__":
    main()

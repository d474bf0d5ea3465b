"""The kernels compile for a GPU. Elsewhere the suite runs them in Triton's interpreter, which takes what no GPU does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

from triton import knobs

ROOT = Path(__file__).parents[2]
MAX_SHARED_BYTES = 227 * 1024
"""That a program may have on an H100 or H200."""
MAX_STACK_BYTES = 16
"""Of a thread: a scalar may be spilled, tiles may not."""


def test_every_kernel_compiles_for_an_h100_and_fits_it() -> None:
    try:
        _ = knobs.nvidia.ptxas, knobs.nvidia.cuobjdump
    except RuntimeError as error:
        pytest.skip(f"this Triton cannot compile for NVIDIA: {error}")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.engine.compile_kernels"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    assert kernels
    for kernel in kernels:
        assert kernel["num_bytes"] > 0 and kernel["shared_bytes"] <= MAX_SHARED_BYTES and kernel["stack_bytes"] <= MAX_STACK_BYTES, kernel

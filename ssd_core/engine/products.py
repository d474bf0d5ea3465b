"""Matrix products on CUDA: few rows stream the weight through our kernels, many go through the library.

A product of few rows may be left in parts, for the kernel after it to add up: cut along its inputs there are enough programs to fill the
device. M rows, I inner width.
"""

from __future__ import annotations

import torch
from triton import cdiv
from triton.tools.tensor_descriptor import TensorDescriptor

from ssd_core.engine import cuda_kernels as kernels

MAX_STREAMED = 128
"""Rows; more of them multiply faster in the library."""
PROGRAMS = 256
"""That fill the device."""
MAX_PARTS = 8
GATED = 2048
"""Outputs of one row that one program gates: enough that starting it does not count."""
TILE_OUTPUTS = 64
"""Rows of a weight that are multiplied at once: the least that fill the matrix unit."""
LEAST_INPUTS = 32
MAX_INPUTS = 128
MAX_STAGES = 4
STAGES_BYTES = 200 * 1024
AHEAD = 256
"""Inputs of each of a tile's rows that are brought to the cache while the kernel before still runs."""


def num_parts(num_outputs: int, num_inputs: int, num_rows: int) -> int:
    """The same for all numbers of rows that are streamed: a row's sums are taken in one order, whoever else is in the pass."""
    if num_rows > MAX_STREAMED:
        return 1
    parts = 1
    while parts < MAX_PARTS and num_outputs // TILE_OUTPUTS * parts < PROGRAMS and num_inputs % (2 * parts * LEAST_INPUTS) == 0:
        parts *= 2
    return parts


def parts_of(x: torch.Tensor, num_outputs: int) -> torch.Tensor:
    """Room for the product of x [M, inputs]: [parts, M, outputs], float32 if it is streamed."""
    num_rows, num_inputs = x.shape
    dtype = torch.float32 if num_rows <= MAX_STREAMED else x.dtype
    return torch.empty(num_parts(num_outputs, num_inputs, num_rows), num_rows, num_outputs, dtype=dtype, device=x.device)


def multiply(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
    """x [M, inputs] times weight [outputs, inputs] to out [parts, M, outputs], whose sum over parts is the product."""
    parts, num_rows, num_outputs = out.shape
    num_inputs = x.shape[1]
    if num_rows > MAX_STREAMED and out.dtype == x.dtype:
        torch.mm(x, weight.T, out=out[0])
        return
    if num_rows > MAX_STREAMED:
        out[0].copy_(x @ weight.T)
        return
    inputs = _tile_inputs(num_inputs // parts)
    kernels.stream_linear[(cdiv(num_outputs, TILE_OUTPUTS), parts)](
        TensorDescriptor.from_tensor(x, [num_rows, inputs]),
        TensorDescriptor.from_tensor(weight, [TILE_OUTPUTS, inputs]),
        weight,
        out,
        num_outputs,
        num_inputs,
        M=num_rows,
        OUTPUTS=TILE_OUTPUTS,
        INPUTS=inputs,
        AHEAD=_ahead(num_inputs // parts),
        PARTS=parts,
        num_warps=4,
        num_stages=_stages((TILE_OUTPUTS + num_rows) * inputs * x.itemsize),
        **kernels.OPTIONS,
    )


def multiply_gated(x: torch.Tensor, gate_up: torch.Tensor, out: torch.Tensor) -> None:
    """silu(x gate^T) * (x up^T), out [M, I], of the `interleaved` weight [2 I, inputs]."""
    num_rows, width = out.shape
    num_inputs = x.shape[1]
    outputs = _gated_outputs(width)
    if num_rows > MAX_STREAMED:
        kernels.gate[(num_rows, cdiv(width, GATED))](x @ gate_up.T, out, width, OUTPUTS=outputs, BLOCK=GATED)
        return
    inputs = _tile_inputs(num_inputs)
    kernels.stream_gated[(width // outputs,)](
        TensorDescriptor.from_tensor(x, [num_rows, inputs]),
        TensorDescriptor.from_tensor(gate_up, [2 * outputs, inputs]),
        gate_up,
        out,
        width,
        num_inputs,
        M=num_rows,
        OUTPUTS=outputs,
        INPUTS=inputs,
        AHEAD=_ahead(num_inputs),
        num_warps=4,
        num_stages=_stages((2 * outputs + num_rows) * inputs * x.itemsize),
        **kernels.OPTIONS,
    )


def _stages(tile_bytes: int) -> int:
    """Tiles in flight, as far as a program's memory goes."""
    return min(MAX_STAGES, STAGES_BYTES // tile_bytes)


def _ahead(num_inputs: int) -> int:
    """How much of its share a program has prefetched: whole lines of the cache, 64 numbers each."""
    return AHEAD if num_inputs % AHEAD == 0 else 0


def interleaved(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """[2 I, inputs]: some rows of gate, as many of up, and so on, so that one tile has both sides of its outputs."""
    width, num_inputs = gate.shape
    outputs = _gated_outputs(width)
    return torch.stack([gate.view(-1, outputs, num_inputs), up.view(-1, outputs, num_inputs)], dim=1).view(2 * width, num_inputs)


def _gated_outputs(width: int) -> int:
    """Rows of gate, and of up, in a tile: half a tile's where there would be too few tiles."""
    fills = width % TILE_OUTPUTS == 0 and width // TILE_OUTPUTS >= PROGRAMS // 2
    return TILE_OUTPUTS if fills else TILE_OUTPUTS // 2


def _tile_inputs(num_inputs: int) -> int:
    inputs = MAX_INPUTS
    while num_inputs % inputs:
        inputs //= 2
    return inputs

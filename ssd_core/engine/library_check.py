"""Whether the library's matrix products are right on this device, and what makes them right where they are not.

cuBLAS 13 multiplies with clusters of thread blocks whose grid it sizes by the device's number of multiprocessors. On a share of
a device (MPS with CUDA_MPS_ACTIVE_THREAD_PERCENTAGE) fewer clusters fit than that number promises, and the products are wrong
without an error: parts of the output are missing, or are not numbers. Told of fewer multiprocessors, it chooses kernels that fit.
Our own kernels do not depend on the number of multiprocessors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from ssd_core.errors import ConfigError

logger = logging.getLogger(__name__)

ROWS = (1, 6, 16, 64, 128, 192, 256, 384, 512, 768, 1024)
"""Rows of the products that are checked: those of decoding, and of pieces of prompts of every size."""
MAX_RELATIVE_ERROR = 1e-2
"""Of a product against the same in float32, as a ratio of Euclidean norms: five times rounding to bfloat16, a twentieth of the
least error seen where tiles were missing."""

FRACTIONS = (2, 4, 8)
"""Parts of the device's multiprocessors that the library is told of where its products are wrong: half of them is enough on
nearly all shares of an H200, a quarter on the others."""

Multiply = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def ensure_right_products(model: nn.Module, multiply: Multiply = nn.functional.linear) -> None:
    """Check products of the shapes of the model's linear layers; if any is wrong, have the library use fewer multiprocessors.

    Raises ConfigError if no number of FRACTIONS makes them right. The setting is the process's, for all of its threads."""
    shapes = sorted({tuple(layer.weight.shape) for layer in model.modules() if isinstance(layer, nn.Linear)})
    parameter = next(model.parameters())
    if are_right(shapes, parameter.device, parameter.dtype, multiply):
        return
    count = torch.cuda.get_device_properties(parameter.device).multi_processor_count
    for fraction in FRACTIONS:
        use_multiprocessors(count, count // fraction)
        if are_right(shapes, parameter.device, parameter.dtype, multiply):
            logger.warning("the library's products are wrong on %d multiprocessors: it is told of %d", count, count // fraction)
            return
    raise ConfigError(
        f"device: the library's matrix products are wrong on this device of {count} multiprocessors; "
        "give the process another share of it (CUDA_MPS_ACTIVE_THREAD_PERCENTAGE)"
    )


def use_multiprocessors(count: int, used: int) -> None:
    """Have the library size its grids for `used` of the device's `count` multiprocessors: cuBLASLt takes such a number from torch."""
    torch.backends.cuda.preferred_blas_library("cublaslt")
    torch._C._set_sm_carveout_experimental(count - used)


@torch.inference_mode()
def are_right(
    shapes: Iterable[Sequence[int]], device: torch.device, dtype: torch.dtype, multiply: Multiply, rows: Sequence[int] = ROWS
) -> bool:
    """Whether products of x [rows, inputs] and weights [outputs, inputs] are what float32 gives."""
    generator = torch.Generator(device=device).manual_seed(0)
    for num_outputs, num_inputs in shapes:
        weight = torch.randn(num_outputs, num_inputs, device=device, dtype=dtype, generator=generator)
        x = torch.randn(max(rows), num_inputs, device=device, dtype=dtype, generator=generator)
        expected = nn.functional.linear(x.float(), weight.float())
        for num_rows in rows:
            error = torch.linalg.vector_norm(multiply(x[:num_rows], weight).float() - expected[:num_rows])
            if not error <= MAX_RELATIVE_ERROR * torch.linalg.vector_norm(expected[:num_rows]):  # not a number: wrong, too
                return False
    return True

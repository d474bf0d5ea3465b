"""Faster operations for a CPU, put in the place of the model's own: the same mathematics in fewer or better kernels.

What speculative decoding gains hangs on T(n) / T(1), the time of n nodes in one pass against one. With torch's own float32 linear
that ratio is bad between 2 and 16 rows: the matrix library repacks the weights on each call. Weights packed once do not need it.

Shapes: I features in, O features out.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

Operation = Callable[[torch.Tensor], torch.Tensor]

PACKING_ROWS = 16
"""oneDNN chooses the packed layout for this many rows. Measured: 4 to 32 differ by less than 5 % over 1 to 32 rows; 1 is bad for all."""
HALF_ERROR = 2.0**-22
"""Largest rounding error, relative to the largest weight, that still counts as none: sums of float32 products err by more.
Weights trained in bfloat16 (8 bits of mantissa) stay below it; all but those under 2^-17 are float16 numbers (11 bits)."""


class HalfLinear(nn.Module):
    """nn.Linear for inference on one CPU thread, input and sums in float32, the weight held by FBGEMM in float16. Half the bytes and a
    better kernel for few rows: half the time of PackedLinear at 1 to 12 rows, 0.7 of it at 32 (AVX2, 320 to 4096 features)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._bias = None if bias is None else bias.detach()
        with warnings.catch_warnings():  # "deprecated", once a process; torch's successor to it costs 15 us more per call
            warnings.simplefilter("ignore", UserWarning)
            self._packed = torch.fbgemm_pack_gemm_matrix_fp16(weight.detach())  # [O, I], opaque
            self.forward(weight.new_zeros(1, self.in_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., I] -> [..., O]."""
        return torch.fbgemm_linear_fp16_weight_fp32_activation(x, self._packed, self._bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self._bias is not None}"


class PackedLinear(nn.Module):
    """nn.Linear for inference, float32 on a CPU. Holds oneDNN's packed weight only."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PACKING_ROWS)  # [O, I], opaque
        self._bias = None if bias is None else bias.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., I] -> [..., O]."""
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")
        return out

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self._bias is not None}"


class LeanRMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, as x / hypot(|x|, sqrt(I eps)) * (sqrt(I) weight): half the time of the models' own code for
    few rows, and less than F.rms_norm, which on a CPU is a chain of small kernels too. Float32."""

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        """weight [..., I]."""
        super().__init__()
        width = weight.shape[-1]
        self._scaled_weight = weight.detach().float() * math.sqrt(width)
        self._root = torch.tensor(math.sqrt(width * eps), device=weight.device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., I] -> [..., I]."""
        return (x / self._length(x)).mul_(self._scaled_weight)

    def apply_(self, x: torch.Tensor) -> None:
        """In place."""
        x.div_(self._length(x)).mul_(self._scaled_weight)

    def _length(self, x: torch.Tensor) -> torch.Tensor:
        length: torch.Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return length.hypot_(self._root)


def has_packed_linear() -> bool:
    """False on builds of torch without oneDNN."""
    return hasattr(torch.ops.mkldnn, "_reorder_linear_weight") and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def has_half_linear() -> bool:
    """False on builds of torch without FBGEMM, and where it runs on one thread of several."""
    has_operation = "fbgemm" in torch.backends.quantized.supported_engines and hasattr(torch, "fbgemm_pack_gemm_matrix_fp16")
    return has_operation and torch.get_num_threads() == 1


def linear_operation(*linears: nn.Linear) -> Operation:
    """One product for several linear layers of the same input: their outputs side by side."""
    weight = torch.cat([linear.weight.detach() for linear in linears]) if len(linears) > 1 else linears[0].weight.detach()
    biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
    assert len(biases) in (0, len(linears)), "some have a bias, some do not"
    bias = torch.cat(biases) if biases else None
    packed = _packed(weight, bias)
    return partial(F.linear, weight=weight, bias=bias) if packed is None else packed.forward


def norm_operation(weight: torch.Tensor, eps: float) -> Operation:
    """x / sqrt(mean(x^2) + eps) * weight."""
    if _is_float32_on_cpu(weight):
        return LeanRMSNorm(weight, eps).forward
    return partial(F.rms_norm, normalized_shape=weight.shape, weight=weight.detach(), eps=eps)


def optimize_for_cpu(model: nn.Module) -> None:
    """Replace, in place, the float32 CPU modules of `model` for which there is a faster equal."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            faster = _faster(child)
            if faster is not None:
                setattr(parent, name, faster)


def _faster(module: nn.Module) -> nn.Module | None:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor) or not _is_float32_on_cpu(weight):
        return None
    if type(module) is nn.Linear:
        return _packed(weight, module.bias)
    eps = getattr(module, "variance_epsilon", None)
    if type(module).__name__.endswith("RMSNorm") and isinstance(eps, float) and weight.ndim == 1:
        lean = LeanRMSNorm(weight, eps)
        return lean if _agree(module, lean, weight) else None  # some multiply by 1 + weight
    return None


def _packed(weight: torch.Tensor, bias: torch.Tensor | None) -> HalfLinear | PackedLinear | None:
    """The fastest linear for this weight; None where torch's own is."""
    if not _is_float32_on_cpu(weight):
        return None
    if has_half_linear() and _fits_half(weight):
        return HalfLinear(weight, bias)
    return PackedLinear(weight, bias) if has_packed_linear() else None


def _is_float32_on_cpu(weight: torch.Tensor) -> bool:
    return weight.dtype == torch.float32 and weight.device.type == "cpu"


def _fits_half(weight: torch.Tensor) -> bool:
    error = (weight - weight.half().float()).abs().max()
    return bool(error <= HALF_ERROR * weight.abs().max())  # an infinity in float16 is no small error


@torch.inference_mode()
def _agree(module: nn.Module, faster: nn.Module, weight: torch.Tensor) -> bool:
    """On one input of the width of `weight`, scaled unevenly."""
    x = torch.linspace(-3, 5, weight.numel()).view(1, 1, -1)
    return torch.allclose(module(x), faster(x), rtol=1e-5, atol=1e-5)

"""Faster modules for a CPU, put in the place of the model's own: the same mathematics in fewer or better kernels.

What speculative decoding gains hangs on T(n) / T(1), the time of n nodes in one pass against one. With torch's own float32 linear
that ratio is bad between 2 and 16 rows: the matrix library repacks the weights on each call. oneDNN with weights packed once does not.

Shapes: I features in, O features out.
"""

from __future__ import annotations

import math

import torch
from torch import nn

PACKING_ROWS = 16
"""oneDNN chooses the packed layout for this many rows. Measured: 4 to 32 differ by less than 5 % over 1 to 32 rows; 1 is bad for all."""


class PackedLinear(nn.Module):
    """nn.Linear for inference, float32 on a CPU. Holds the packed weight only."""

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
    """x / sqrt(mean(x^2) + eps) * weight, as x / sqrt(|x|^2 + I eps) * (sqrt(I) weight): half the time of the models' own code for
    few rows, and less than F.rms_norm, which on a CPU is a chain of small kernels too."""

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        super().__init__()
        self._scaled_weight = weight.detach() * math.sqrt(weight.numel())  # [I]
        self._scaled_eps = weight.numel() * eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., I] -> [..., I]."""
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        out: torch.Tensor = x * norm.mul_(norm).add_(self._scaled_eps).rsqrt_() * self._scaled_weight
        return out


def has_packed_linear() -> bool:
    """False on builds of torch without oneDNN."""
    return hasattr(torch.ops.mkldnn, "_reorder_linear_weight") and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def optimize_for_cpu(model: nn.Module) -> None:
    """Replace, in place, the float32 CPU modules of `model` for which there is a faster equal."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            faster = _faster(child)
            if faster is not None:
                setattr(parent, name, faster)


def _faster(module: nn.Module) -> nn.Module | None:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.dtype != torch.float32 or weight.device.type != "cpu":
        return None
    if type(module) is nn.Linear and has_packed_linear():
        return PackedLinear(weight, module.bias)
    eps = getattr(module, "variance_epsilon", None)
    if type(module).__name__.endswith("RMSNorm") and isinstance(eps, float) and weight.ndim == 1:
        lean = LeanRMSNorm(weight, eps)
        return lean if _agree(module, lean, weight) else None  # some multiply by 1 + weight
    return None


@torch.inference_mode()
def _agree(module: nn.Module, faster: nn.Module, weight: torch.Tensor) -> bool:
    """On one input of the width of `weight`, scaled unevenly."""
    x = torch.linspace(-3, 5, weight.numel()).view(1, 1, -1)
    return torch.allclose(module(x), faster(x), rtol=1e-5, atol=1e-5)

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from ssd_core.engine.linear import LeanRMSNorm, PackedLinear, has_packed_linear, optimize_for_cpu


@pytest.mark.skipif(not has_packed_linear(), reason="this torch has no oneDNN")
@pytest.mark.parametrize("num_rows", [1, 3, 16, 40])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_packed_linear_equals_the_linear_it_replaces(num_rows: int, has_bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 160, bias=has_bias)
    packed = PackedLinear(linear.weight, linear.bias)
    x = torch.randn(1, num_rows, 96)
    torch.testing.assert_close(packed(x), linear(x), rtol=1e-5, atol=1e-5)


def test_a_lean_norm_equals_the_norm_it_replaces() -> None:
    torch.manual_seed(0)
    norm = Qwen3RMSNorm(64, eps=1e-6)
    nn.init.normal_(norm.weight)
    for scale in (1e-4, 1.0, 1e3):
        x = scale * torch.randn(1, 5, 64)
        torch.testing.assert_close(LeanRMSNorm(norm.weight, 1e-6)(x), norm(x), rtol=2e-6, atol=1e-6)


def test_only_what_computes_the_same_is_replaced() -> None:
    model = nn.ModuleDict({
        "linear": nn.Linear(8, 8),
        "brain": nn.Linear(8, 8, dtype=torch.bfloat16),
        "norm": Qwen3RMSNorm(8),
        "adds_one": GemmaRMSNorm(8),
        "embedding": nn.Embedding(8, 8),
    })  # fmt: skip
    optimize_for_cpu(model)
    kinds = {name: type(module) for name, module in model.items()}
    linear = PackedLinear if has_packed_linear() else nn.Linear
    assert kinds == {"linear": linear, "brain": nn.Linear, "norm": LeanRMSNorm, "adds_one": GemmaRMSNorm, "embedding": nn.Embedding}

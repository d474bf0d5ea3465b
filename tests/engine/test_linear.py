from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from ssd_core.engine.linear import (
    HalfLinear,
    LeanRMSNorm,
    PackedLinear,
    has_half_linear,
    has_packed_linear,
    linear_operation,
    optimize_for_cpu,
)


@pytest.mark.skipif(not has_packed_linear(), reason="this torch has no oneDNN")
@pytest.mark.parametrize("num_rows", [1, 3, 16, 40])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_packed_linear_equals_the_linear_it_replaces(num_rows: int, has_bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 160, bias=has_bias)
    packed = PackedLinear(linear.weight, linear.bias)
    x = torch.randn(1, num_rows, 96)
    torch.testing.assert_close(packed(x), linear(x), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("num_rows", [1, 6, 7, 40])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_half_linear_equals_the_linear_it_replaces(num_rows: int, has_bias: bool) -> None:
    if not has_half_linear():
        pytest.skip("this torch has no FBGEMM")
    torch.manual_seed(0)
    linear = nn.Linear(100, 165, bias=has_bias).bfloat16().float()
    x = torch.randn(1, num_rows, 100)
    torch.testing.assert_close(HalfLinear(linear.weight, linear.bias)(x), linear(x), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("one_thread")
def test_half_precision_holds_only_weights_that_lose_nothing_by_it() -> None:
    if not has_half_linear():
        pytest.skip("this torch has no FBGEMM")
    exact, fine, large = (nn.Linear(64, 64).requires_grad_(False) for _ in range(3))
    exact.bfloat16().float()
    large.weight.mul_(1e6)
    model = nn.ModuleDict({"exact": exact, "fine": fine, "large": large.bfloat16().float()})
    optimize_for_cpu(model)
    assert [name for name, module in model.items() if type(module) is HalfLinear] == ["exact"]


@pytest.mark.parametrize("has_bias", [True, False])
def test_linears_of_one_input_are_one_product_with_their_outputs_side_by_side(has_bias: bool) -> None:
    torch.manual_seed(0)
    linears = [nn.Linear(32, width, bias=has_bias) for width in (8, 16, 24)]
    x = torch.randn(5, 32)
    expected = torch.cat([linear(x) for linear in linears], -1)
    torch.testing.assert_close(linear_operation(*linears)(x), expected, rtol=1e-5, atol=1e-5)


def test_a_lean_norm_equals_the_norm_it_replaces() -> None:
    torch.manual_seed(0)
    norm = Qwen3RMSNorm(64, eps=1e-6)
    nn.init.normal_(norm.weight)
    for scale in (1e-4, 1.0, 1e3):
        x = scale * torch.randn(1, 5, 64)
        expected = norm(x)
        lean = LeanRMSNorm(norm.weight, 1e-6)
        torch.testing.assert_close(lean(x), expected, rtol=2e-6, atol=1e-6)
        lean.apply_(x)
        torch.testing.assert_close(x, expected, rtol=2e-6, atol=1e-6)


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

"""A large shape with a small model's function."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from ssd_core.config import EngineConfig
from ssd_core.engine import inflate as inflate_module
from ssd_core.engine.inflate import inflate, resized
from ssd_core.engine.loader import resolve
from ssd_core.engine.sparse_checkpoint import write_sparse
from ssd_core.engine.weights import load_model
from ssd_core.errors import ConfigError

SIZES = {
    "hidden_size": 640,
    "intermediate_size": 1536,
    "num_hidden_layers": 9,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "vocab_size": 5000,
}
TEXT = list(b"def area(width, height):\n    return width * height\n")


def pretrained(name: str, dtype: torch.dtype) -> PreTrainedModel:
    return load_model(EngineConfig.model_validate({"model": f"embedded:{name}", "dtype": str(dtype).removeprefix("torch.")}))


@torch.inference_mode()
def logits_of(model: PreTrainedModel) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=torch.tensor([TEXT]), use_cache=False).logits[0].float()
    return logits


def relative_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize(("name", "heads"), [("target", (12, 2)), ("draft", (12, 2)), ("draft", (8, 4)), ("target", (16, 8))])
def test_an_inflated_model_computes_the_small_ones_function(name: str, heads: tuple[int, int], dtype: torch.dtype, limit: float) -> None:
    """Also with fewer query heads to a key-value head: then that is copied."""
    small = pretrained(name, dtype)
    sizes = {**SIZES, "num_attention_heads": heads[0], "num_key_value_heads": heads[1]}
    large = inflate(small, resized(small.config, **sizes), dtype=dtype)
    expected, logits = logits_of(pretrained(name, torch.float32)), logits_of(large)
    assert relative_difference(logits[:, : expected.shape[1]], expected) < limit
    assert (logits[:, expected.shape[1] :].max(-1).values < expected.min(-1).values).all(), "padded entries never win"
    assert logits.shape[1] == SIZES["vocab_size"]


def test_a_written_checkpoint_is_an_ordinary_one(tmp_path: Path) -> None:
    small = pretrained("draft", torch.float32)
    large = inflate(small, resized(small.config, **SIZES), dtype=torch.float32)
    large.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    torch.testing.assert_close(logits_of(again), logits_of(large))


@pytest.mark.parametrize(
    ("field", "value"), [("hidden_size", 192), ("num_hidden_layers", 1), ("head_dim", 96), ("vocab_size", 100), ("intermediate_size", 500)]
)
def test_a_shape_without_room_is_refused_by_name(field: str, value: int) -> None:
    small = pretrained("draft", torch.float32)
    with pytest.raises(ConfigError, match=field):
        inflate(small, resized(small.config, **{**SIZES, field: value}))


def test_a_sparse_checkpoint_is_read_back_whole_and_has_holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(inflate_module.SHAPES, "wide", {**SIZES, "num_hidden_layers": 3})
    monkeypatch.setattr(inflate_module, "COMMON", {})
    large = load_model(EngineConfig(model="embedded:draft@wide"))
    write_sparse(large, tmp_path, resolve("embedded:draft"))
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert all(torch.equal(own, other) for own, other in zip(again.parameters(), large.parameters(), strict=True))
    written = (tmp_path / "model.safetensors").stat()
    assert written.st_blocks * 512 < written.st_size


def test_an_unknown_shape_is_named() -> None:
    with pytest.raises(ConfigError, match="shape: 'huge' is none of"):
        load_model(EngineConfig(model="embedded:draft@huge"))

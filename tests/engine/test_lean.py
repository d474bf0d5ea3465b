from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from ssd_core.engine import torch_engine
from ssd_core.engine.base import TRUNK_END, Part
from ssd_core.engine.lean import LeanForward, can_be_lean
from ssd_core.engine.plain import PlainForward
from ssd_core.engine.torch_engine import TorchEngine
from tests.engine.models import SHAPE, VOCAB_SIZE, stock_model

LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
CONFIGS = {
    "qwen3": Qwen3Config(**SHAPE, tie_word_embeddings=True),
    "qwen3 with biases and windows": Qwen3Config(
        **SHAPE, attention_bias=True, use_sliding_window=True, sliding_window=6, max_window_layers=1, tie_word_embeddings=False
    ),
    "llama": LlamaConfig(**SHAPE),
    "llama with biases, tied": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "llama 3 rope": LlamaConfig(**SHAPE, rope_parameters=LLAMA3_ROPE),
}


def new_model(name: str) -> PreTrainedModel:
    """Norm weights and biases are random too: fresh ones are ones and zeros, which show no mistake."""
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIGS[name])
    model = (Qwen3ForCausalLM if isinstance(config, Qwen3Config) else LlamaForCausalLM)(config).eval()
    for weight in model.parameters():
        if weight.ndim == 1:
            nn.init.uniform_(weight, 0.5, 1.5)
    return model


def evaluate_all(engine: TorchEngine) -> torch.Tensor:
    """Prompts, a chain, a tree grown in steps, advances with survivors, an uneven batch with a long chunk, some rows wanted or none."""
    tokens = [(i * 31 + 7) % VOCAB_SIZE for i in range(100)]
    logits = []
    for session_id, length in (("a", 11), ("b", 1), ("c", 20)):
        engine.open(session_id, 120)
        logits.append(engine.evaluate([Part(session_id, tokens[:length], range(TRUNK_END, length - 1), logits_from=length // 2)]))
        engine.advance(session_id, range(length))
    logits.append(engine.evaluate([Part("a", [11, 12, 13, 14], [TRUNK_END, 0, 0, TRUNK_END])]))
    logits.append(engine.evaluate([Part("a", [15, 16], [1, 3], logits_from=2)]))
    engine.advance("a", [0], [1, 2, 4])
    batch = [
        Part("a", [50, 51, 52], [2, 1, TRUNK_END], logits_from=1),
        Part("b", tokens[:60], range(TRUNK_END, 59), logits_from=58),
        Part("c", [5], [TRUNK_END], logits_from=1),
    ]
    logits.append(engine.evaluate(batch))
    engine.advance("b", range(60))
    logits.append(engine.evaluate([Part("c", [6], [0]), Part("b", [1], [TRUNK_END])]))
    return torch.cat(logits)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_lean_forward_gives_the_plain_forwards_logits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lean = TorchEngine(new_model(name), 2**20)
    monkeypatch.setattr(torch_engine, "can_be_lean", lambda model: False)
    plain = TorchEngine(new_model(name), 2**20)
    assert (type(lean._runner._forward), type(plain._runner._forward)) == (LeanForward, PlainForward)
    torch.testing.assert_close(evaluate_all(lean), evaluate_all(plain), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("one_thread")
def test_weights_trained_in_bfloat16_give_the_same_logits_from_half_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_model("qwen3").bfloat16().float()
    lean = TorchEngine(copy.deepcopy(model), 2**20)
    monkeypatch.setattr(torch_engine, "can_be_lean", lambda model: False)
    monkeypatch.setattr(torch_engine, "optimize_for_cpu", lambda model: None)
    torch.testing.assert_close(evaluate_all(lean), evaluate_all(TorchEngine(model, 2**20)), rtol=1e-4, atol=1e-4)


def test_of_the_models_own_matrices_only_the_embedding_remains() -> None:
    model = new_model("llama")
    TorchEngine(model, 2**20)
    assert [name for name, weight in model.named_parameters() if weight.ndim == 2] == ["model.embed_tokens.weight"]


def test_in_bfloat16_it_passes_the_comparison_with_the_models_own_logits() -> None:
    assert isinstance(TorchEngine(new_model("qwen3").bfloat16(), 2**20)._runner._forward, LeanForward)


def test_only_models_whose_function_it_computes_are_taken() -> None:
    class Other(LlamaForCausalLM):
        pass

    dynamic = LlamaConfig(**SHAPE, rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0})
    assert can_be_lean(stock_model("llama")) and can_be_lean(stock_model("qwen3"))
    assert not can_be_lean(stock_model("mistral-window-7"))
    assert not can_be_lean(Other(LlamaConfig(**SHAPE)))
    assert not can_be_lean(LlamaForCausalLM(LlamaConfig(**SHAPE, hidden_act="gelu")))
    assert not can_be_lean(LlamaForCausalLM(dynamic))

"""Small random models of four architectures, and what transformers itself says about a sequence."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from ssd_core.engine.torch_engine import TorchEngine

VOCAB_SIZE = 97
SHAPE = {
    "vocab_size": VOCAB_SIZE, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 12, "intermediate_size": 64, "max_position_embeddings": 256, "initializer_range": 0.2,
}  # fmt: skip
CONFIGS: dict[str, PreTrainedConfig] = {
    "qwen3": Qwen3Config(**SHAPE, tie_word_embeddings=True),
    "llama": LlamaConfig(**SHAPE),
    "mistral-window-7": MistralConfig(**SHAPE, sliding_window=7),
    "gemma2-softcap": Gemma2Config(**SHAPE, sliding_window=8, query_pre_attn_scalar=12),
    "gpt2": GPT2Config(vocab_size=VOCAB_SIZE, n_positions=256, n_embd=48, n_layer=2, n_head=4, initializer_range=0.2),
}


@cache
def stock_model(name: str) -> PreTrainedModel:
    """Untouched. Gemma 2's soft cap exists in transformers' eager attention only."""
    torch.manual_seed(0)
    implementation = "eager" if name == "gemma2-softcap" else "sdpa"
    return AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation=implementation).eval()


def new_engine(name: str, kv_budget_bytes: int = 2**20) -> TorchEngine:
    return TorchEngine(copy.deepcopy(stock_model(name)), kv_budget_bytes)


@torch.inference_mode()
def stock_logits(name: str, tokens: Sequence[int]) -> torch.Tensor:
    """[V] after the last token."""
    return stock_model(name)(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0, -1]

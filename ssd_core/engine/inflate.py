"""A large model that computes a small one's function: the cost of the large shape with the text of the small one.

Where no large trained pair is at hand, this is how speed is measured with true acceptance: any engine runs the checkpoint, and pays for
every weight of it. What is measured so is *inflated from a small pair* and must be called that.

Qwen3 only (its normed query and key heads make the widths easy to change). Everything new is zero, except:

* RMS norms average over more channels: with weight * sqrt(c / C) and eps * c / C the result is the small one's.
* Rotary turns element i with element i + D/2, by an angle that depends on i / D: a head's element i goes to i D / d in each half.
* Scores are divided by sqrt(D), not sqrt(d), and a head's norm is sqrt(D / d) too large: the query norm keeps its weight, the key norm's is
  scaled by sqrt(d / D).
* A key-value head with more query heads than the large shape has to one is there several times.
* Padded vocabulary entries must never win: one more channel is a small constant, and their output rows are very negative there.

Small letters: the small model's sizes. C hidden, D head width, I inner width, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, Qwen3Config

from ssd_core.errors import ConfigError

CONSTANT = 2.0**-6
"""Of the constant channel, in units of the root mean square of the embedding: far too little to be seen in a norm's average."""
NEVER = 2.0**14
"""What the padded entries' logits fall below zero, times the final norm's scale."""

SHAPES: dict[str, dict[str, int]] = {
    "8B": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
    "32B": {"hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64, "num_attention_heads": 64},
    "70B": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
    "0.6B": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
}
"""Of Qwen3-8B, Qwen3-32B, Llama-3.1-70B, Qwen3-0.6B and Llama-3.2-1B. All have eight key-value heads."""
COMMON = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960}


def shape_config(small: PreTrainedConfig, shape: str) -> Qwen3Config:
    """The small model's configuration in one of SHAPES."""
    if shape not in SHAPES:
        raise ConfigError(f"shape: {shape!r} is none of {', '.join(SHAPES)}")
    return resized(small, **SHAPES[shape], **COMMON)


def resized(small: Any, **sizes: int) -> Qwen3Config:
    """The small model's configuration with other sizes, its embedding and output layer apart, and eps for the wider norms."""
    eps = small.rms_norm_eps * small.hidden_size / sizes["hidden_size"]
    return Qwen3Config(
        **{
            **small.to_dict(),
            **sizes,
            "layer_types": None,
            "max_window_layers": sizes["num_hidden_layers"],
            "tie_word_embeddings": False,
            "rms_norm_eps": eps,
        }
    )


def empty_model(config: Qwen3Config, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """Every weight zero, taken on the device at once."""
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.to_empty(device=device)
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config).to(device)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    empty: PreTrainedModel = model.eval()
    return empty


@torch.no_grad()
def inflate(small: PreTrainedModel, config: Qwen3Config, device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> PreTrainedModel:
    """A model of this configuration with the small model's function. ConfigError names what is too small."""
    _check(small.config, config)
    large = empty_model(config, device, dtype)
    wide = math.sqrt(small.config.hidden_size / config.hidden_size)
    old: Any = small.model
    new: Any = large.model
    channels = small.config.hidden_size
    tokens = small.config.vocab_size
    embedding = old.embed_tokens.weight
    _put(new.embed_tokens.weight[:tokens, :channels], embedding)
    constant = CONSTANT * embedding.float().square().mean().sqrt()
    new.embed_tokens.weight[:, channels] = constant.to(device, dtype)
    for source, layer in zip(old.layers, new.layers, strict=False):
        _inflate_layer(source, layer, small.config, config, wide)
    for layer in new.layers[len(old.layers) :]:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm, layer.self_attn.q_norm, layer.self_attn.k_norm):
            nn.init.ones_(norm.weight)
    _put(new.norm.weight[:channels], old.norm.weight.float() * wide)
    new.norm.weight[channels] = (NEVER / constant).to(device, dtype)
    _put(large.lm_head.weight[:tokens, :channels], small.lm_head.weight)
    large.lm_head.weight[tokens:, channels] = -1.0
    return large


def _check(small: Any, large: Any) -> None:
    if small.model_type != "qwen3" or large.model_type != "qwen3":
        raise ConfigError(f"model: only Qwen3 is inflated, not {small.model_type} to {large.model_type}")
    copies = _copies(small, large)
    least = {
        "hidden_size": small.hidden_size + 1,
        "intermediate_size": small.intermediate_size,
        "num_hidden_layers": small.num_hidden_layers,
        "num_key_value_heads": small.num_key_value_heads * copies,
        "vocab_size": small.vocab_size,
    }
    for field, value in least.items():
        if getattr(large, field) < value:
            raise ConfigError(f"{field}: {getattr(large, field)} has no room for the small model, which needs {value}")
    if large.head_dim % small.head_dim:
        raise ConfigError(f"head_dim: {large.head_dim} is no multiple of the small model's {small.head_dim}")


def _group(config: Any) -> int:
    """Query heads to a key-value head."""
    return int(config.num_attention_heads // config.num_key_value_heads)


def _copies(small: Any, large: Any) -> int:
    """Of each key-value head: so many that all its query heads find one."""
    return -(-_group(small) // _group(large))


def _inflate_layer(source: Any, layer: Any, small: Any, large: Any, wide: float) -> None:
    channels, inner = small.hidden_size, small.intermediate_size
    old, new = source.self_attn, layer.self_attn
    stretch = large.head_dim // small.head_dim
    places = torch.arange(small.head_dim // 2) * stretch
    places = torch.cat([places, places + large.head_dim // 2])  # of a head's elements
    group, new_group, copies = _group(small), _group(large), _copies(small, large)
    query_heads = [
        (key_head * copies + i // new_group) * new_group + i % new_group
        for key_head in range(small.num_key_value_heads)
        for i in range(group)
    ]
    query_rows = _rows(query_heads, places, large.head_dim)
    _put_rows(new.q_proj.weight, query_rows, channels, old.q_proj.weight)
    for copy in range(copies):
        key_rows = _rows(range(copy, small.num_key_value_heads * copies, copies), places, large.head_dim)
        _put_rows(new.k_proj.weight, key_rows, channels, old.k_proj.weight)
        _put_rows(new.v_proj.weight, key_rows, channels, old.v_proj.weight)
    out = new.o_proj.weight
    out[:channels, query_rows.to(out.device)] = old.o_proj.weight.to(out.device, out.dtype)
    new.q_norm.weight[places] = old.q_norm.weight.to(out.device, out.dtype)
    new.k_norm.weight[places] = (old.k_norm.weight.float() / math.sqrt(stretch)).to(out.device, out.dtype)
    for name in ("input_layernorm", "post_attention_layernorm"):
        _put(getattr(layer, name).weight[:channels], getattr(source, name).weight.float() * wide)
    _put(layer.mlp.gate_proj.weight[:inner, :channels], source.mlp.gate_proj.weight)
    _put(layer.mlp.up_proj.weight[:inner, :channels], source.mlp.up_proj.weight)
    _put(layer.mlp.down_proj.weight[:channels, :inner], source.mlp.down_proj.weight)


def _rows(heads: Any, places: torch.Tensor, width: int) -> torch.Tensor:
    """Where the elements of these heads lie."""
    return torch.cat([head * width + places for head in heads])


def _put_rows(room: torch.Tensor, rows: torch.Tensor, channels: int, weight: torch.Tensor) -> None:
    room[rows.to(room.device), :channels] = weight.to(room.device, room.dtype)


def _put(room: torch.Tensor, weight: torch.Tensor) -> None:
    room.copy_(weight.to(room.device, room.dtype))

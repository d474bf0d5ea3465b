"""Many texts continued at once by a Qwen3 model, with a key-value cache of its own: what the draft learns from is written with it.

B = texts, S = positions, H = hidden size, A and K = query and key-value heads, D = size of a head, V = vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import Qwen3ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer


class _Layer(NamedTuple):
    """A layer's weights, joined where they are applied to the same vector."""

    attention_norm: torch.Tensor
    qkv: torch.Tensor
    query_norm: torch.Tensor
    key_norm: torch.Tensor
    output: torch.Tensor
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


class Writer:
    """Qwen3 with a key-value cache of its own: a model that continues thousands of texts of one length, many times faster than with
    transformers' cache.

    The query heads of one key-value head are handed to attention as so many positions, so keys and values are never expanded; the cache
    is cut to what is filled, so there is no mask. Dtype and numbers are the model's own, but for rounding.
    """

    def __init__(self, model: Qwen3ForCausalLM, is_fused: bool = False) -> None:
        """`is_fused`: compiled, which pays for many texts of the same shapes."""
        config = model.config
        self._heads = (config.num_attention_heads, config.num_key_value_heads, config.head_dim)
        self._epsilon = config.rms_norm_eps
        self._embedding = model.model.embed_tokens.weight.detach()
        self._norm = model.model.norm.weight.detach()
        self._layers = [_layer_of(layer) for layer in model.model.layers]
        positions = torch.arange(config.max_position_embeddings, device=self._embedding.device)
        cos, sin = model.model.rotary_emb(self._embedding, positions[None])
        self._cos, self._sin = cos[0], sin[0]
        fused = torch.compile(disable=not (is_fused and torch.cuda.is_available()), dynamic=False)
        self._attention_inputs, self._finish_layer, self._draw = fused(_attention_inputs), fused(_finish_layer), fused(_draw)

    @torch.no_grad()
    def continue_texts(self, prompts: torch.Tensor, new: int, temperatures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Continuations of int64 `prompts` [B, S], `temperatures` [B] (0 = greedy). Returns ids [B, S + new] and the final hidden states
        [B, new, H] that the new tokens were drawn from: times the embedding, they are the logits."""
        batch, prompt = prompts.shape
        _, key_heads, size = self._heads
        ids = torch.cat([prompts, prompts.new_zeros(batch, new)], 1)
        states = self._embedding.new_empty(batch, new, self._embedding.shape[1])
        cache = self._embedding.new_empty(len(self._layers), 2, batch, key_heads, prompt + new, size)
        state = self._forward(prompts, 0, cache)
        for i in range(new):
            states[:, i] = state
            ids[:, prompt + i] = token = self._draw(state, self._embedding, temperatures)
            if i + 1 < new:
                state = self._forward(token[:, None], prompt + i, cache)
        return ids, states

    def _forward(self, ids: torch.Tensor, start: int, cache: torch.Tensor) -> torch.Tensor:
        """Hidden states [B, H] at the last of `ids` [B, S], which stand at `start` and are added to the cache. S = 1 unless `start` = 0."""
        end = start + ids.shape[1]
        x = self._embedding[ids]
        for layer, (keys, values) in zip(self._layers, cache, strict=True):
            q, keys[:, :, start:end], values[:, :, start:end] = self._attention_inputs(
                x, layer, self._heads, self._epsilon, self._cos[start:end], self._sin[start:end]
            )
            x = self._finish_layer(x, _attend(q, keys[:, :, :end], values[:, :, :end]), layer, self._epsilon)
        return _rms_norm(x[:, -1], self._norm, self._epsilon)


def _layer_of(layer: Qwen3DecoderLayer) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    weights = (
        layer.input_layernorm.weight,
        torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]),
        attention.q_norm.weight,
        attention.k_norm.weight,
        attention.o_proj.weight,
        layer.post_attention_layernorm.weight,
        torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
        mlp.down_proj.weight,
    )
    return _Layer(*(weight.detach() for weight in weights))


def _rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)).to(x.dtype)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]


def _attention_inputs(
    x: torch.Tensor, layer: _Layer, heads: tuple[int, int, int], epsilon: float, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries [B, A, S, D], keys and values [B, K, S, D] of `x` [B, S, H] at positions whose rotation is `cos`, `sin` [S, D]."""
    query_heads, key_heads, size = heads
    joined = F.linear(_rms_norm(x, layer.attention_norm, epsilon), layer.qkv).unflatten(-1, (-1, size))
    q, k, v = joined.split([query_heads, key_heads, key_heads], 2)
    q = _rotate(_rms_norm(q, layer.query_norm, epsilon), cos, sin)
    k = _rotate(_rms_norm(k, layer.key_norm, epsilon), cos, sin)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def _attend(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Attention [B, A, S, D] of the last S of all cached positions. S is all of them or 1."""
    # cuDNN would make a plan for every length
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        if q.shape[2] > 1:
            return F.scaled_dot_product_attention(q, keys, values, is_causal=True, enable_gqa=True)
        grouped = q.reshape(len(q), keys.shape[1], -1, q.shape[3])
        return F.scaled_dot_product_attention(grouped, keys, values).reshape(q.shape)


def _finish_layer(x: torch.Tensor, attended: torch.Tensor, layer: _Layer, epsilon: float) -> torch.Tensor:
    x = x + F.linear(attended.transpose(1, 2).flatten(2), layer.output)
    gate, up = F.linear(_rms_norm(x, layer.mlp_norm, epsilon), layer.gate_up).chunk(2, -1)
    return x + F.linear(F.silu(gate) * up, layer.down)


def _draw(state: torch.Tensor, embedding: torch.Tensor, temperatures: torch.Tensor) -> torch.Tensor:
    logits = F.linear(state, embedding).float()
    return (logits + temperatures[:, None] * gumbel_like(logits)).argmax(-1)


def gumbel_like(logits: torch.Tensor) -> torch.Tensor:
    return -torch.log(-torch.log(torch.rand_like(logits).clamp_(1e-9, 1 - 1e-7)))

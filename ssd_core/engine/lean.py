"""The forward of the Qwen3 and Llama families written out: the same function of the same weights as the transformers model, in a
third of its operations. For few nodes a pass is mostly operations' fixed costs, and the draft's pass is what speculation waits for.

Shapes: N nodes of the pass, R rows of logits, V vocabulary; C hidden, I inner width of the MLP; Q query heads, H key-value heads,
D their width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen3ForCausalLM

from ssd_core.engine.attention import Scoring, TreePass
from ssd_core.engine.linear import LeanRMSNorm, Operation, linear_operation, norm_operation

FIXED_ROPE_TYPES = {"default", "linear", "llama3", "yarn"}
"""Their frequencies do not depend on the length of the sequence: one table holds all angles."""


def can_be_lean(model: PreTrainedModel) -> bool:
    """Whether LeanForward computes this model's function. Subclasses may differ, so they do not count."""
    if type(model) not in (Qwen3ForCausalLM, LlamaForCausalLM):
        return False
    config: Any = model.config
    rotary: Any = model.model.rotary_emb
    return (
        config.hidden_act == "silu"
        and rotary.rope_type in FIXED_ROPE_TYPES
        and 2 * len(rotary.inv_freq) == config.head_dim
        and all(type(linear) is nn.Linear for linear in model.modules() if hasattr(linear, "in_features"))  # no adapter, not quantized
    )


class Layer(NamedTuple):
    """Operations on [N, ...]. `out`, `down`: back to [N, C]."""

    attention_norm: Operation
    query_key_value: Operation
    """[N, C] -> [N, (Q + 2 H) D]: all query heads, then key heads, then value heads."""
    head_norm: LeanRMSNorm | None
    """Qwen3's, of the query and key heads."""
    scoring: Scoring
    out: Operation
    mlp_norm: Operation
    gate_up: Operation
    """[N, C] -> [N, 2 I]."""
    down: Operation


class LeanForward:
    """See Forward. Takes the weights out of `model` layer by layer: only a shell of it remains."""

    def __init__(self, model: PreTrainedModel, max_position: int) -> None:
        assert can_be_lean(model), type(model)
        config: Any = model.config
        decoder: Any = model.model
        eps = config.rms_norm_eps
        self._vocab_size: int = config.vocab_size
        self._head_dim: int = config.head_dim
        self._num_query = config.num_attention_heads * config.head_dim  # Q D
        self._num_rotated = self._num_query + config.num_key_value_heads * config.head_dim  # (Q + H) D
        self._embedding: torch.Tensor = decoder.embed_tokens.weight.detach()  # [V, C]
        rotary = decoder.rotary_emb
        angles = torch.arange(max_position, device=model.device).float()[:, None, None] * rotary.inv_freq.float()
        self._rotation = torch.polar(torch.full_like(angles, rotary.attention_scaling), angles)  # [max_position, 1, D/2] complex
        self._layers = [_take_layer(layer, eps) for layer in decoder.layers]
        self._norm = norm_operation(decoder.norm.weight, eps)
        self._head = linear_operation(take(model, "lm_head"))

    @torch.inference_mode()
    def __call__(self, inputs: torch.Tensor, kept: Sequence[int], tree_pass: TreePass) -> torch.Tensor:
        tokens, positions = inputs
        num_nodes = len(tokens)
        x = F.embedding(tokens, self._embedding)  # [N, C]
        rotation = self._rotation.index_select(0, positions)  # [N, 1, D/2]
        last = len(self._layers) - 1
        for i, layer in enumerate(self._layers):
            qkv = layer.query_key_value(layer.attention_norm(x))  # [N, (Q + 2 H) D]
            heads = qkv[:, : self._num_rotated].view(num_nodes, -1, self._head_dim)  # [N, Q + H, D]
            exact = heads.float()  # the same memory if they are float32 already
            if layer.head_norm is not None:
                layer.head_norm.apply_(exact)
            torch.view_as_complex(exact.view(*exact.shape[:2], -1, 2)).mul_(rotation)
            if exact is not heads:
                heads.copy_(exact)
            tree_pass.write(i, qkv[:, self._num_query :])
            if i == last and not kept:
                return self._embedding.new_empty(0, self._vocab_size, dtype=torch.float32)
            attended = tree_pass.read(i, heads[:, : self._num_query // self._head_dim], layer.scoring).flatten(1)  # [N, Q D]
            if i == last and len(kept) < num_nodes:  # nothing after the last layer's cells needs the other rows
                rows = torch.tensor(kept, device=x.device)
                x, attended = x[rows], attended[rows]
            x += layer.out(attended)
            gate, up = layer.gate_up(layer.mlp_norm(x)).chunk(2, -1)
            x += layer.down(F.silu(gate).mul_(up))
        return self._head(self._norm(x)).float()  # [R, V]


def _take_layer(layer: Any, eps: float) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    width = attention.head_dim
    query, key, value = (take(attention, name) for name in ("q_proj", "k_proj", "v_proj"))
    head_norm = None
    if hasattr(attention, "q_norm"):
        weights = [(attention.q_norm, query), (attention.k_norm, key)]
        weight = torch.cat([_paired(n.weight, width).expand(p.out_features // width, -1) for n, p in weights])  # [Q + H, D]
        head_norm = LeanRMSNorm(weight, eps)
    for projection in (query, key):
        projection.weight = nn.Parameter(_paired(projection.weight, width), requires_grad=False)
        if projection.bias is not None:
            projection.bias = nn.Parameter(_paired(projection.bias, width), requires_grad=False)
    return Layer(
        attention_norm=norm_operation(layer.input_layernorm.weight, eps),
        query_key_value=linear_operation(query, key, value),
        head_norm=head_norm,
        scoring=Scoring(attention.scaling, getattr(attention, "sliding_window", None), softcap=None),
        out=linear_operation(take(attention, "o_proj")),
        mlp_norm=norm_operation(layer.post_attention_layernorm.weight, eps),
        gate_up=linear_operation(take(mlp, "gate_proj"), take(mlp, "up_proj")),
        down=linear_operation(take(mlp, "down_proj")),
    )


def _paired(rows: torch.Tensor, width: int) -> torch.Tensor:
    """[heads * D, ...] with the two halves of each head interleaved. Rotary turns element i with element i + D/2; put side by side
    they are one complex number, and the turn one multiplication. Products of queries and keys do not see the order."""
    return rows.detach().view(-1, 2, width // 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def take(parent: Any, name: str) -> nn.Linear:
    """The child, no longer the parent's."""
    child: nn.Linear = getattr(parent, name)
    delattr(parent, name)
    return child

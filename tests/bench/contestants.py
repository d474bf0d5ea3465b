"""Whom `attention` measures: ours, FlexAttention and torch's scaled_dot_product_attention, and what they are asked.

Shapes: B sessions, N nodes of each, L trunk and nodes; Q query heads, H key-value heads, D their width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask
from transformers import Qwen3Config

from ssd_core.engine import cuda_kernels as kernels
from ssd_core.engine.base import TRUNK_END
from ssd_core.engine.graph_inputs import pass_shape, power_of_two
from ssd_core.engine.graph_runner import GraphRunner, _Attention
from ssd_core.engine.inflate import COMMON, SHAPES, empty_model
from ssd_core.engine.kv import CellPool
from ssd_core.engine.runner import Work

Contestant = Callable[[], torch.Tensor]
"""Gives [B, Q, N, D]."""


class Case(NamedTuple):
    context: int
    batch: int
    nodes: int


class Question(NamedTuple):
    query: torch.Tensor
    """[B, Q, N, D]"""
    keys: torch.Tensor
    """[B, H, L, D]"""
    values: torch.Tensor
    seen: torch.Tensor
    """[N, N]: the node sees the other: itself and its ancestors. All see the trunk."""
    scaling: float


def tree_parents(nodes: int) -> list[int]:
    return [node // 2 - 1 if node > 1 else TRUNK_END for node in range(nodes)]


def ancestors(parents: Sequence[int]) -> torch.Tensor:
    seen = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent != TRUNK_END:
            seen[node] |= seen[parent]
    return seen


def new_runner(shape: str, num_cells: int, max_position: int, device: str, dtype: torch.dtype) -> GraphRunner:
    """Of one layer over a random pool. Only its heads are the shape's: no product runs."""
    sizes = {**COMMON, **SHAPES[shape], "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 1, "vocab_size": 128}
    config = Qwen3Config(**sizes, tie_word_embeddings=False)
    pool = torch.randn(num_cells + 1, 2 * config.num_key_value_heads * config.head_dim, dtype=dtype, device=device)
    return GraphRunner(empty_model(config, device, dtype), [pool], max_position)


def ask(runner: GraphRunner, case: Case) -> tuple[Question, Contestant]:
    """The question to all, and ours, to be launched until the next is asked."""
    context, batch, nodes = case
    (pool,), sizes, count = runner._pools, runner.sizes, batch * nodes
    cells, parents = CellPool(len(pool) - 1), tree_parents(nodes)
    sessions = []
    for name in map(str, range(batch)):
        cells.open(name, context + nodes)
        sessions.append(cells[name])
        sessions[-1].trunk.extend(sessions[-1].free.pop() for _ in range(context))
        sessions[-1].append(parents)
        runner.open(name)
    work = Work(sessions, [nodes] * batch, [0] * count, [0] * count, kept=[])
    shape = pass_shape(work, sizes.Q // sizes.H)
    runner._tell(work, shape)
    kernels.learn_trunks[(8,)](runner.numbers, runner.trunks, BLOCK=256, **kernels.OPTIONS)
    for session in sessions:
        runner.close(session.session_id)  # by now all is on the device
    buffers = runner._buffers_of(shape.num_nodes)
    buffers.query.normal_()
    attention = _Attention(runner, buffers, shape)

    def by_session(rows: torch.Tensor) -> torch.Tensor:
        return rows[:count].view(batch, nodes, sizes.Q, sizes.D).transpose(1, 2)

    def ours() -> torch.Tensor:
        attention(pool)
        return by_session(buffers.attended)

    listed = torch.tensor([[*session.trunk, *session.tree] for session in sessions], device=pool.device)
    keys, values = pool[listed].view(batch, -1, 2, sizes.H, sizes.D).permute(2, 0, 3, 1, 4).contiguous()
    query = by_session(buffers.query).contiguous()
    return Question(query, keys, values, ancestors(parents).to(pool.device), runner.scaling), ours


def flex_options(question: Question) -> list[dict[str, int | bool]]:
    """Of FlexAttention's kernels, the one to try first and the one for when that does not compile. Chosen, not tuned.

    Its kernel for few queries takes by default all rows of a key-value head at once and refuses more than 128; it can take them in blocks.
    The other has a program for each query head and does not share out the trunk."""
    rows = len(question.seen) * question.query.shape[1] // question.keys.shape[1]
    return [{"BLOCK_M": min(64, max(16, power_of_two(rows))), "num_warps": 4, "num_stages": 3}, {"FORCE_USE_FLEX_ATTENTION": True}]


def flex(question: Question, attend: Callable[..., torch.Tensor], options: dict[str, int | bool]) -> Contestant:
    query, keys, values, seen, scaling = question
    nodes, length = len(seen), keys.shape[2]
    context = length - nodes

    def is_seen(batch: torch.Tensor, head: torch.Tensor, node: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        return (column < context) | seen[node, (column - context).clamp(min=0)]

    mask = create_block_mask(is_seen, None, None, nodes, length, device=str(query.device))
    return lambda: attend(query, keys, values, block_mask=mask, scale=scaling, enable_gqa=True, kernel_options=options)


def sdpa(question: Question) -> Contestant:
    query, keys, values, seen, scaling = question
    trunk = seen.new_ones(len(seen), keys.shape[2] - len(seen))
    mask = torch.cat([trunk, seen], dim=1)
    return lambda: F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scaling, enable_gqa=True)


def in_float32(question: Question) -> torch.Tensor:
    query, keys, values, *rest = question
    return sdpa(Question(query.float(), keys.float(), values.float(), *rest))()


def difference(result: torch.Tensor, exact: torch.Tensor) -> float:
    return ((result.float() - exact).abs().max() / exact.abs().max()).item()

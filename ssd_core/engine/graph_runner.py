"""The fast path on CUDA for the Qwen3 and Llama families: few kernels a layer, replayed as one CUDA graph.

A graph is fixed, so passes are padded to buckets: of nodes, of attention's items, and of shares of the trunk. What differs from pass to
pass lies in buffers that the graph reads. Where a session's trunk lies is kept on the device and only added to.

Shapes: M nodes of the bucket; V vocabulary; the rest as in `cuda_kernels`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import triton
from torch import nn
from transformers import PreTrainedModel

from ssd_core.engine import cuda_kernels as kernels
from ssd_core.engine import products
from ssd_core.engine.graph_inputs import (
    HEADER,
    ITEM,
    LEAST_NODES,
    PER_NODE,
    SHARE,
    TAILS,
    PassShape,
    Table,
    decoding_shapes,
    large_shapes,
    lone_and_span,
    num_numbers,
    pass_shape,
    reading_shapes,
    write_numbers,
)
from ssd_core.engine.lean import can_be_lean, take
from ssd_core.engine.pass_groups import grouped, taken
from ssd_core.engine.reading_attention import ReadingAttention
from ssd_core.engine.runner import Work
from ssd_core.errors import CapacityError

NUM_SLOTS = 256
"""Sessions at a time."""


def can_be_graphed(model: PreTrainedModel) -> bool:
    """Whether GraphRunner computes this model's function."""
    if model.dtype not in (torch.bfloat16, torch.float16) or not can_be_lean(model):
        return False
    config: Any = model.config
    decoder: Any = model.model
    has_bias = any(getattr(module, "bias", None) is not None for module in model.modules() if isinstance(module, nn.Linear))
    has_windows = any(getattr(layer.self_attn, "sliding_window", None) for layer in decoder.layers)
    widths = (config.hidden_size, config.intermediate_size)
    return not (has_bias or has_windows) and config.head_dim in (32, 64, 128, 256) and all(w % products.LEAST_INPUTS == 0 for w in widths)


@dataclass(frozen=True, slots=True)
class Layer:
    attention_norm: torch.Tensor
    query_key_value: torch.Tensor
    """[(Q + 2 H) D, C]"""
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    out: torch.Tensor
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    """[2 I, C], interleaved."""
    down: torch.Tensor


class Buffers:
    """What the graphs of one bucket of nodes read and write."""

    def __init__(self, runner: GraphRunner, num_nodes: int) -> None:
        empty = partial(torch.empty, device=runner.device)
        sizes, dtype = runner.sizes, runner.dtype
        self.residual = empty(num_nodes, sizes.C, dtype=torch.float32)
        self.normed = empty(num_nodes, sizes.C, dtype=dtype)
        self.query = empty(num_nodes, sizes.Q * sizes.D, dtype=dtype)
        self.attended = empty(num_nodes, sizes.Q * sizes.D, dtype=dtype)
        self.inner = empty(num_nodes, sizes.I, dtype=dtype)
        self.query_key_value = products.parts_of(self.normed, (sizes.Q + 2 * sizes.H) * sizes.D)
        self.out = products.parts_of(self.attended, sizes.C)
        self.down = products.parts_of(self.inner, sizes.C)
        self.tails = torch.empty(num_nodes, TAILS * SHARE, dtype=torch.int32, device=runner.device)
        self.tail_lengths = torch.empty(num_nodes, dtype=torch.int32, device=runner.device)


class Sizes(NamedTuple):
    Q: int
    H: int
    D: int
    C: int
    I: int  # noqa: E741
    V: int


class GraphRunner:
    """See Runner. Takes the weights out of `model` layer by layer: only a shell of it remains.

    On a CPU, under Triton's interpreter, it runs without graphs: that is for tests."""

    def __init__(self, model: Any, pools: Sequence[torch.Tensor], max_position: int) -> None:
        """pools: by layer, [cells + 1, W]; the last cell is nobody's, for padding to write to."""
        assert can_be_graphed(model), type(model)
        config, decoder = model.config, model.model
        self.device, self.dtype = model.device, model.dtype
        self.sizes = Sizes(
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
            config.hidden_size,
            config.intermediate_size,
            config.vocab_size,
        )
        self._eps: float = config.rms_norm_eps
        self.scaling: float = decoder.layers[0].self_attn.scaling
        self._pools = pools
        self._spare_cell = len(pools[0]) - 1
        self._embedding: torch.Tensor = decoder.embed_tokens.weight.detach()
        rotary = decoder.rotary_emb
        angles = torch.arange(max_position, device=self.device).float()[:, None] * rotary.inv_freq.float()
        self._cosines, self._sines = angles.cos() * rotary.attention_scaling, angles.sin() * rotary.attention_scaling
        self._layers = [_take_layer(layer) for layer in decoder.layers]
        self._norm = decoder.norm.weight.detach()
        self._head: torch.Tensor = take(model, "lm_head").weight.detach()
        self.trunks = torch.zeros(NUM_SLOTS, max_position, dtype=torch.int32, device=self.device)
        size, is_cuda = num_numbers(len(pools[0])), self.device.type == "cuda"
        self._room = torch.zeros(size, dtype=torch.int32, pin_memory=is_cuda)
        self.numbers = torch.zeros(size, dtype=torch.int32, device=self.device)
        self._told = torch.cuda.Event() if is_cuda else None
        self._on_device = torch.cuda.device(self.device) if is_cuda else nullcontext()
        self._free_slots = list(range(NUM_SLOTS))
        self._slots: dict[str, int] = {}
        self._known: dict[str, int] = {}
        """Of each session: how much of its trunk the device knows."""
        self._buffers: dict[int, Buffers] = {}
        self._graphs: dict[PassShape, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle() if is_cuda else None
        """Memory of what graphs use only while they run: one for all, because they run one at a time."""
        self.newest: torch.cuda.CUDAGraph | None = None
        """Of the last pass, to be timed by itself."""
        self._logits: dict[int, torch.Tensor] = {}
        self._splits: list[tuple[torch.Tensor, torch.Tensor]] = []
        """Ever larger. The smaller ones are kept for the graphs that write to them."""

    # ------------------------------------------------------------ sessions

    def open(self, session_id: str) -> None:
        if not self._free_slots:
            raise CapacityError(f"session {session_id}: {NUM_SLOTS} sessions are open")
        self._slots[session_id] = self._free_slots.pop()
        self._known[session_id] = 0

    def close(self, session_id: str) -> None:
        self._free_slots.append(self._slots.pop(session_id))
        del self._known[session_id]

    # ------------------------------------------------------------ a pass

    def prepare(self, most_tokens: int) -> None:
        """Capture the graphs of all passes that decode or read prompts, and of trees like those that settings allow."""
        positions, group = self.trunks.shape[1], self.sizes.Q // self.sizes.H
        shapes = {*decoding_shapes(positions, group), *large_shapes(positions, group), *reading_shapes(positions, most_tokens)}
        with torch.inference_mode(), self._on_device:
            for shape in sorted(shapes, reverse=True):  # the largest first: the others find room in what it took
                self._tell_nothing(shape)
                self._graph(shape)

    @torch.inference_mode()
    def run(self, work: Work) -> torch.Tensor:
        """Parts that are streamed together give the same logits, bit for bit, as each alone; a longer one is a pass of its own for that."""
        groups = grouped(work.num_new, products.MAX_STREAMED)
        with self._on_device:
            if len(groups) == 1:
                return self._pass(work)
            logits: dict[int, torch.Tensor] = {}
            for parts in groups:
                some, num_rows = taken(work, parts)
                logits.update(zip(parts, self._pass(some).clone().split(num_rows), strict=True))
            return torch.cat([logits[part] for part in range(len(work.num_new))])

    def _pass(self, work: Work) -> torch.Tensor:
        shape = pass_shape(work, self.sizes.Q // self.sizes.H)
        self._tell(work, shape)
        if self.device.type == "cuda":
            self.newest = self._graph(shape)
            self.newest.replay()
        else:
            self._launch(shape)
        return self._logits_of(shape)[: len(work.kept)]

    def _tell(self, work: Work, shape: PassShape) -> None:
        """Bring the pass's numbers to the device, in one copy."""
        if self._told is not None:
            self._told.synchronize()  # the last copy has left the room
        ids = [session.session_id for session in work.sessions]
        table = Table([self._slots[i] for i in ids], [self._known[i] for i in ids], self.trunks.shape[1])
        used = write_numbers(self._room.numpy(), work, shape, table, self._spare_cell)
        self.numbers[:used].copy_(self._room[:used], non_blocking=True)
        if self._told is not None:
            self._told.record()
        for session in work.sessions:
            self._known[session.session_id] = len(session.trunk)

    def _tell_nothing(self, shape: PassShape) -> None:
        """Of padding nodes only."""
        self.numbers.zero_()
        self.numbers[HEADER : HEADER + PER_NODE * shape.num_nodes].view(PER_NODE, -1)[2] = self._spare_cell

    def _graph(self, shape: PassShape) -> torch.cuda.CUDAGraph:
        if shape not in self._graphs:
            self._launch(shape)  # compiles
            torch.cuda.synchronize(self.device)
            self._graphs[shape] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graphs[shape], self._pool, capture_error_mode="thread_local"):  # other threads may be at work
                self._launch(shape)
        return self._graphs[shape]

    # ------------------------------------------------------------ what a graph does

    def _launch(self, shape: PassShape) -> None:
        num_nodes, sizes, first = shape.num_nodes, self.sizes, self._layers[0]
        buffers = self._buffers_of(num_nodes)
        tokens, positions, cells, kept = self.numbers[HEADER : HEADER + PER_NODE * num_nodes].view(PER_NODE, num_nodes)[:4]
        kernels.learn_trunks[(8,)](self.numbers, self.trunks, BLOCK=256, **kernels.OPTIONS)
        kernels.embed_norm[(num_nodes,)](
            tokens,
            self._embedding,
            buffers.residual,
            buffers.normed,
            first.attention_norm,
            self._eps,
            sizes.C,
            BLOCK=triton.next_power_of_2(sizes.C),
            **kernels.OPTIONS,
        )
        norms = [*(layer.attention_norm for layer in self._layers[1:]), self._norm]
        attend: Callable[[torch.Tensor], None]
        attend = self._reading_attention(shape, buffers, cells) if shape.num_keys else _Attention(self, buffers, shape)
        num_heads = 1 if num_nodes <= products.MAX_STREAMED else sizes.H & -sizes.H  # a power of two that divides Q, too
        for layer, pool, next_norm in zip(self._layers, self._pools, norms, strict=True):
            products.multiply(buffers.normed, layer.query_key_value, buffers.query_key_value)
            kernels.turn_and_store[(num_nodes, (sizes.Q + 2 * sizes.H) // num_heads)](
                buffers.query_key_value,
                buffers.query,
                pool,
                cells,
                positions,
                self._cosines,
                self._sines,
                layer.query_norm,
                layer.key_norm,
                self._eps,
                num_nodes,
                pool.shape[1],
                PARTS=len(buffers.query_key_value),
                Q=sizes.Q,
                H=sizes.H,
                D=sizes.D,
                HEADS=num_heads,
                HAS_NORM=layer.query_norm is not None,
                num_warps=1,
                **kernels.OPTIONS,
            )
            attend(pool)
            products.multiply(buffers.attended, layer.out, buffers.out)
            self._add_norm(buffers.out, buffers, layer.mlp_norm)
            products.multiply_gated(buffers.normed, layer.gate_up, buffers.inner)
            products.multiply(buffers.inner, layer.down, buffers.down)
            self._add_norm(buffers.down, buffers, next_norm)
        if shape.num_rows:
            rows = buffers.normed.index_select(0, kept[: shape.num_rows])
            products.multiply(rows, self._head, self._logits_of(shape)[None])

    def _add_norm(self, parts: torch.Tensor, buffers: Buffers, norm: torch.Tensor) -> None:
        num_nodes, width = buffers.normed.shape
        kernels.add_norm[(num_nodes,)](
            parts,
            buffers.residual,
            buffers.normed,
            norm,
            self._eps,
            num_nodes,
            width,
            PARTS=len(parts),
            BLOCK=triton.next_power_of_2(width),
            **kernels.OPTIONS,
        )

    def _logits_of(self, shape: PassShape) -> torch.Tensor:
        """[R, V]"""
        if shape.num_rows not in self._logits:
            self._logits[shape.num_rows] = torch.empty(shape.num_rows, self.sizes.V, dtype=torch.float32, device=self.device)
        return self._logits[shape.num_rows]

    def partial_attention(self, splits: int, num_nodes: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Where attention leaves its parts of a pass: weighted sums [splits, M, Q, D], and peaks and weights [2, splits, M, Q]."""
        size = splits * num_nodes * self.sizes.Q
        if not self._splits or size > self._splits[-1][1].numel() // 2:
            totals = torch.empty(size * self.sizes.D, dtype=torch.float32, device=self.device)
            self._splits.append((totals, torch.empty(2 * size, dtype=torch.float32, device=self.device)))
        return self._splits[-1]

    def _reading_attention(self, shape: PassShape, buffers: Buffers, cells: torch.Tensor) -> ReadingAttention:
        slot, _, num_tokens, trunk_length = self.numbers[HEADER + PER_NODE * shape.num_nodes :][:4].split(1)
        trunk = self.trunks[:, : shape.num_keys].index_select(0, slot)[0]
        return ReadingAttention(trunk, trunk_length, cells, num_tokens, buffers.query, buffers.attended, self.sizes.H, self.scaling)

    def _buffers_of(self, num_nodes: int) -> Buffers:
        """Those of large passes take more memory than is to be kept for each size: they come from the graphs' pool."""
        if num_nodes > products.MAX_STREAMED:
            return Buffers(self, num_nodes)
        if num_nodes not in self._buffers:
            self._buffers[num_nodes] = Buffers(self, num_nodes)
        return self._buffers[num_nodes]


class _Attention:
    """Attention of one pass, the same for every layer but for its pool."""

    def __init__(self, runner: GraphRunner, buffers: Buffers, shape: PassShape) -> None:
        self._runner, self._buffers, self._shape = runner, buffers, shape
        begin = HEADER + PER_NODE * shape.num_nodes
        self._items = runner.numbers[begin:]
        self._lineages = runner.numbers[begin + ITEM * shape.num_items :]
        self._rows = max(LEAST_NODES, shape.nodes_per_item * triton.next_power_of_2(runner.sizes.Q // runner.sizes.H))
        self._num_lone, self._span = lone_and_span(shape.num_nodes)
        self._totals, self._peaks = runner.partial_attention(shape.num_splits, shape.num_nodes)
        self._by_node = runner.numbers[HEADER + 4 * shape.num_nodes :]
        if shape.has_tails:
            self._find_tails()

    def __call__(self, pool: torch.Tensor) -> None:
        shape = self._shape
        num_splits = shape.num_splits - TAILS if shape.has_tails else shape.num_splits
        if num_splits:
            self._attend(pool, num_splits)
        if shape.has_tails:
            self._attend_tails(pool)
        self._join()

    def _find_tails(self) -> None:
        num_nodes = self._shape.num_nodes
        kernels.find_tails[(num_nodes,)](
            self._runner.numbers,
            self._runner.trunks,
            self._by_node,
            self._lineages,
            self._buffers.tails,
            self._buffers.tail_lengths,
            self._runner.trunks.shape[1],
            num_nodes,
            SHARE=SHARE,
            ROOM=TAILS * SHARE,
            num_warps=1,
            **kernels.OPTIONS,
        )

    def _attend(self, pool: torch.Tensor, num_splits: int) -> None:
        runner, sizes, shape = self._runner, self._runner.sizes, self._shape
        kernels.attend[(shape.num_items, sizes.H, num_splits)](
            self._buffers.query,
            pool,
            runner.trunks,
            runner.numbers,
            self._items,
            self._lineages,
            self._totals,
            self._peaks,
            runner.scaling,
            runner.trunks.shape[1],
            shape.num_nodes,
            pool.shape[1],
            shape.num_splits,
            ROWS=self._rows,
            SHARE=SHARE,
            LONE=self._num_lone,
            SPAN=self._span,
            Q=sizes.Q,
            H=sizes.H,
            D=sizes.D,
            HAS_TREE=not shape.has_tails,
            num_warps=4,
            num_stages=2,
            **kernels.OPTIONS,
        )

    def _attend_tails(self, pool: torch.Tensor) -> None:
        runner, sizes, shape = self._runner, self._runner.sizes, self._shape
        kernels.attend_tails[(shape.num_nodes, sizes.H)](
            self._buffers.query,
            pool,
            self._buffers.tails,
            self._buffers.tail_lengths,
            self._totals,
            self._peaks,
            runner.scaling,
            shape.num_nodes,
            pool.shape[1],
            shape.num_splits,
            SHARE=SHARE,
            TAILS=TAILS,
            Q=sizes.Q,
            H=sizes.H,
            D=sizes.D,
            num_warps=4,
            num_stages=1,
            **kernels.OPTIONS,
        )

    def _join(self) -> None:
        sizes, shape = self._runner.sizes, self._shape
        kernels.join[(shape.num_nodes, sizes.Q)](
            self._totals,
            self._peaks,
            self._by_node,
            self._buffers.attended,
            shape.num_nodes,
            shape.num_splits,
            SHARE=SHARE,
            LONE=self._num_lone,
            SPAN=self._span,
            TAILS=TAILS,
            Q=sizes.Q,
            D=sizes.D,
            HAS_TAILS=shape.has_tails,
            num_warps=1,
            **kernels.OPTIONS,
        )


def _take_layer(layer: Any) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return Layer(
        attention_norm=layer.input_layernorm.weight.detach(),
        query_key_value=_rows(attention, "q_proj", "k_proj", "v_proj"),
        query_norm=attention.q_norm.weight.detach() if hasattr(attention, "q_norm") else None,
        key_norm=attention.k_norm.weight.detach() if hasattr(attention, "k_norm") else None,
        out=_rows(attention, "o_proj"),
        mlp_norm=layer.post_attention_layernorm.weight.detach(),
        gate_up=products.interleaved(_rows(mlp, "gate_proj"), _rows(mlp, "up_proj")),
        down=_rows(mlp, "down_proj"),
    )


def _rows(parent: Any, *names: str) -> torch.Tensor:
    weights = [take(parent, name).weight.detach() for name in names]
    return torch.cat(weights) if len(weights) > 1 else weights[0].contiguous()

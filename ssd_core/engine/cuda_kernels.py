"""The fast path's kernels, in Triton: what a Llama or Qwen3 layer does besides its matrix products, and the products of few rows.

Reading the weights once is all that a pass of few nodes has to do. So products of few rows only stream their weight; what lies between them
is one kernel each, and also adds up what a product left in parts.

Shapes: M nodes of the pass, padded to its bucket; C hidden, I inner width; Q query heads, H key-value heads, G = Q / H, D their width; a
product's weight is [outputs, inputs]; P parts of a sum: float32 partial results [P, M, outputs].
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton import knobs

IS_INTERPRETED = tl.constexpr(knobs.runtime.interpret)
OPTIONS = {} if knobs.runtime.interpret else {"launch_pdl": True}
"""Of every launch: a kernel may start while the one before it runs to its end (programmatic dependent launch)."""
NEVER = tl.constexpr(-1e30)
"""Below every score. Finite, so that differences of it are numbers."""


@triton.jit
def _prefetch(weight, first, start, num_inputs, OUTPUTS: tl.constexpr, AHEAD: tl.constexpr):
    """Have the beginning of a weight's tile brought to the cache: it does not hang on what came before."""
    if AHEAD and not IS_INTERPRETED:
        rows, lines = first + tl.arange(0, OUTPUTS), start + 64 * tl.arange(0, AHEAD // 64)
        at = (weight + rows.to(tl.int64)[:, None] * num_inputs + lines[None, :]).to(tl.int64)
        tl.inline_asm_elementwise("prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [at], dtype=tl.int32, is_pure=False, pack=1)


@triton.jit
def _begin():
    """Wait until what came before is done and seen; and let what comes after get ready."""
    if not IS_INTERPRETED:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def stream_linear(
    x, weight, raw, out, num_outputs, num_inputs,
    M: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, PARTS: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """out [PARTS, M, outputs] = x [M, inputs] times weight, each part over its share of the inputs; x and weight are tensor descriptors.
    The weight's tile is the left factor: its rows fill the matrix unit, however few nodes there are."""
    first, part = tl.program_id(0) * OUTPUTS, tl.program_id(1)
    share = num_inputs // PARTS
    _prefetch(raw, first, part * share, num_inputs, OUTPUTS, AHEAD)
    _begin()
    total = tl.zeros([OUTPUTS, M], tl.float32)
    for start in range(part * share, (part + 1) * share, INPUTS):
        total = tl.dot(weight.load([first, start]), x.load([0, start]).T, total)
    outputs = first + tl.arange(0, OUTPUTS)
    out_at = out + (part * M + tl.arange(0, M)[None, :]).to(tl.int64) * num_outputs + outputs[:, None]
    tl.store(out_at, total.to(out.dtype.element_ty), mask=(outputs < num_outputs)[:, None])


@triton.jit
def stream_gated(
    x, weight, raw, out, num_outputs, num_inputs, M: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, AHEAD: tl.constexpr
):  # fmt: skip
    """out [M, I] = silu(x gate^T) * (x up^T). Weight [2 I, C]: OUTPUTS rows of gate, as many of up, and so on; a descriptor, like x."""
    block = tl.program_id(0)
    _prefetch(raw, 2 * OUTPUTS * block, 0, num_inputs, 2 * OUTPUTS, AHEAD)
    _begin()
    total = tl.zeros([2 * OUTPUTS, M], tl.float32)
    for start in range(0, num_inputs, INPUTS):
        total = tl.dot(weight.load([2 * OUTPUTS * block, start]), x.load([0, start]).T, total)
    gate, up = total.reshape(2, OUTPUTS, M).permute(1, 2, 0).split()
    outputs = block * OUTPUTS + tl.arange(0, OUTPUTS)
    out_at = out + tl.arange(0, M)[None, :] * num_outputs + outputs[:, None]
    tl.store(out_at, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty))


@triton.jit
def gate(gate_up, out, width, OUTPUTS: tl.constexpr, BLOCK: tl.constexpr):
    """out [M, I] = silu(gate) * up of gate_up [M, 2 I], which a library multiplied, interleaved as above. One program a node and BLOCK."""
    _begin()
    row, columns = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_column = columns < width
    at = gate_up + row * 2 * width + columns // OUTPUTS * (2 * OUTPUTS) + columns % OUTPUTS
    g, u = tl.load(at, mask=is_column).to(tl.float32), tl.load(at + OUTPUTS, mask=is_column).to(tl.float32)
    tl.store(out + row * width + columns, (g * tl.sigmoid(g) * u).to(out.dtype.element_ty), mask=is_column)


@triton.jit
def embed_norm(tokens, table, residual, normed, norm_weight, eps, width, BLOCK: tl.constexpr):
    """residual [M, C], float32, = the tokens' rows of the table; normed = their RMS norm."""
    _begin()
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    is_column = columns < width
    token = tl.load(tokens + row).to(tl.int64)
    x = tl.load(table + token * width + columns, mask=is_column, other=0.0).to(tl.float32)
    tl.store(residual + row * width + columns, x, mask=is_column)
    _norm(x, normed, norm_weight, eps, width, row, columns, is_column)


@triton.jit
def add_norm(parts, residual, normed, norm_weight, eps, num_rows, width, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    """residual += sum of parts [P, M, C]; normed = its RMS norm."""
    _begin()
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    is_column = columns < width
    x = tl.load(residual + row * width + columns, mask=is_column, other=0.0)
    for part in tl.static_range(PARTS):
        x += tl.load(parts + (part * num_rows + row) * width + columns, mask=is_column, other=0.0).to(tl.float32)
    tl.store(residual + row * width + columns, x, mask=is_column)
    _norm(x, normed, norm_weight, eps, width, row, columns, is_column)


@triton.jit
def _norm(x, normed, norm_weight, eps, width, row, columns, is_column):
    scale = tl.rsqrt(tl.sum(x * x, 0) / width + eps)
    weight = tl.load(norm_weight + columns, mask=is_column, other=0.0).to(tl.float32)
    tl.store(normed + row * width + columns, (x * scale * weight).to(normed.dtype.element_ty), mask=is_column)


@triton.jit
def turn_and_store(
    parts, query, pool, cells, positions, cosines, sines, query_norm, key_norm, eps, num_rows, cell_size,
    PARTS: tl.constexpr, Q: tl.constexpr, H: tl.constexpr, D: tl.constexpr, HEADS: tl.constexpr, HAS_NORM: tl.constexpr,
):  # fmt: skip
    """Heads of parts [P, M, (Q + 2 H) D]: norm (Qwen3) and rotary for queries and keys; queries to query [M, Q, D], keys and values to the
    node's cell of pool [cells, W]. One program a node and HEADS heads of one kind."""
    _begin()
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1) * HEADS
    half = tl.arange(0, D // 2)
    within = tl.arange(0, HEADS)[:, None] * D + half[None, :]
    low = tl.zeros([HEADS, D // 2], tl.float32)
    high = tl.zeros([HEADS, D // 2], tl.float32)
    for part in tl.static_range(PARTS):
        at = parts + ((part * num_rows + row) * (Q + 2 * H) + head) * D + within
        low += tl.load(at).to(tl.float32)
        high += tl.load(at + D // 2).to(tl.float32)
    if head < Q + H:
        if HAS_NORM:
            scale = tl.rsqrt((tl.sum(low * low, 1) + tl.sum(high * high, 1)) / D + eps)[:, None]
            norm_weight = query_norm if head < Q else key_norm
            low *= scale * tl.load(norm_weight + half).to(tl.float32)[None, :]
            high *= scale * tl.load(norm_weight + D // 2 + half).to(tl.float32)[None, :]
        position = tl.load(positions + row).to(tl.int64)
        cosine = tl.load(cosines + position * (D // 2) + half)[None, :]
        sine = tl.load(sines + position * (D // 2) + half)[None, :]
        low, high = low * cosine - high * sine, high * cosine + low * sine
    cell = tl.load(cells + row).to(tl.int64)
    if head < Q:
        to = query + (row * Q + head) * D + within
    else:
        to = pool + cell * cell_size + (head - Q) * D + within
    tl.store(to, low.to(query.dtype.element_ty))
    tl.store(to + D // 2, high.to(query.dtype.element_ty))


@triton.jit
def learn_trunks(numbers, trunks, BLOCK: tl.constexpr):
    """Write the cells that joined trunks: numbers[0] of them, their places in `trunks` from numbers[1] on, then the cells."""
    _begin()
    count, places = tl.load(numbers), numbers + tl.load(numbers + 1)
    for start in range(tl.program_id(0) * BLOCK, count, tl.num_programs(0) * BLOCK):
        at = start + tl.arange(0, BLOCK)
        is_one = at < count
        tl.store(trunks + tl.load(places + at, mask=is_one, other=0), tl.load(places + count + at, mask=is_one), mask=is_one)


@triton.jit(do_not_specialize=["num_splits"])
def attend(
    query, pool, trunks, numbers, items, lineages, totals, peaks, scale, trunk_stride, num_rows, cell_size, num_splits,
    ROWS: tl.constexpr, SHARE: tl.constexpr, LONE: tl.constexpr, SPAN: tl.constexpr, Q: tl.constexpr, H: tl.constexpr, D: tl.constexpr,
    HAS_TREE: tl.constexpr,
):  # fmt: skip
    """One program an item (nodes of one session), key-value head and split: one of the first LONE shares of the trunk, SHARE columns each,
    or SPAN of the others, added up share by share; or, if HAS_TREE, for the first split the tree region.

    items [., 6]: the session's row of `trunks`, first node, number of nodes (0: nothing to do), trunk length, where in `numbers` the cells
    of its tree region begin, and how many they are. Bit c % 32 of lineages[c // 32, node]: the node sees column c of the tree region. Rows
    are the item's nodes by the G query heads. To totals [splits, M, Q, D] the weighted sums of values, to peaks [2, splits, M, Q] greatest
    score and sum of weights."""
    _begin()
    item, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    G: tl.constexpr = Q // H
    count = tl.load(items + item * 6 + 2)
    if count == 0:
        return
    slot = tl.load(items + item * 6).to(tl.int64)
    first = tl.load(items + item * 6 + 1)
    trunk_length = tl.load(items + item * 6 + 3)
    tree_cells = numbers + tl.load(items + item * 6 + 4)
    tree_length = tl.load(items + item * 6 + 5)

    rows = tl.arange(0, ROWS)
    is_row = rows // G < count
    node = tl.minimum(first + rows // G, num_rows - 1)
    query_head = head * G + rows % G
    width = tl.arange(0, D)
    queries = tl.load(query + (node * Q + query_head)[:, None] * D + width[None, :])
    peak = tl.full([ROWS], NEVER, tl.float32)
    weight = tl.zeros([ROWS], tl.float32)
    total = tl.zeros([ROWS, D], tl.float32)
    keys, values = pool + head * D, pool + (H + head) * D

    if HAS_TREE and split == 0:
        for start in range(0, tree_length, 32):
            bit = tl.arange(0, 32)
            is_column = start + bit < tree_length
            cell = tl.load(tree_cells + start + bit, mask=is_column, other=0).to(tl.int64) * cell_size
            key = tl.load(keys + cell[None, :] + width[:, None], mask=is_column[None, :], other=0.0)
            value = tl.load(values + cell[:, None] + width[None, :], mask=is_column[:, None], other=0.0)
            word = tl.load(lineages + (start // 32) * num_rows + node)
            is_seen = ((word[:, None] >> bit[None, :]) & 1 == 1) & is_row[:, None] & is_column[None, :]
            peak, weight, total = _merge(peak, weight, total, *_block(queries, key, value, is_seen, scale))
    else:
        part = split - 1 if HAS_TREE else split
        begin = tl.minimum(part, LONE) + tl.maximum(part - LONE, 0) * SPAN
        end = tl.minimum(begin + tl.where(part < LONE, 1, SPAN), tl.cdiv(trunk_length, SHARE))
        for share in range(begin, end):
            own = _share(queries, trunks + slot * trunk_stride, share * SHARE, trunk_length, keys, values, cell_size, scale, SHARE, D)
            peak, weight, total = _merge(peak, weight, total, *own)

    place = (split * num_rows + node) * Q + query_head
    tl.store(peaks + place, peak, mask=is_row)
    tl.store(peaks + num_splits * num_rows * Q + place, weight, mask=is_row)
    tl.store(totals + place[:, None].to(tl.int64) * D + width[None, :], total, mask=is_row[:, None])


@triton.jit
def find_tails(numbers, trunks, by_node, lineages, tails, lengths, trunk_stride, num_rows, SHARE: tl.constexpr, ROOM: tl.constexpr):
    """Of each node the cells of its tail, by position: what the trunk has beyond its last whole share, then the node's ancestors and the
    node itself. tails [M, ROOM], lengths [M]. by_node [4, M]: the session's row of `trunks`, its trunk's length, where in `numbers` the
    cells of its tree region begin, and how many they are. Lineages as in `attend`."""
    _begin()
    node = tl.program_id(0)
    slot = tl.load(by_node + node).to(tl.int64)
    trunk_length = tl.load(by_node + num_rows + node)
    tree_cells = numbers + tl.load(by_node + 2 * num_rows + node)
    tree_length = tl.load(by_node + 3 * num_rows + node)
    begin = trunk_length // SHARE * SHARE
    column = tl.arange(0, SHARE)
    is_rest = begin + column < trunk_length
    rest = tl.load(trunks + slot * trunk_stride + begin + column, mask=is_rest, other=0)
    tl.store(tails + node * ROOM + column, rest, mask=is_rest)
    length = trunk_length - begin
    bit = tl.arange(0, 32)
    for start in range(0, tree_length, 32):
        is_seen = (tl.load(lineages + (start // 32) * num_rows + node) >> bit) & 1
        cell = tl.load(tree_cells + start + bit, mask=is_seen == 1, other=0)
        tl.store(tails + node * ROOM + length + tl.cumsum(is_seen, 0) - 1, cell, mask=is_seen == 1)
        length += tl.sum(is_seen, 0)
    tl.store(lengths + node, length)


@triton.jit(do_not_specialize=["num_splits"])
def attend_tails(
    query, pool, tails, lengths, totals, peaks, scale, num_rows, cell_size, num_splits,
    SHARE: tl.constexpr, TAILS: tl.constexpr, Q: tl.constexpr, H: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Attention of each node to its own tail, in TAILS further shares. One program a node and key-value head; the rest as `attend`.

    Every share is of SHARE positions, counted from the text's beginning, and a position has one place in it: so a node's attention adds up
    the same numbers in the same order, whether what came before it lies in the trunk or in the tree region, and whoever else is in the
    pass."""
    _begin()
    node, head = tl.program_id(0), tl.program_id(1)
    G: tl.constexpr = Q // H
    ROWS: tl.constexpr = 16 if G < 16 else G  # matrix units multiply no fewer
    length = tl.load(lengths + node)
    if length == 0:
        return  # padding
    rows = tl.arange(0, ROWS)
    is_row = rows < G
    query_head = head * G + rows % G
    width = tl.arange(0, D)
    queries = tl.load(query + (node * Q + query_head)[:, None] * D + width[None, :])
    keys, values = pool + head * D, pool + (H + head) * D
    for tail in range(TAILS):
        peak = tl.full([ROWS], NEVER, tl.float32)
        weight = tl.zeros([ROWS], tl.float32)
        total = tl.zeros([ROWS, D], tl.float32)
        if tail * SHARE < length:
            peak, weight, total = _share(
                queries, tails + node * TAILS * SHARE, tail * SHARE, length, keys, values, cell_size, scale, SHARE, D
            )  # fmt: skip
        place = ((num_splits - TAILS + tail) * num_rows + node) * Q + query_head
        tl.store(peaks + place, peak, mask=is_row)
        tl.store(peaks + num_splits * num_rows * Q + place, weight, mask=is_row)
        tl.store(totals + place[:, None].to(tl.int64) * D + width[None, :], total, mask=is_row[:, None])


@triton.jit
def _share(queries, cells, begin, end, keys, values, cell_size, scale, SHARE: tl.constexpr, D: tl.constexpr):
    """Attention to SHARE of a list of cells from `begin`, as far as `end`: the same sums in the same order, whoever asks."""
    width = tl.arange(0, D)
    columns = begin + tl.arange(0, SHARE)
    is_column = columns < end
    cell = tl.load(cells + columns, mask=is_column, other=0).to(tl.int64) * cell_size
    key = tl.load(keys + cell[None, :] + width[:, None], mask=is_column[None, :], other=0.0)
    value = tl.load(values + cell[:, None] + width[None, :], mask=is_column[:, None], other=0.0)
    return _block(queries, key, value, is_column[None, :], scale)


@triton.jit
def _block(queries, key, value, is_seen, scale):
    """Greatest score, sum of weights, and weighted sum of values of a block of columns. The weights' sum is a product, too: unlike a
    reduction's, its order does not hang on how many rows there are."""
    scores = tl.where(is_seen, tl.dot(queries, key) * scale, NEVER)
    peak = tl.max(scores, 1)
    weights = tl.where(is_seen, tl.exp(scores - peak[:, None]), 0.0).to(value.dtype)
    ones = tl.full([value.shape[0], 8], 1.0, value.dtype)
    return peak, tl.max(tl.dot(weights, ones), 1), tl.dot(weights, value)


@triton.jit
def _merge(peak, weight, total, own_peak, own_weight, own_total):
    """Two parts of a softmax as one. Which products are fused with a sum is written out: no compiler is to choose it here one way and
    there another."""
    new_peak = tl.maximum(peak, own_peak)
    fade, own_fade = tl.exp(peak - new_peak), tl.exp(own_peak - new_peak)
    weight = tl.fma(own_weight, own_fade, weight * fade)
    total = tl.fma(own_total, tl.broadcast_to(own_fade[:, None], own_total.shape), total * fade[:, None])
    return new_peak, weight, total


@triton.jit(do_not_specialize=["num_splits"])
def join(
    totals, peaks, by_node, out, num_rows, num_splits,
    SHARE: tl.constexpr, LONE: tl.constexpr, SPAN: tl.constexpr, TAILS: tl.constexpr, Q: tl.constexpr, D: tl.constexpr,
    HAS_TAILS: tl.constexpr,
):  # fmt: skip
    """out [M, Q D] = attention over all splits, one after the other. One program a node and query head. by_node as in `find_tails`.

    If HAS_TAILS, the tails' shares join as if they had been the trunk's: the trunk's last span is taken on where `attend` has left it."""
    _begin()
    row, head = tl.program_id(0), tl.program_id(1)
    place = row * Q + head
    num_shares, num_whole, is_begun = 0, num_splits, False
    if HAS_TAILS:
        num_shares = tl.load(by_node + num_rows + row) // SHARE
        beyond = tl.maximum(num_shares - LONE, 0)
        num_whole, is_begun = tl.minimum(num_shares, LONE) + beyond // SPAN, beyond % SPAN > 0
    peak, weight, total = _nothing(D)
    for split in tl.range(0, num_whole, num_stages=4):
        peak, weight, total = _merge(peak, weight, total, *_left(totals, peaks, split, place, num_rows, num_splits, True, Q, D))
    if HAS_TAILS:
        begun_peak, begun_weight, begun_total = _left(totals, peaks, num_whole, place, num_rows, num_splits, is_begun, Q, D)
        for tail in tl.static_range(TAILS):
            own = _left(totals, peaks, num_splits - TAILS + tail, place, num_rows, num_splits, True, Q, D)
            begun_peak, begun_weight, begun_total = _merge(begun_peak, begun_weight, begun_total, *own)
            num_shares += 1
            if num_shares <= LONE or (num_shares - LONE) % SPAN == 0:
                peak, weight, total = _merge(peak, weight, total, begun_peak, begun_weight, begun_total)
                begun_peak, begun_weight, begun_total = _nothing(D)
        peak, weight, total = _merge(peak, weight, total, begun_peak, begun_weight, begun_total)
    width = tl.arange(0, D)
    tl.store(out + place * D + width[None, :], (total / weight[:, None]).to(out.dtype.element_ty))


@triton.jit
def _nothing(D: tl.constexpr):
    return tl.full([1], NEVER, tl.float32), tl.zeros([1], tl.float32), tl.zeros([1, D], tl.float32)


@triton.jit
def _left(totals, peaks, split, place, num_rows, num_splits, is_there, Q: tl.constexpr, D: tl.constexpr):
    """What a split has left for a node and query head, or nothing."""
    at = split * num_rows * Q + place + tl.arange(0, 1)
    width = tl.arange(0, D)
    peak = tl.load(peaks + at, mask=is_there, other=NEVER)
    weight = tl.load(peaks + num_splits * num_rows * Q + at, mask=is_there, other=0.0)
    return peak, weight, tl.load(totals + at[:, None].to(tl.int64) * D + width[None, :], mask=is_there, other=0.0)

"""What a graph is made for, and what one pass tells it: sizes rounded up to buckets, and one row of numbers.

M nodes of the bucket.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd_core.engine.products import MAX_STREAMED
from ssd_core.engine.runner import Work

LEAST_NODES = 16
"""The smallest bucket: matrix units multiply no fewer."""
LEAST_GRAIN = 64
"""Tokens of a prompt's piece are rounded up to a multiple of this at least, ..."""
LEAST_KEYS = 1024
"""... and what they attend to is gathered as if it were as long as this."""
MAX_ROWS = 64
"""Of one of attention's items: nodes by query heads."""
SHARE = 128
"""Positions whose part of attention is summed up by itself, ..."""
LONE_SHARES = 8
"""The first shares of a trunk have a program each: of a short text, all are to be read at once."""
SPAN = 4
"""Further shares of a trunk that one program adds up, ..."""
TAILS = 3
"""Shares that hold what lies beyond a trunk's whole shares."""
NODES_PER_SHARE = 32
"""... or, in trees so large that the library multiplies, one for so many nodes: what programs leave is to fit in memory."""
HEADER = 2
"""Numbers before all others: how many cells joined trunks, and where they are listed."""
PER_NODE = 8
"""Token, position, cell, the rows that want logits; and of the node's session the slot, the trunk's length, where the cells of its tree
region begin, and how many they are."""
ITEM = 6
"""Numbers that describe one of attention's items."""


class PassShape(NamedTuple):
    """Passes of one shape are replays of one graph."""

    num_nodes: int
    nodes_per_item: int
    num_items: int
    has_tails: bool
    """Attention by position: each node has its own tail. Else, for many or deep nodes, the tree region is a share that all look at."""
    num_splits: int
    """Attention's parts: the longest trunk's lone shares and spans, and the tails' shares or the tree region."""
    num_rows: int
    """That want logits; 0 for none."""
    num_keys: int = 0
    """Of a pass that reads a piece of a prompt, with the library's attention: as many as trunk and piece are at most. 0: another pass."""


def pass_shape(work: Work, group: int) -> PassShape:
    """`group` query heads to a key-value head. Few values of each size: every shape is a graph to capture."""
    if _is_reading(work):
        num_tokens = len(work.tokens)
        return _reading_shape(num_tokens, len(work.sessions[0].trunk) + num_tokens, len(work.kept))
    num_nodes = _bucket(len(work.tokens))
    is_streamed = num_nodes <= MAX_STREAMED
    nodes_per_item = 1 if max(work.num_new) == 1 else _most_per_item(num_nodes, group)
    fits = sum(-(-new // nodes_per_item) for new in work.num_new) <= num_nodes // nodes_per_item
    longest = max(len(session.trunk) for session in work.sessions)
    deepest = max(max(session.depths[-new:]) for session, new in zip(work.sessions, work.num_new, strict=True))
    has_tails = is_streamed and deepest < (TAILS - 1) * SHARE
    num_shares = longest // SHARE if has_tails else -(-longest // SHARE)
    num_kept = len(work.kept)
    return PassShape(
        num_nodes=num_nodes,
        nodes_per_item=nodes_per_item,
        num_items=num_nodes // nodes_per_item if fits else num_nodes,
        has_tails=has_tails,
        num_splits=_num_parts(num_shares, num_nodes) + (TAILS if has_tails else 1),
        num_rows=0 if num_kept == 0 else num_nodes if is_streamed else _bucket(num_kept),
    )


def _is_reading(work: Work) -> bool:
    """Long, and a mere chain below one session's trunk."""
    return len(work.tokens) > MAX_STREAMED and len(work.sessions) == 1 and work.sessions[0].depths == list(range(len(work.tokens)))


def _reading_shape(num_tokens: int, num_keys: int, num_kept: int = 1) -> PassShape:
    """Padding is multiplied: four buckets to a power of two. Most pieces want one token's logits, or none: that is one shape."""
    grain = max(LEAST_GRAIN, power_of_two(num_tokens) // 8)
    num_nodes = -(-num_tokens // grain) * grain
    return PassShape(num_nodes, num_nodes, 1, False, 0, _bucket(num_kept), max(LEAST_KEYS, power_of_two(num_keys)))


def decoding_shapes(max_position: int, group: int) -> Iterator[PassShape]:
    """Of all passes that are streamed, want logits and are no deeper than tails go."""
    for num_nodes in buckets(LEAST_NODES, MAX_STREAMED):
        most = _most_per_item(num_nodes, group)
        layouts = dict.fromkeys([(1, num_nodes), (most, num_nodes // most), (most, num_nodes)])
        numbers_of_parts = [0, *buckets(1, _num_parts(max_position // SHARE, num_nodes))]
        for (nodes_per_item, num_items), num_parts in product(layouts, numbers_of_parts):
            yield PassShape(num_nodes, nodes_per_item, num_items, True, num_parts + TAILS, num_nodes)


def reading_shapes(max_position: int, most_tokens: int) -> Iterator[PassShape]:
    """Of all passes over a piece of a prompt, of that many tokens at most, whose last token's logits may be wanted."""
    sizes = range(MAX_STREAMED + 1, min(most_tokens, max_position) + LEAST_GRAIN, LEAST_GRAIN)
    lengths = buckets(LEAST_KEYS, max(LEAST_KEYS, power_of_two(max_position)))
    return (
        shape for shape in dict.fromkeys(_reading_shape(*both) for both in product(sizes, lengths)) if shape.num_nodes <= shape.num_keys
    )


def large_shapes(max_position: int, group: int) -> Iterator[PassShape]:
    """Of trees that are not streamed, one of each size that settings allow."""
    for num_nodes in buckets(2 * MAX_STREAMED, 4 * MAX_STREAMED):
        most, num_parts = _most_per_item(num_nodes, group), _num_parts(-(-max_position // SHARE), num_nodes)
        yield PassShape(num_nodes, most, num_nodes // most, False, num_parts + 1, LEAST_NODES)


def buckets(first: int, last: int) -> list[int]:
    """Powers of two."""
    return [1 << i for i in range(first.bit_length() - 1, last.bit_length())]


def lone_and_span(num_nodes: int) -> tuple[int, int]:
    """How many shares of a trunk have a program each, and how many of the others one program adds up."""
    return (LONE_SHARES, SPAN) if num_nodes <= MAX_STREAMED else (0, num_nodes // NODES_PER_SHARE)


def _num_parts(num_shares: int, num_nodes: int) -> int:
    """A bucket of programs for so many shares."""
    num_lone, span = lone_and_span(num_nodes)
    num_parts = min(num_shares, num_lone) + max(0, -(-(num_shares - num_lone) // span))
    return power_of_two(num_parts) if num_parts else 0


def _bucket(size: int) -> int:
    return max(LEAST_NODES, power_of_two(size))


def _most_per_item(num_nodes: int, group: int) -> int:
    return min(num_nodes, floor_power_of_two(max(1, MAX_ROWS // group)))


def num_numbers(num_cells: int) -> int:
    """More than a pass can need over a pool of so many cells."""
    return 2**19 + 3 * num_cells


class Table(NamedTuple):
    """The trunks' cells as the device knows them, [slots, stride]. By session of the pass."""

    slots: Sequence[int]
    known: Sequence[int]
    """How much of its trunk is there."""
    stride: int


def write_numbers(room: NDArray[np.int32], work: Work, shape: PassShape, table: Table, spare_cell: int) -> int:
    """Fill `room` with a pass's numbers and return how many they are: header, by node [8, M], items [I, 6], lineages [words, M] (bit c % 32
    of lineages[c // 32, node]: the node sees column c of its tree region; a chain that is read needs none), cells of all tree regions, and
    what joined trunks: places, then cells. Padding nodes write to the spare cell, which is nobody's."""
    num_nodes, num_tokens = shape.num_nodes, len(work.tokens)
    words = 0 if shape.num_keys else max(len(session.tree) for session in work.sessions) // 32 + 1
    by_node = room[HEADER : HEADER + PER_NODE * num_nodes].reshape(PER_NODE, num_nodes)
    end = HEADER + by_node.size
    items = room[end : end + ITEM * shape.num_items].reshape(-1, ITEM)
    end += items.size
    lineages = room[end : end + words * num_nodes].reshape(words, num_nodes)
    end += lineages.size
    by_node[:2, num_tokens:] = 0
    by_node[2] = spare_cell
    by_node[3:] = 0
    by_node[0, :num_tokens], by_node[1, :num_tokens], by_node[3, : len(work.kept)] = work.tokens, work.positions, work.kept
    items[:] = 0
    lineages[:, num_tokens:] = 0
    first = item = 0
    places: list[NDArray[np.int32]] = []
    joined = array("q")
    for session, new, slot, old_length in zip(work.sessions, work.num_new, table.slots, table.known, strict=True):
        length, num_tree = len(session.trunk), len(session.tree)
        whole = length // SHARE * SHARE if shape.has_tails else length
        for start in range(0, new, shape.nodes_per_item):
            items[item] = slot, first + start, min(shape.nodes_per_item, new - start), whole, end, num_tree
            item += 1
        by_node[4:, first : first + new] = np.array([[slot], [length], [end], [num_tree]])
        by_node[2, first : first + new] = session.tree[-new:]
        if words:
            seen = b"".join(lineage.to_bytes(4 * words, "little") for lineage in session.lineages[-new:])
            lineages[:, first : first + new] = np.frombuffer(seen, dtype="<i4").reshape(new, words).T
        room[end : end + num_tree] = session.tree
        if old_length < length:
            places.append(np.arange(slot * table.stride + old_length, slot * table.stride + length, dtype=np.int32))
            joined.extend(session.trunk[old_length:])
        first += new
        end += num_tree
    num_joined = len(joined)
    room[:HEADER] = num_joined, end
    if num_joined:
        room[end : end + num_joined] = np.concatenate(places)
        room[end + num_joined : end + 2 * num_joined] = joined
    return end + 2 * num_joined


def power_of_two(n: int) -> int:
    """The least that is no smaller."""
    return 1 << (n - 1).bit_length()


def floor_power_of_two(n: int) -> int:
    """The greatest that is no greater."""
    return 1 << (n.bit_length() - 1)

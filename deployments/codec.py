"""What travels between a target replica and a draft actor, as MessagePack: arrays of numbers and texts, nothing executable.

Decoding raises CodecError for anything that is not exactly such a message; the receiver drops it and counts it. What a draft proposes in
a well-formed report is its opinion: whether tokens and probabilities can be is for the store to say, child by child.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import msgpack
from pydantic import ValidationError

from ssd_core.config import SamplingParams, SpeculationConfig
from ssd_core.draft_loop import DraftMessage, SessionClose
from ssd_core.errors import SSDError
from ssd_core.types import Draw, Growth, GrowthReport, Outcome, SessionOpen

_CLOSE, _OPEN, _OUTCOME, _HELD = 1, 2, 3, 4
_COLUMNS = "<%dQ%dI%dd"
"""Of a growth's children: parents' ids, tokens, edge probabilities."""
_CHILD_BYTES = struct.calcsize(_COLUMNS % (1, 1, 1))
_DISTRIBUTION = "<%dI%dd"
"""Of what a child was drawn from: tokens, probabilities."""
_DRAWABLE_BYTES = struct.calcsize(_DISTRIBUTION % (1, 1))


class CodecError(SSDError):
    """Bytes that are not a message of ours."""


@dataclass(frozen=True, slots=True)
class SessionsHeld:
    """Target to draft: all sessions that the target has with this draft now."""

    session_ids: tuple[str, ...]


Order = DraftMessage | SessionsHeld


@dataclass(frozen=True, slots=True)
class Orders:
    """One message to a draft. Those of one target are applied in the order it sent them."""

    orders: tuple[Order, ...]
    sent_at: float
    """time.time() when the target's loop handed over the oldest of them."""


def encode_orders(orders: Sequence[Order], sent_at: float) -> bytes:
    data: bytes = msgpack.packb((sent_at, [_order(order) for order in orders]))
    return data


def _order(order: Order) -> tuple[object, ...]:
    if isinstance(order, Outcome):
        return (_OUTCOME, order.session_id, order.base_length, order.tokens, order.submitted)
    if isinstance(order, SessionOpen):
        parameters = (model.model_dump_json(exclude_defaults=True) for model in (order.sampling, order.speculation))
        return (_OPEN, order.session_id, order.num_prompt_tokens, order.tokens, *parameters)
    if isinstance(order, SessionsHeld):
        return (_HELD, order.session_ids)
    return (_CLOSE, order.session_id)


def decode_orders(data: bytes, vocab_size: int) -> Orders:
    sent_at, orders = _unpack(data, float, tuple)
    if not isfinite(sent_at):
        raise CodecError("a time that is not finite")
    return Orders(tuple(_decode_order(order, vocab_size) for order in orders), sent_at)


def _decode_order(order: Any, vocab_size: int) -> Order:
    kind = order[0] if type(order) is tuple and order else None
    if kind == _OUTCOME:
        _, session_id, base_length, tokens, submitted = _typed(order, int, str, int, tuple, tuple)
        return Outcome(session_id, _count(base_length), _tokens(tokens, vocab_size), _ids(submitted))
    if kind == _OPEN:
        _, session_id, num_prompt_tokens, tokens, sampling, speculation = _typed(order, int, str, int, tuple, str, str)
        if not 0 < num_prompt_tokens <= len(tokens):
            raise CodecError(f"{num_prompt_tokens} prompt tokens of {len(tokens)}")
        try:
            sampling = SamplingParams.model_validate_json(sampling)
            speculation = SpeculationConfig.model_validate_json(speculation)
        except ValidationError as error:
            raise CodecError(f"parameters of {session_id!r}: {error}") from error
        if len(tokens) > num_prompt_tokens + sampling.max_tokens:
            raise CodecError(f"{len(tokens)} tokens of {session_id!r}, which may have {num_prompt_tokens} + {sampling.max_tokens}")
        return SessionOpen(session_id, _tokens(tokens, vocab_size), num_prompt_tokens, sampling, speculation)
    if kind == _HELD:
        _, session_ids = _typed(order, int, tuple)
        return SessionsHeld(_all_of(str, session_ids))
    _, session_id = _typed(order, int, str)
    if kind != _CLOSE:
        raise CodecError(f"unknown kind {kind}")
    return SessionClose(session_id)


def encode_report(report: GrowthReport) -> bytes:
    growths = [(g.session_id, g.committed_length, _columns(g), g.is_exhausted, [_packed_draw(d) for d in g.draws]) for g in report.growths]
    data: bytes = msgpack.packb((growths, report.unknown_sessions, report.num_steps, report.num_nodes, report.busy_s, report.sent_at))
    return data


def decode_report(data: bytes) -> GrowthReport:
    growths, unknown, num_steps, num_nodes, busy_s, sent_at = _unpack(data, tuple, tuple, int, int, float, float)
    if not isfinite(busy_s + sent_at):
        raise CodecError("times that are not finite")
    _all_of(str, unknown)
    decoded = tuple(_decode_growth(growth) for growth in growths)
    return GrowthReport(decoded, unknown, _count(num_steps), _count(num_nodes), busy_s, sent_at)


def _columns(growth: Growth) -> bytes:
    """The children as three packed columns: a message that is read in every round should not be looked at number by number."""
    count = len(growth.tokens)
    return struct.pack(_COLUMNS % (count, count, count), *growth.parents, *growth.tokens, *growth.edge_probabilities)


def _decode_growth(growth: Any) -> Growth:
    session_id, committed_length, columns, is_exhausted, draws = _typed(growth, str, int, bytes, bool, tuple)
    count, rest = divmod(len(columns), _CHILD_BYTES)
    if rest:
        raise CodecError(f"columns of {len(columns)} bytes, which are not {_CHILD_BYTES} a child")
    values = struct.unpack(_COLUMNS % (count, count, count), columns)
    parents, tokens, probabilities = values[:count], values[count : 2 * count], values[2 * count :]
    decoded = tuple(_decode_draw(draw) for draw in draws)
    return Growth(session_id, _count(committed_length), parents, tokens, probabilities, is_exhausted, decoded)


def _packed_draw(draw: Draw) -> tuple[int, int, bytes]:
    count = len(draw.tokens)
    return draw.parent, draw.token, struct.pack(_DISTRIBUTION % (count, count), *draw.tokens, *draw.probabilities)


def _decode_draw(draw: Any) -> Draw:
    parent, token, distribution = _typed(draw, int, int, bytes)
    count, rest = divmod(len(distribution), _DRAWABLE_BYTES)
    if rest:
        raise CodecError(f"a distribution of {len(distribution)} bytes, which are not {_DRAWABLE_BYTES} a token")
    values = struct.unpack(_DISTRIBUTION % (count, count), distribution)
    return Draw(parent, token, values[:count], values[count:])


# ---------------------------------------------------------------- checks: each returns what it found good


def _unpack(data: bytes, *kinds: type) -> tuple[Any, ...]:
    try:
        message = msgpack.unpackb(data, use_list=False)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise CodecError(f"not a message: {error}") from error
    return _typed(message, *kinds)


def _typed(values: Any, *kinds: type) -> tuple[Any, ...]:
    if type(values) is not tuple or tuple(map(type, values)) != kinds:
        raise CodecError(f"not ({', '.join(kind.__name__ for kind in kinds)}): {values!r:.80}")
    return values


def _all_of(kind: type, values: tuple[Any, ...]) -> tuple[Any, ...]:
    if values and set(map(type, values)) != {kind}:
        raise CodecError(f"not all {kind.__name__}: {values!r:.80}")
    return values


def _count(number: int) -> int:
    if number < 0:
        raise CodecError(f"a count of {number}")
    return number


def _ids(values: tuple[Any, ...]) -> tuple[int, ...]:
    if _all_of(int, values) and min(values) < 0:
        raise CodecError("a negative node id")
    return values


def _tokens(values: tuple[Any, ...], vocab_size: int) -> tuple[int, ...]:
    if _all_of(int, values) and not (min(values) >= 0 and max(values) < vocab_size):
        raise CodecError(f"a token outside [0, {vocab_size})")
    return values

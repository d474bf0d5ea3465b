"""What travels between a target replica and a draft actor, as bytes: explicit layouts, every length checked, nothing executable.

Little-endian. A message is a header and entries; a text is a u16 length and UTF-8; a column is a u32 length and its values.
Decoding raises CodecError for anything that is not exactly such a message; the receiver drops it and counts it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from pydantic import ValidationError

from ssd_core.config import SamplingParams, SpeculationConfig
from ssd_core.draft_loop import DraftMessage, SessionClose
from ssd_core.errors import SSDError
from ssd_core.types import Growth, GrowthReport, Outcome, SessionOpen

_ORDERS_MAGIC = 0x53534F31  # "SSO1"
_REPORT_MAGIC = 0x53534731  # "SSG1"
_KIND_CLOSE, _KIND_OPEN, _KIND_OUTCOME = 1, 2, 3
_EXHAUSTED = 1  # flag bit of a growth


class CodecError(SSDError):
    """Bytes that are not a message of ours."""


@dataclass(frozen=True, slots=True)
class Orders:
    """One message to a draft. Those of one target are applied in the order it sent them."""

    orders: tuple[DraftMessage, ...]
    sent_at: float
    """time.time() when the target's loop handed over the oldest of them."""


def encode_orders(orders: Sequence[DraftMessage], sent_at: float) -> bytes:
    out = [struct.pack("<IId", _ORDERS_MAGIC, len(orders), sent_at)]
    for order in orders:
        if isinstance(order, Outcome):
            out += (
                b"\x03",
                _text(order.session_id),
                struct.pack("<I", order.base_length),
                _column("i", order.tokens),
                _column("Q", order.submitted),
            )
        elif isinstance(order, SessionOpen):
            out += (b"\x02", _text(order.session_id), struct.pack("<I", order.num_prompt_tokens), _column("i", order.tokens))
            out += (
                _text(order.sampling.model_dump_json(exclude_defaults=True)),
                _text(order.speculation.model_dump_json(exclude_defaults=True)),
            )
        else:
            out += (b"\x01", _text(order.session_id))
    return b"".join(out)


def decode_orders(data: bytes, vocab_size: int) -> Orders:
    reader = _Reader(data)
    magic, count, sent_at = reader.unpack("<IId")
    if magic != _ORDERS_MAGIC:
        raise CodecError(f"not an orders message: {magic:#x}")
    orders = tuple(_decode_order(reader, vocab_size) for _ in range(count))
    reader.expect_end()
    if not isfinite(sent_at):
        raise CodecError("a time that is not finite")
    return Orders(orders, sent_at)


def encode_report(report: GrowthReport) -> bytes:
    counts = (len(report.growths), len(report.unknown_sessions))
    out = [struct.pack("<IIIIIdd", _REPORT_MAGIC, *counts, report.num_steps, report.num_nodes, report.busy_s, report.sent_at)]
    for growth in report.growths:
        out += (_text(growth.session_id), struct.pack("<IB", growth.committed_length, _EXHAUSTED if growth.is_exhausted else 0))
        out += (_column("Q", growth.parents), _column("i", growth.tokens), _column("f", growth.edge_probabilities))
    out += map(_text, report.unknown_sessions)
    return b"".join(out)


def decode_report(data: bytes, vocab_size: int) -> GrowthReport:
    reader = _Reader(data)
    magic, num_growths, num_unknown, num_steps, num_nodes, busy_s, sent_at = reader.unpack("<IIIIIdd")
    if magic != _REPORT_MAGIC:
        raise CodecError(f"not a growth report: {magic:#x}")
    if not (isfinite(busy_s) and isfinite(sent_at)):
        raise CodecError("times that are not finite")
    growths = tuple(_decode_growth(reader, vocab_size) for _ in range(num_growths))
    unknown = tuple(reader.text() for _ in range(num_unknown))
    reader.expect_end()
    return GrowthReport(growths, unknown, num_steps, num_nodes, busy_s, sent_at)


def _decode_order(reader: _Reader, vocab_size: int) -> DraftMessage:
    (kind,) = reader.unpack("<B")
    session_id = reader.text()
    if kind == _KIND_CLOSE:
        return SessionClose(session_id)
    if kind == _KIND_OUTCOME:
        (base_length,) = reader.unpack("<I")
        return Outcome(session_id, base_length, reader.tokens(vocab_size), reader.column("Q"))
    if kind == _KIND_OPEN:
        (num_prompt_tokens,) = reader.unpack("<I")
        tokens = reader.tokens(vocab_size)
        if not 0 < num_prompt_tokens <= len(tokens):
            raise CodecError(f"{num_prompt_tokens} prompt tokens of {len(tokens)}")
        try:
            sampling = SamplingParams.model_validate_json(reader.text())
            speculation = SpeculationConfig.model_validate_json(reader.text())
        except ValidationError as error:
            raise CodecError(f"parameters of {session_id!r}: {error}") from error
        return SessionOpen(session_id, tokens, num_prompt_tokens, sampling, speculation)
    raise CodecError(f"unknown kind {kind}")


def _decode_growth(reader: _Reader, vocab_size: int) -> Growth:
    session_id = reader.text()
    committed_length, flags = reader.unpack("<IB")
    parents, tokens, probabilities = reader.column("Q"), reader.tokens(vocab_size), reader.column("f")
    if not len(parents) == len(tokens) == len(probabilities):
        raise CodecError(f"columns of {len(parents)}, {len(tokens)} and {len(probabilities)} values")
    if not all(0.0 <= p <= 1.0 for p in probabilities):  # False for NaN, too
        raise CodecError("a probability outside [0, 1]")
    return Growth(session_id, committed_length, parents, tokens, probabilities, bool(flags & _EXHAUSTED))


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<H", len(data)) + data


def _column(kind: str, values: Sequence[float]) -> bytes:
    return struct.pack(f"<I{len(values)}{kind}", len(values), *values)


class _Reader:
    """A position in bytes; every read is checked against their end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def unpack(self, layout: str) -> tuple:
        end = self._at + struct.calcsize(layout)
        if end > len(self._data):
            raise CodecError(f"cut off: {end} bytes wanted, {len(self._data)} there")
        values = struct.unpack_from(layout, self._data, self._at)
        self._at = end
        return values

    def column(self, kind: str) -> tuple:
        (length,) = self.unpack("<I")
        if length > len(self._data):  # before a layout of that size is made
            raise CodecError(f"a column of {length} values in {len(self._data)} bytes")
        return self.unpack(f"<{length}{kind}")

    def tokens(self, vocab_size: int) -> tuple[int, ...]:
        tokens = self.column("i")
        if tokens and not (min(tokens) >= 0 and max(tokens) < vocab_size):
            raise CodecError(f"a token outside [0, {vocab_size})")
        return tokens

    def text(self) -> str:
        (length,) = self.unpack("<H")
        (data,) = self.unpack(f"<{length}s")
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise CodecError(f"text that is not UTF-8: {error}") from error

    def expect_end(self) -> None:
        if self._at != len(self._data):
            raise CodecError(f"{len(self._data) - self._at} bytes too many")

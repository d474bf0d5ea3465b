"""deployments/codec.py"""

from __future__ import annotations

import math
import random
import struct

import msgpack
import pytest

from deployments.codec import CodecError, Orders, SessionsHeld, decode_orders, decode_report, encode_orders, encode_report
from ssd_core.config import SamplingParams, SpeculationConfig
from ssd_core.draft_loop import SessionClose
from ssd_core.store import SpeculationStore, StoreCounters
from ssd_core.types import Draw, Growth, GrowthReport, Outcome, SessionOpen, sequence_id

VOCAB = 100
OPENING = SessionOpen(
    "a" * 32, (1, 2, 3, 99), 3, SamplingParams(seed=2**62, logit_bias={5: -1.5}, stop=("é\n",)), SpeculationConfig(preset="ssd")
)
ORDERS = (
    OPENING,
    Outcome("b", 7, (4, 5), (2**64 - 1, 0)),
    Outcome("c", 0, (), ()),
    SessionClose("ünicode"),
    SessionsHeld(("b", "ünicode")),
    SessionsHeld(()),
)
DRAWN = Growth("c", 4, (7,), (1,), (0.5,), draws=(Draw(2**64 - 1, 1, (1, 99), (1 / 3, 2 / 3)), Draw(8, 0, (0,), (1.0,))))
REPORT = GrowthReport(
    (Growth("a", 12, (1, 2**63), (0, 99), (0.0, 1.0)), Growth("b", 3, (), (), (), is_exhausted=True), DRAWN), ("lost",), 3, 17, 0.25, 1.8e9
)


def decoded_orders(data: bytes) -> Orders:
    return decode_orders(data, VOCAB)


def test_orders_come_out_as_they_went_in() -> None:
    assert decode_orders(encode_orders(ORDERS, 1.5), VOCAB) == Orders(ORDERS, 1.5)


def test_a_report_comes_out_as_it_went_in() -> None:
    assert decode_report(encode_report(REPORT)) == REPORT


@pytest.mark.parametrize("data", [encode_orders(ORDERS, 1.5), encode_report(REPORT)], ids=["orders", "report"])
def test_every_truncation_and_extension_is_refused(data: bytes) -> None:
    decode = decoded_orders if data == encode_orders(ORDERS, 1.5) else decode_report
    for end in range(len(data)):
        with pytest.raises(CodecError):
            decode(data[:end])
    with pytest.raises(CodecError):
        decode(data + b"\0")


def test_random_damage_is_refused_or_still_a_valid_message() -> None:
    dice = random.Random(1)
    for data, decode in ((encode_orders(ORDERS, 1.5), decoded_orders), (encode_report(REPORT), decode_report)):
        for _ in range(3000):
            damaged = bytearray(data)
            for _ in range(dice.randint(1, 4)):
                damaged[dice.randrange(len(damaged))] = dice.randrange(256)
            try:
                decode(bytes(damaged))
            except CodecError:
                continue


def test_a_token_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(CodecError, match="token"):
        decode_orders(encode_orders([Outcome("b", 0, (VOCAB,), ())], 1.5), VOCAB)


def test_of_what_a_draft_proposes_only_what_cannot_be_is_dropped() -> None:
    """Through the wire and into the store: the report's other children, and those of other sessions, come to their places."""
    bad = [(VOCAB, 0.5), (2**32 - 1, 0.5), (3, math.nan), (4, math.inf), (5, -0.1), (6, 1.0 + 2**-52)]
    tokens, edges = zip(*bad, (7, 1.0), strict=True)
    root = sequence_id((1, 2))
    draws = (
        Draw(root, 7, (VOCAB,), (1.0,)),
        Draw(root, 7, (2**32 - 1, 7), (0.5, 0.5)),
        Draw(root, 7, (7, 8), (math.nan, 1.0)),
        Draw(root, 7, (7, 8), (1.5, -0.5)),
        Draw(root, 9, (9,), (1.0,)),
        Draw(root, 7, (7,), (1.0,)),
    )
    report = GrowthReport((Growth("a", 2, (root,) * 7, tokens, edges, draws=draws), Growth("b", 2, (root,), (8,), (0.25,))))
    store = SpeculationStore(VOCAB)
    stored = {name: store.open(name, (1, 2)) for name in "ab"}
    for growth in decode_report(encode_report(report)).growths:
        store.ingest(growth)
    assert list(stored["a"].tree.root.children) == [7] and list(stored["b"].tree.root.children) == [8]
    assert stored["a"].tree.root.draw == draws[-1]
    assert store.counters == StoreCounters(ingested=2, garbage=len(bad) + len(draws) - 1)


def test_an_opening_longer_than_its_session_can_be_is_refused() -> None:
    whole, longer = (SessionOpen("a", (1,) * n, 3, SamplingParams(max_tokens=4), SpeculationConfig()) for n in (7, 8))
    assert decode_orders(encode_orders([whole], 1.5), VOCAB).orders == (whole,)
    with pytest.raises(CodecError, match=r"may have 3 \+ 4"):
        decode_orders(encode_orders([longer], 1.5), VOCAB)


ONE_CHILD = struct.pack("<QId", 1, 1, 0.5)
DRAW = (5, 1, struct.pack("<Id", 1, 1.0))
GOOD_GROWTH = ("a", 1, ONE_CHILD, False, (DRAW,))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (0, 7),
        (0, b"a"),
        (1, -1),
        (1, 1.0),
        (1, "1"),
        (2, (1,)),
        (2, 1),
        (2, None),
        (2, ONE_CHILD[:-1]),
        (2, ONE_CHILD + b"\0"),
        (3, 0),
        (4, None),
        (4, (DRAW[:2],)),
        (4, ((5, 1, DRAW[2][:-1]),)),
        (4, ((5, "1", DRAW[2]),)),
    ],
)
def test_a_growth_with_a_field_of_another_type_is_refused(field: int, value: object) -> None:
    def report(growth: tuple[object, ...]) -> bytes:
        data: bytes = msgpack.packb(([growth], (), 1, 1, 0.5, 1.5))
        return data

    assert decode_report(report(GOOD_GROWTH)).growths == (Growth("a", 1, (1,), (1,), (0.5,), draws=(Draw(5, 1, (1,), (1.0,)),)),)
    with pytest.raises(CodecError):
        decode_report(report((*GOOD_GROWTH[:field], value, *GOOD_GROWTH[field + 1 :])))


@pytest.mark.parametrize(
    "order",
    [
        7,
        (),
        (9, "a"),
        (1, 2),
        (3, "a", -1, (), ()),
        (3, "a", 0, (1.5,), ()),
        (3, "a", 0, (), ("x",)),
        (2, "a", 1, (), "{}", "{}"),
        (4, "a"),
        (4, ("a", 1)),
        (4,),
    ],
)
def test_an_order_of_another_shape_is_refused(order: object) -> None:
    with pytest.raises(CodecError):
        decode_orders(msgpack.packb((1.5, [order])), VOCAB)

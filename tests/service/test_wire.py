"""The wire keeps message boundaries, never blocks, and tells both sides of an end."""

from __future__ import annotations

import threading
import time

import pytest

from deployments.wire import MAX_MESSAGE_BYTES, Wire
from deployments.wire_hub import WireHub


@pytest.fixture
def hub():
    hub = WireHub()
    yield hub
    hub.close()


def connected(hub: WireHub, name: str = "target") -> Wire:
    wire = Wire.connect(hub.path, hub.invite(name))
    hub.poll(1.0)
    assert name in hub
    return wire


def test_messages_arrive_whole_and_in_order_both_ways(hub: WireHub) -> None:
    wire = connected(hub)
    messages = [b"a", b"bc" * 1000, b"d"]
    assert all(wire.send(message) for message in messages)
    assert hub.poll(1.0) == [("target", message) for message in messages]
    assert all(hub.send("target", message) for message in messages)
    assert wire.receive() == messages
    assert wire.receive() == []


def test_what_is_too_long_or_finds_no_room_is_refused_not_waited_for(hub: WireHub) -> None:
    wire = connected(hub)
    assert not wire.send(bytes(MAX_MESSAGE_BYTES + 1))
    sent = 0
    while wire.send(bytes(10_000)):
        sent += 1
        assert sent < 10_000, "nobody reads, and still there is room"
    assert len(hub.poll(1.0)) == sent


def test_each_side_hears_that_the_other_is_gone(hub: WireHub) -> None:
    first, second = connected(hub, "a"), connected(hub, "b")
    first.close()
    hub.poll(1.0)
    assert hub.names == ["b"]
    hub.close()
    assert second.receive() is None


def test_a_target_that_connects_again_takes_its_old_place(hub: WireHub) -> None:
    old, new = connected(hub), connected(hub)
    assert hub.names == ["target"]
    hub.send("target", b"x")
    assert new.receive() == [b"x"] and old.receive() is None


def test_wake_ends_a_wait(hub: WireHub) -> None:
    threading.Timer(0.05, hub.wake).start()
    began = time.monotonic()
    assert hub.poll(10.0) == []
    assert time.monotonic() - began < 5.0

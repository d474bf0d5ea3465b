"""Whoever connects to the draft's socket, and whatever they send: the loop lives, good wires go on."""

from __future__ import annotations

import os
import resource
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.wire import MAX_MESSAGES_AT_ONCE, Wire
from deployments.wire_hub import MAX_STRANGERS, WireHub

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def hub() -> Iterator[WireHub]:
    hub = WireHub()
    yield hub
    hub.close()


def stranger(hub: WireHub, *messages: bytes) -> socket.socket:
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end.setblocking(False)
    end.connect(hub.path)
    for message in messages:
        end.send(message)
    return end


def connected(hub: WireHub, name: str = "target") -> Wire:
    wire = Wire.connect(hub.path, hub.invite(name))
    hub.poll(1.0)
    assert name in hub
    return wire


def assert_speaks(hub: WireHub, name: str, wire: Wire) -> None:
    """Both ways, at once: `poll` without a timeout."""
    assert wire.send(b"there")
    assert hub.poll(0.0) == [(name, b"there")]
    assert hub.send(name, b"and back") and wire.receive() == [b"and back"]


def is_dismissed(end: socket.socket) -> bool:
    try:
        return end.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:  # what it sent was not read
        return True


def fill_up(ends: list[socket.socket]) -> None:
    """Take the descriptors that are left."""
    with pytest.raises(OSError, match="Too many open files"):  # noqa: PT012 until the last is gone
        while True:
            ends.append(socket.socket())


def num_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_only_its_user_may_enter_the_folder_and_it_goes_with_the_hub() -> None:
    hub = WireHub()
    folder = Path(hub.path).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [path.name for path in folder.iterdir()] == [Path(hub.path).name]
    hub.close()
    assert not folder.exists()


def test_what_killed_hubs_left_behind_goes_with_the_next_start_and_living_ones_stay(hub: WireHub) -> None:
    killed = WireHub()
    killed._listener.close()  # as the kernel closes it
    assert Path(killed.path).exists()
    other = WireHub()
    assert not Path(killed.path).parent.exists()
    wire = connected(hub)
    assert_speaks(hub, "target", wire)
    other.close()


def test_where_the_folder_for_temporary_files_has_a_long_name_there_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    hub = WireHub()
    assert_speaks(hub, "target", connected(hub))
    hub.close()


def test_connections_that_close_again_and_two_of_one_name_in_one_poll_end_nothing(hub: WireHub) -> None:
    good = connected(hub, "good")
    first = connected(hub, "twice")
    assert first.send(b"last words")  # readable in the very poll that drops it
    second = Wire.connect(hub.path, hub.invite("twice"))
    for _ in range(3):
        stranger(hub).close()
    stranger(hub, b"twice").close()
    hub.poll(0.0)
    hub.poll(0.0)
    assert sorted(hub.names) == ["good", "twice"]
    assert_speaks(hub, "good", good)
    assert_speaks(hub, "twice", second)
    while first.receive() is not None:
        pass


def test_silent_connections_hold_nobody_up_and_the_oldest_leave(hub: WireHub) -> None:
    good = connected(hub)
    silent = []
    for _ in range(3 * MAX_STRANGERS):
        silent.append(stranger(hub))
        assert_speaks(hub, "target", good)
    assert [is_dismissed(end) for end in silent] == [True] * 2 * MAX_STRANGERS + [False] * MAX_STRANGERS
    before = num_descriptors()
    for end in silent:
        end.close()
    hub.poll(0.0)
    assert num_descriptors() == before - len(silent) - MAX_STRANGERS


def test_one_that_speaks_in_the_very_poll_in_which_it_has_to_leave_ends_nothing(hub: WireHub) -> None:
    oldest = stranger(hub)
    hub.poll(0.0)
    silent = [stranger(hub) for _ in range(MAX_STRANGERS)]
    oldest.send(b"late")
    hub.poll(0.0)
    assert is_dismissed(oldest) and not any(map(is_dismissed, silent))
    for end in (oldest, *silent):
        end.close()


def test_nobody_takes_a_wire_without_the_token_and_a_token_is_good_once(hub: WireHub) -> None:
    good = connected(hub)
    token = hub.invite("target")
    for greeting in (b"target", b"", token.encode()[:-1], token.encode() + b"0", b"\xff" * 32, bytes(1000)):
        liar = stranger(hub, greeting)
        hub.poll(0.0)
        assert is_dismissed(liar)
        assert_speaks(hub, "target", good)
    again = Wire.connect(hub.path, token)
    hub.poll(0.0)
    assert good.receive() is None, "the target itself has connected anew"
    assert_speaks(hub, "target", again)
    replay = Wire.connect(hub.path, token)
    hub.poll(0.0)
    assert replay.receive() is None
    assert_speaks(hub, "target", again)


def test_a_second_invitation_replaces_the_first(hub: WireHub) -> None:
    old, new = hub.invite("target"), hub.invite("target")
    late = Wire.connect(hub.path, old)
    hub.poll(0.0)
    assert late.receive() is None and "target" not in hub
    wire = Wire.connect(hub.path, new)
    hub.poll(0.0)
    assert_speaks(hub, "target", wire)


def test_a_greeting_may_come_late_and_in_the_same_poll_as_messages(hub: WireHub) -> None:
    token = hub.invite("target")
    end = stranger(hub)
    assert hub.poll(0.0) == [] and "target" not in hub
    end.send(token.encode())
    end.send(b"first")
    assert hub.poll(0.0) + hub.poll(0.0) == [("target", b"first")]
    end.close()


def test_a_sender_that_never_pauses_is_read_in_turns(hub: WireHub) -> None:
    flood, good = connected(hub, "flood"), connected(hub, "good")
    sent = 0
    while sent <= MAX_MESSAGES_AT_ONCE and flood.send(b"x"):
        sent += 1
    assert good.send(b"y")
    taken = hub.poll(0.0)
    assert ("good", b"y") in taken and len(taken) == 1 + min(sent, MAX_MESSAGES_AT_ONCE)


def test_where_no_descriptor_is_left_a_silent_connection_makes_room(hub: WireHub) -> None:
    good, silent = connected(hub), [stranger(hub)]
    hub.poll(0.0)
    silent.append(stranger(hub))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), hard))
    try:
        fill_up(silent)
        assert hub.poll(0.0) == []
        assert is_dismissed(silent[0])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    hub.poll(0.0)
    assert_speaks(hub, "target", good)
    for end in silent:
        end.close()


HUGE = (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\x05", b"\x91" * 5000)
"""MessagePack that promises four thousand million entries, or is nested deeply."""
SAYS = st.one_of(
    st.sampled_from((*HUGE, b"", b"target", b"good", bytes(120_000), msgpack.packb((1.5, [(4, ())])))),
    st.binary(max_size=200),
)
DOES = st.one_of(
    st.tuples(st.just("connect"), st.lists(SAYS, max_size=3)),
    st.tuples(st.sampled_from(("close", "half-close", "deaf", "invited", "poll")), st.integers(0, 9)),
    st.tuples(st.just("say"), st.tuples(st.integers(0, 9), SAYS)),
)


@given(st.lists(DOES, max_size=25))
def test_whatever_strangers_do_the_loop_lives_and_good_wires_go_on(deeds: list) -> None:
    before = num_descriptors()
    hub = WireHub()
    good = connected(hub, "good")
    rogues: list[socket.socket] = []
    for deed, how in deeds:
        if deed == "connect":
            rogues.append(stranger(hub, *how))
        elif deed == "poll":
            assert all(name != "good" for name, _ in hub.poll(0.0))
        elif deed == "invited":  # a target that turns bad: it has its own wire, and no other
            rogues.append(stranger(hub, hub.invite("target").encode()))
        elif rogues:
            number, says = how if deed == "say" else (how, b"")
            act(rogues[number % len(rogues)], deed, says)
    hub.poll(0.0)
    hub.poll(0.0)
    assert "good" in hub and set(hub.names) <= {"good", "target"}
    assert_speaks(hub, "good", good)
    hub.close()
    hub._selector.close()
    for end in (*rogues, good, hub._waker._reader, hub._waker._writer):
        end.close()
    assert num_descriptors() == before


def act(end: socket.socket, deed: str, says: bytes) -> None:
    try:
        if deed == "close":
            end.close()
        elif deed == "say":
            end.send(says)
        else:
            end.shutdown(socket.SHUT_WR if deed == "half-close" else socket.SHUT_RD)
    except OSError:
        pass  # closed before, by either side

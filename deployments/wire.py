"""The short way between a target and a draft on the same node: a Unix socket that keeps message boundaries.

Why it exists: a round of the embedded pair takes some five milliseconds. An actor call and the item of a streaming call cost each
side about a millisecond of threads, interpreter lock and event loops, on the cores that the models need; a message here costs some
twenty microseconds in the thread that runs the loop. Across nodes growth travels as Ray objects (transport.py); what is said is the same.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import socket
import struct

MAX_MESSAGE_BYTES = 128 * 1024
"""Below Linux's default limit for one message of a socket; a longer one (the opening of a very long session) goes by actor call."""
_BUFFER_BYTES = 4 * MAX_MESSAGE_BYTES


class Wire:
    """One end of a connection. Sending never blocks; a full socket refuses."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        with contextlib.suppress(OSError):  # a larger buffer is welcome, not needed
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        self._end = end
        self._buffer = bytearray(MAX_MESSAGE_BYTES)

    @classmethod
    def connect(cls, path: str, name: str) -> Wire:
        """Introduces itself as `name`. Raises OSError where nobody listens."""
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            end.connect(path)
            end.send(name.encode())
        except OSError:
            end.close()
            raise
        return cls(end)

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, data: bytes) -> bool:
        """False: not sent, being too long, or the other side too slow or gone."""
        if len(data) > MAX_MESSAGE_BYTES:
            return False
        try:
            self._end.send(data)
        except OSError:
            return False
        return True

    def receive(self) -> list[bytes] | None:
        """All messages that have come; None once the other side is gone."""
        messages: list[bytes] = []
        while True:
            try:
                size = self._end.recv_into(self._buffer)
            except BlockingIOError:
                return messages
            except OSError:
                return None
            if size == 0:
                return messages or None
            messages.append(bytes(memoryview(self._buffer)[:size]))

    def close(self) -> None:
        self._end.close()


class Waker:
    """Ends a wait of another thread."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        return self._reader.fileno()

    def wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it will wake anyway
            self._writer.send(b"\0")

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._reader.recv(4096):
                pass


class WireHub:
    """The draft's side: everybody who connected, by name. All methods but `wake` and `close` belong to the loop's thread."""

    def __init__(self) -> None:
        self.path = f"\0ssd-wire-{secrets.token_hex(8)}"  # Linux's abstract names: nothing on disk that a killed process could leave
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(self.path)
        self._listener.listen()
        self._listener.setblocking(False)
        self._waker = Waker()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._waker, selectors.EVENT_READ)
        self._wires: dict[str, Wire] = {}
        self._names: dict[int, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._wires

    @property
    def names(self) -> list[str]:
        return list(self._wires)

    def poll(self, timeout_s: float = 0.0) -> list[tuple[str, bytes]]:
        """Messages with their senders' names; waits for some, or for `wake`."""
        taken: list[tuple[str, bytes]] = []
        for key, _ in self._selector.select(timeout_s):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is self._waker:
                self._waker.clear()
            else:
                taken.extend(self._take(key.fd))
        return taken

    def send(self, name: str, data: bytes) -> bool:
        return self._wires[name].send(data)

    def wake(self) -> None:
        self._waker.wake()

    def close(self) -> None:
        for wire in list(self._wires.values()):
            wire.close()
        self._listener.close()

    def _accept(self) -> None:
        end, _ = self._listener.accept()
        if _user_of(end) != os.getuid():  # an abstract name has no permissions of its own
            end.close()
            return
        end.settimeout(1.0)  # the name follows the connection at once
        try:
            name = end.recv(4096).decode(errors="replace")
        except OSError:
            end.close()
            return
        self._drop(name)
        wire = self._wires[name] = Wire(end)
        self._names[wire.fileno()] = name
        self._selector.register(wire, selectors.EVENT_READ)

    def _take(self, number: int) -> list[tuple[str, bytes]]:
        name = self._names[number]
        messages = self._wires[name].receive()
        if messages is None:
            self._drop(name)
            return []
        return [(name, message) for message in messages]

    def _drop(self, name: str) -> None:
        wire = self._wires.pop(name, None)
        if wire is not None:
            del self._names[wire.fileno()]
            self._selector.unregister(wire)
            wire.close()


def _user_of(end: socket.socket) -> int:
    """User id of the process at the other end."""
    _, user, _ = struct.unpack("3i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(user)

"""The short way between a target and a draft on the same node: a Unix socket that keeps message boundaries.

Why it exists: a round of the embedded pair takes some five milliseconds. An actor call and the item of a streaming call cost each
side about a millisecond of threads, interpreter lock and event loops, on the cores that the models need; a message here costs some
twenty microseconds in the thread that runs the loop. Across nodes growth travels as Ray objects (transport.py); what is said is the same.
"""

from __future__ import annotations

import contextlib
import socket

MAX_MESSAGE_BYTES = 128 * 1024
"""Below Linux's default limit for one message of a socket; a longer one (the opening of a very long session) goes by actor call."""
MAX_MESSAGES_AT_ONCE = 256
"""Most messages that one read takes: a sender that never pauses must not hold the reader's loop."""
_BUFFER_BYTES = 4 * MAX_MESSAGE_BYTES


class Wire:
    """One end of a connection. Neither sending nor connecting ever blocks; a full socket refuses."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        with contextlib.suppress(OSError):  # a larger buffer is welcome, not needed
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        self._end = end
        self._buffer = bytearray(MAX_MESSAGE_BYTES)

    @classmethod
    def connect(cls, path: str, token: str) -> Wire:
        """A wire to the hub at `path`, which knows by the token who connects. Raises OSError where
        nobody listens, or too many wait to be let in."""
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        end.setblocking(False)
        try:
            end.connect(path)
            end.send(token.encode())
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
        """Messages that have come, MAX_MESSAGES_AT_ONCE at most; None once the other side is gone."""
        messages: list[bytes] = []
        while len(messages) < MAX_MESSAGES_AT_ONCE:
            try:
                size = self._end.recv_into(self._buffer)
            except BlockingIOError:
                return messages
            except OSError:
                return messages or None
            if size == 0:
                return messages or None
            messages.append(bytes(memoryview(self._buffer)[:size]))
        return messages

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

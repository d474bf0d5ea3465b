"""The draft's side of all wires: a listening socket, and who has come through it.

A connection is a stranger until it has shown a token. The draft makes a token for one target, which
gets it as the answer to an actor call, and which is good for one connection: nobody can take the
place of a target that has not been told its token. Strangers are read like everybody else, without
waiting, and are few: the one that has kept silent longest leaves for a new one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import socket
import tempfile
from functools import partial
from pathlib import Path

from deployments.wire import Waker, Wire

Taken = list[tuple[str, bytes]]
"""Messages with their senders' names."""

MAX_STRANGERS = 64
"""Most connections that have not shown a token; a target shows its own as it connects."""
_GREETING_BYTES = 64
_FOLDER = "ssd-wire-"
_SOCKET = "wire"
_LONGEST_PATH = 107
"""Bytes of a Unix socket's address, on Linux."""


class WireHub:
    """Everybody who connected, by name. Any thread may call `invite` and `wake`, one the rest."""

    def __init__(self) -> None:
        self._invited: dict[str, str] = {}  # name -> token
        self._strangers: dict[socket.socket, None] = {}  # the oldest first
        self._wires: dict[str, Wire] = {}
        self._waker = Waker()
        self._listener, self.path = _listen()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._waker, selectors.EVENT_READ, self._awake)

    def __contains__(self, name: str) -> bool:
        return name in self._wires

    @property
    def names(self) -> list[str]:
        return list(self._wires)

    def invite(self, name: str) -> str:
        """The token with which `name` may connect once. It replaces one that was not used."""
        token = self._invited[name] = secrets.token_hex(16)
        return token

    def poll(self, timeout_s: float = 0.0) -> Taken:
        """Messages with their senders' names; waits for some, or for `wake`."""
        ready = self._selector.select(timeout_s)
        return [message for key, _ in ready for message in key.data()]

    def send(self, name: str, data: bytes) -> bool:
        return self._wires[name].send(data)

    def wake(self) -> None:
        self._waker.wake()

    def close(self) -> None:
        for wire in self._wires.values():
            wire.close()
        for end in (*self._strangers, self._listener):
            end.close()
        path = Path(self.path)
        with contextlib.suppress(OSError):  # somebody else tidied the folder for temporary files
            path.unlink()
            path.parent.rmdir()

    # ------------------------------------------------------------ one event each

    def _awake(self) -> Taken:
        self._waker.clear()
        return []

    def _accept(self) -> Taken:
        for _ in range(MAX_STRANGERS):  # the rest waits for the next poll
            try:
                end, _ = self._listener.accept()
            except BlockingIOError:
                break
            except OSError:  # no file descriptor is left: one of those that keep silent has to go
                self._dismiss_oldest()
                break
            end.setblocking(False)
            self._strangers[end] = None
            self._selector.register(end, selectors.EVENT_READ, partial(self._greet, end))
            self._greet(end)
            if len(self._strangers) > MAX_STRANGERS:
                self._dismiss_oldest()
        return []

    def _greet(self, end: socket.socket) -> Taken:
        """Let a stranger in that shows a token, dismiss one that shows anything else."""
        if end not in self._strangers:  # dismissed by an earlier event of the same poll
            return []
        try:
            greeting = end.recv(_GREETING_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            greeting = b""
        name = self._guest(greeting)
        if name is None:
            self._dismiss(end)
            return []
        self._selector.unregister(end)
        del self._strangers[end]
        self._invited.pop(name, None)
        self._drop(name)
        wire = self._wires[name] = Wire(end)
        self._selector.register(wire, selectors.EVENT_READ, partial(self._take, name, wire))
        return []

    def _take(self, name: str, wire: Wire) -> Taken:
        if self._wires.get(name) is not wire:  # dropped by an earlier event of the same poll
            return []
        messages = wire.receive()
        if messages is None:
            self._drop(name)
        return [(name, message) for message in messages or ()]

    # ------------------------------------------------------------ who may stay

    def _guest(self, greeting: bytes) -> str | None:
        invited = list(self._invited.items())
        fits = (name for name, token in invited if secrets.compare_digest(token.encode(), greeting))
        return next(fits, None)

    def _dismiss_oldest(self) -> None:
        if self._strangers:
            self._dismiss(next(iter(self._strangers)))

    def _dismiss(self, end: socket.socket) -> None:
        del self._strangers[end]
        self._selector.unregister(end)
        end.close()

    def _drop(self, name: str) -> None:
        wire = self._wires.pop(name, None)
        if wire is not None:
            self._selector.unregister(wire)
            wire.close()


def _listen() -> tuple[socket.socket, str]:
    """A listening socket and its path, in a new folder that only this user may enter (mode 700)."""
    parent = Path(tempfile.gettempdir())
    if len(os.fsencode(parent)) + len(f"/{_FOLDER}12345678/{_SOCKET}") > _LONGEST_PATH:
        parent = Path("/tmp")
    _tidy(parent)
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER, dir=parent))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.setblocking(False)
    listener.bind(str(folder / "new"))
    listener.listen()
    # `_tidy` goes by it that whoever sees a socket of this name can connect to it.
    path = (folder / "new").rename(folder / _SOCKET)
    return listener, str(path)


def _tidy(parent: Path) -> None:
    """Remove the sockets of this user's hubs that were killed: their processes could not."""
    for path in parent.glob(f"{_FOLDER}*/{_SOCKET}"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            if path.parent.stat().st_uid != os.getuid():
                continue
            probe.setblocking(False)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
                path.parent.rmdir()

"""Processes that carry a mark in their environment, and all below them: found and ended by id, whoever their parent is now."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from pathlib import Path


class Marked:
    """Holds a file descriptor for each process, so that an id used anew is never taken for the old process."""

    def __init__(self, name: str, value: str) -> None:
        self._mark = f"{name}={value}".encode()
        self._open: dict[int, int] = {}

    def find(self) -> None:
        """Add those that run now. A worker of Ray overwrites its environment, but its parent does not."""
        parents = {int(path.name): _parent(path) for path in Path("/proc").glob("[0-9]*")}
        marked = {pid for pid in parents if self._mark in _environment(pid)}
        while below := {pid for pid, parent in parents.items() if parent in marked} - marked:
            marked |= below
        for pid in marked - self._open.keys() - {os.getpid()}:
            with contextlib.suppress(ProcessLookupError):
                self._open[pid] = os.pidfd_open(pid)

    def end(self, grace_s: float) -> None:
        """Return once all have ended; those that have not by themselves after `grace_s` are killed."""
        self.find()
        self._wait(grace_s)
        for handle in self._open.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        self._wait(grace_s)
        for handle in self._open.values():
            os.close(handle)
        self._open.clear()

    def _wait(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        for pid, handle in list(self._open.items()):
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            if poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                os.close(self._open.pop(pid))


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # ended, or another user's
        return []


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except OSError:  # ended
        return 0

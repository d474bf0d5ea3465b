"""The peer's models in a process of their own: it computes while it is asked, and sleeps while the presets are measured."""

from __future__ import annotations

import signal
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import TypeVar

from cluster.bench.peer import Fork, PeerAnswer, PeerRequest
from ssd_core.config import EngineConfig
from ssd_core.errors import SSDError

T = TypeVar("T")

STOP_TIMEOUT_S = 10.0
"""Longer than any answer that may still be under way takes to be given up for."""


class PeerError(SSDError):
    """The peer's process ended before it answered."""


class Loaded:
    """The process's first message: the models are there."""


class PeerProcess:
    """Starts on `__enter__`, which returns when the models are loaded; ends on `__exit__`. Used by one thread at a time."""

    def __init__(self, target: EngineConfig, draft: EngineConfig) -> None:
        context = get_context("spawn")  # a fork would inherit Ray's threads and locks
        self._connection, self._theirs = context.Pipe()
        self._process = context.Process(target=_answer, args=(self._theirs, target, draft), name="peer", daemon=True)

    def __enter__(self) -> PeerProcess:
        self._process.start()
        self._theirs.close()  # so that the process's end closes the pipe
        try:
            self._receive(Loaded)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """None before the start."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def generate(self, request: PeerRequest) -> PeerAnswer:
        self._send(request)
        return self._receive(PeerAnswer)

    def gap_roundings(self, fork: Fork) -> float:
        self._send(fork)
        return self._receive(float)

    def stop(self) -> None:
        """The process ends when its pipe does. May be called twice."""
        self._connection.close()
        self._process.join(STOP_TIMEOUT_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _send(self, question: PeerRequest | Fork) -> None:
        try:
            self._connection.send(question)
        except OSError as error:
            raise self._ended() from error

    def _receive(self, kind: type[T]) -> T:
        try:
            message = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if isinstance(message, SSDError):
            raise message
        assert isinstance(message, kind), (message, kind)
        return message

    def _ended(self) -> PeerError:
        self._process.join(STOP_TIMEOUT_S)
        return PeerError(f"the peer's process ended, exit code {self._process.exitcode}")


def _answer(connection: Connection, target: EngineConfig, draft: EngineConfig) -> None:
    """The process: load, then one answer to each question until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which closes the pipe
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    from cluster.bench.peer_models import PeerModels

    try:
        models = PeerModels(target, draft)
    except SSDError as error:
        connection.send(error)
        return
    connection.send(Loaded())
    with suppress(EOFError, ConnectionError):  # the parent has closed the pipe
        while True:
            question: PeerRequest | Fork = connection.recv()
            connection.send(models.generate(question) if isinstance(question, PeerRequest) else models.gap_roundings(question))

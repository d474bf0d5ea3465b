"""A thread that runs a loop's steps. If a step raises, the loop is dead and says why; nothing is caught and forgotten."""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
from collections.abc import Callable

import torch

logger = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 0.0002
"""The engine thread gets the interpreter lock back this soon from the event loop; Python's 5 ms would be a whole round."""
IDLE_WAIT_S = 0.5
"""Only bounds how long a stop takes."""


class LoopThread:
    """`step` does a piece of work and says whether (truthy) there was any; else `wait` is called with a timeout."""

    def __init__(
        self,
        name: str,
        step: Callable[[], object],
        wait: Callable[[float], None],
        *,
        num_threads: int = 1,
        niceness: int = 0,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        """`niceness`: how far this thread stands back, where cores are short, behind others of its process's priority.
        `on_failure` is called in this thread when it has died; why is in `failure` and the log, for operators only."""
        self._step = step
        self._wait = wait
        self._num_threads = num_threads
        self._niceness = niceness
        self._on_failure = on_failure
        self._is_stopping = False
        self.failure = ""
        """Why the loop died; empty while it lives. It may quote what a client sent."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        gc.collect()
        gc.freeze()  # what is loaded stays: the collector need not walk torch, Ray and the model in the middle of a round
        # The collector waits with old garbage (trees of ended sessions: parents and children know each other) until there is a quarter
        # of what it last saw alive. Let it see that as nothing now, or that quarter is of all that was frozen: a hundred thousand objects.
        gc.collect()
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        self._is_stopping = True
        self._thread.join(timeout_s)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and not self.failure

    def _run(self) -> None:
        torch.set_num_threads(self._num_threads)  # OpenMP keeps this number per thread
        os.nice(self._niceness)  # on Linux it is the thread's own, too
        try:
            while not self._is_stopping:
                if not self._step():
                    self._wait(IDLE_WAIT_S)
        except Exception as error:  # the plan: tell everybody who waits, and fail the health check
            self.failure = f"{type(error).__name__}: {error}"
            logger.exception("the loop of %s died", self._thread.name)
            self._on_failure()

"""deployments/loop_thread.py"""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import pytest

from deployments.loop_thread import LoopThread


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    loaded: list[list[None]] = [[] for _ in range(600_000)]  # about as many objects as torch and Ray
    thread = LoopThread("test", lambda: False, lambda timeout_s: None)
    thread.start()
    yield thread
    loaded.clear()
    thread.stop()


class Cycle:
    """Freed by the collector only, as a speculation tree is."""

    def __init__(self) -> None:
        self.own = self


def test_old_garbage_is_collected_long_before_it_is_as_much_as_what_was_loaded(thread: LoopThread) -> None:
    cycles = [Cycle() for _ in range(5_000)]
    first = weakref.ref(cycles[0])
    later: list[list[None]] = [[] for _ in range(20_000)]  # ages `cycles` into the oldest generation
    cycles.clear()
    for _ in range(110_000):
        if first() is None:
            break
        later.append([])
    assert first() is None, f"{len(later)} objects later it is still there"

"""Work that a loop puts off until its device is busy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial


class Chores:
    """Done in the order they were added. Of one thread."""

    def __init__(self) -> None:
        self._waiting: list[Callable[[], object]] = []

    def add(self, do: Callable[..., object], *arguments: object) -> None:
        self._waiting.append(partial(do, *arguments))

    def do(self) -> None:
        waiting, self._waiting = self._waiting, []
        for do in waiting:
            do()

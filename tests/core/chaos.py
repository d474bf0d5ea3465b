"""A link that loses, repeats, delays and reorders messages, for tests of exactness."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ssd_core.draft_loop import DraftLoop, DraftMessage, SessionClose
from ssd_core.types import GrowthReport, Outcome, SessionOpen


class ChaosLink:
    """Each message is lost with probability `loss`, doubled with `loss`, and otherwise late by a random number of polls."""

    def __init__(self, draft: DraftLoop, seed: int, loss: float = 0.2) -> None:
        self._draft = draft
        self._random = random.Random(seed)
        self._loss = loss
        self._to_draft: list[DraftMessage] = []
        self._to_target: list[GrowthReport] = []
        self.num_lost = 0

    def open(self, opening: SessionOpen) -> None:
        self._to_draft.append(opening)

    def send_outcomes(self, outcomes: Sequence[Outcome]) -> None:
        self._to_draft.extend(outcomes)

    def poll_growth(self) -> list[GrowthReport]:
        for message in self._shuffled(self._to_draft):
            self._draft.receive(message)
        for _ in range(self._random.randrange(4)):
            report = self._draft.step()
            if report is not None:
                self._to_target.append(report)
        return self._shuffled(self._to_target)

    def needs_open(self) -> list[str]:
        return []

    def has_draft(self, session_id: str) -> bool:
        return True

    def wait(self, timeout_s: float) -> None: ...

    def wake(self) -> None: ...

    def close(self, session_id: str) -> None:
        """Reliable here, so that tests can count what is given back."""
        self._to_draft = [message for message in self._to_draft if message.session_id != session_id]
        self._draft.receive(SessionClose(session_id))

    def _shuffled(self, queue: list) -> list:
        """Take some of a queue, in any order, some of them lost and some twice."""
        taken: list = []
        left: list = []
        for message in queue:
            fate = self._random.random()
            if fate < self._loss:
                self.num_lost += 1
            elif fate < 2 * self._loss:
                taken.extend((message, message))
            elif fate < 3 * self._loss:
                left.append(message)
            else:
                taken.append(message)
        queue[:] = left
        self._random.shuffle(taken)
        return taken

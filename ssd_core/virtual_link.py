"""The seam in virtual time: drafts work on timelines of their own while the target's clock moves.

    target   |--- pass ---|own|--- pass ---|own|
              \\ latency   ^        \\
    draft      |step|step|step|step| |step|...        a report is seen `latency_s` after its step has ended

A draft is run only as far as the target's clock has come, and a step knows only messages that had arrived when it began: so neither side
ever sees the other's future, though both run in one thread.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from operator import attrgetter

from ssd_core.draft_loop import DraftLoop, DraftMessage, SessionClose
from ssd_core.types import GrowthReport, Outcome, SessionOpen
from ssd_core.virtual_time import VirtualClock


class TimedDraft:
    """One draft actor. Its clock, which its engine moves, says until when it is busy."""

    def __init__(self, loop: DraftLoop, clock: VirtualClock, latency_s: float) -> None:
        """`latency_s`: of a message, either way."""
        self._loop = loop
        self._clock = clock
        self._latency_s = latency_s
        self._messages: deque[tuple[float, DraftMessage]] = deque()
        """On their way here, each with its time of arrival, ascending."""
        self._reports: deque[tuple[float, GrowthReport]] = deque()
        """Not taken yet, likewise."""
        self._is_idle = True
        """Nothing is left to do until a message arrives."""
        self.busy_s = 0.0

    @property
    def next_start_s(self) -> float:
        """When its next step begins; infinity if it stays idle."""
        if not self._is_idle:
            return self._clock()
        return max(self._clock(), self._messages[0][0]) if self._messages else math.inf

    @property
    def next_arrival_s(self) -> float:
        """When the next report arrives at the target, of the steps it has run; else infinity."""
        return self._reports[0][0] if self._reports else math.inf

    def send(self, message: DraftMessage, now_s: float) -> None:
        self._messages.append((now_s + self._latency_s, message))

    def step(self) -> None:
        """The step that begins at `next_start_s`, to its end."""
        self._clock.move_to(self.next_start_s)
        while self._messages and self._messages[0][0] <= self._clock():
            self._loop.receive(self._messages.popleft()[1])
        report = self._loop.step()
        self._is_idle = report is None
        if report is not None:
            self.busy_s += report.busy_s
            self._reports.append((self._clock() + self._latency_s, report))

    def run_until(self, now_s: float) -> None:
        """All steps that begin before `now_s`."""
        while self.next_start_s < now_s:
            self.step()

    def take_reports(self, now_s: float) -> list[GrowthReport]:
        """Those that have arrived."""
        taken: list[GrowthReport] = []
        while self.next_arrival_s <= now_s:
            taken.append(self._reports.popleft()[1])
        return taken


class VirtualLink:
    """To one or more drafts; a session goes to the one with the fewest when it is opened, and stays there."""

    def __init__(self, clock: VirtualClock, drafts: Sequence[TimedDraft]) -> None:
        """`clock`: the target's."""
        assert drafts, "a link needs a draft; without one there is NoDraft"
        self._clock = clock
        self._drafts = tuple(drafts)
        self._homes: dict[str, TimedDraft] = {}

    def open(self, opening: SessionOpen) -> None:
        if opening.session_id not in self._homes:
            homes = list(self._homes.values())
            self._homes[opening.session_id] = min(self._drafts, key=homes.count)
        self._send(opening)

    def send_outcomes(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._send(outcome)

    def poll_growth(self) -> list[GrowthReport]:
        now_s = self._clock()
        for draft in self._drafts:
            draft.run_until(now_s)
        return [report for draft in self._drafts for report in draft.take_reports(now_s)]

    def needs_open(self) -> list[str]:
        return []

    def has_draft(self, session_id: str) -> bool:
        return True

    def wait(self, timeout_s: float) -> None:
        """Move the clock to the next arrival, or by the timeout. Steps are run in the order in which they begin, and none that begins later
        than that: the target may have something to say by then."""
        deadline_s = self._clock() + timeout_s
        while True:
            until_s = min(deadline_s, *(draft.next_arrival_s for draft in self._drafts))
            first = min(self._drafts, key=attrgetter("next_start_s"))
            if first.next_start_s >= until_s:
                break
            first.step()
        self._clock.move_to(until_s)

    def wake(self) -> None: ...

    def close(self, session_id: str) -> None:
        self._send(SessionClose(session_id))
        del self._homes[session_id]

    def drain(self) -> None:
        """Let the drafts hear all that was sent, and come to rest."""
        for draft in self._drafts:
            draft.run_until(math.inf)

    def _send(self, message: DraftMessage) -> None:
        self._homes[message.session_id].send(message, self._clock())

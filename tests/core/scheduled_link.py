"""A link that does to every message what a schedule says: deliver it now or later, twice, out of order, garbled, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count, cycle

from ssd_core.draft_loop import DraftLoop, DraftMessage, SessionClose
from ssd_core.types import GrowthReport, Outcome, SessionOpen


@dataclass(frozen=True)
class Fate:
    """What becomes of one message."""

    delays: tuple[int, ...] = (0,)
    """A copy arrives after each of these numbers of polls; none, and it is lost."""
    overtakes: bool = False
    """It comes before all else that arrives with it."""
    is_garbled: bool = False
    """Growth names other tokens than the draft meant, and some that there are not."""


@dataclass(frozen=True)
class Schedule:
    """Fates and steps are used in turn, and again from the start when they are used up."""

    fates: tuple[Fate, ...] = (Fate(),)
    steps: tuple[int, ...] = (3,)
    """Growth steps the draft takes at each poll."""
    losses: tuple[int, ...] = ()
    """Polls at which the draft is lost, with all it holds and all that is on its way to it."""
    away: int = 3
    """Polls until another has taken its place."""


@dataclass(frozen=True)
class Copy:
    message: DraftMessage | GrowthReport
    due: int
    order: tuple[bool, int]


class Mail:
    """Messages of one direction."""

    def __init__(self) -> None:
        self.copies: list[Copy] = []
        self._numbers = count()

    def send(self, message: DraftMessage | GrowthReport, fate: Fate, now: int) -> None:
        for delay in fate.delays:
            number = next(self._numbers)
            self.copies.append(Copy(message, now + delay, (not fate.overtakes, -number if fate.overtakes else number)))

    def arrived(self, now: int) -> list:
        due = sorted((copy for copy in self.copies if copy.due <= now), key=lambda copy: copy.order)
        self.copies = [copy for copy in self.copies if copy.due > now]
        return [copy.message for copy in due]


class ScheduledLink:
    def __init__(self, draft: DraftLoop, schedule: Schedule) -> None:
        self.draft = draft
        self._schedule = schedule
        self._fates = cycle(schedule.fates)
        self._steps = cycle(schedule.steps)
        self._to_draft, self._to_target = Mail(), Mail()
        self._sessions: set[str] = set()
        self._unopened: set[str] = set()
        """Sessions whose draft was lost, and that have not been opened with the next."""
        self._num_polls = 0
        self._back_at = 0

    @property
    def _is_away(self) -> bool:
        return self._num_polls < self._back_at

    def open(self, opening: SessionOpen) -> None:
        self._sessions.add(opening.session_id)
        self._unopened.discard(opening.session_id)
        self._send(opening)

    def send_outcomes(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._send(outcome)

    def poll_growth(self) -> list[GrowthReport]:
        self._num_polls += 1
        if self._num_polls in self._schedule.losses:
            self._lose_draft()
        if not self._is_away:
            for message in self._to_draft.arrived(self._num_polls):
                self.draft.receive(message)
            for _ in range(next(self._steps)):
                report = self.draft.step()
                if report is not None:
                    fate = next(self._fates)
                    self._to_target.send(_garbled(report) if fate.is_garbled else report, fate, self._num_polls)
        return self._to_target.arrived(self._num_polls)

    def needs_open(self) -> list[str]:
        return [] if self._is_away else sorted(self._unopened)

    def has_draft(self, session_id: str) -> bool:
        return not self._is_away

    def wait(self, timeout_s: float) -> None: ...

    def wake(self) -> None: ...

    def close(self, session_id: str) -> None:
        """Reliable, and nothing comes after it, so that tests can count what is given back."""
        self._sessions.discard(session_id)
        self._unopened.discard(session_id)
        self._to_draft.copies = [copy for copy in self._to_draft.copies if copy.message.session_id != session_id]
        self.draft.receive(SessionClose(session_id))

    def _send(self, message: DraftMessage) -> None:
        if self._is_away:
            self._unopened.add(message.session_id)
        else:
            self._to_draft.send(message, next(self._fates), self._num_polls + 1)

    def _lose_draft(self) -> None:
        """The next draft knows nothing: the old one stands in for it once it has forgotten everything."""
        self._to_draft.copies.clear()
        for session_id in self._sessions:
            self.draft.receive(SessionClose(session_id))
        self.draft.step()
        self._unopened = set(self._sessions)
        self._back_at = self._num_polls + self._schedule.away


def _garbled(report: GrowthReport) -> GrowthReport:
    growths = (replace(growth, tokens=tuple(token + 1 for token in growth.tokens)) for growth in report.growths)
    return replace(report, growths=tuple(growths))

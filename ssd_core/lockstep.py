"""A link within one process: the draft takes a fixed number of growth steps per verification, without threads. Runs repeat exactly."""

from __future__ import annotations

from collections.abc import Sequence

from ssd_core.draft_loop import DraftLoop, SessionClose
from ssd_core.types import GrowthReport, Outcome, SessionOpen


class LockstepLink:
    """`steps_per_window`: growth steps that fit beside one target pass. Waiting costs the target one step at a time."""

    def __init__(self, draft: DraftLoop, steps_per_window: int = 5) -> None:
        self._draft = draft
        self._steps_per_window = steps_per_window
        self._steps_due = 0
        self._reports: list[GrowthReport] = []

    def open(self, opening: SessionOpen) -> None:
        self._draft.receive(opening)

    def send_outcomes(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._draft.receive(outcome)
        self._steps_due = self._steps_per_window

    def poll_growth(self) -> list[GrowthReport]:
        for _ in range(self._steps_due):
            self._grow()
        self._steps_due = 0
        reports, self._reports = self._reports, []
        return reports

    def needs_open(self) -> list[str]:
        return []

    def has_draft(self, session_id: str) -> bool:
        return True

    def wait(self, timeout_s: float) -> None:
        self._grow()

    def wake(self) -> None: ...

    def close(self, session_id: str) -> None:
        self._draft.receive(SessionClose(session_id))

    def _grow(self) -> None:
        report = self._draft.step()
        if report is not None:
            self._reports.append(report)

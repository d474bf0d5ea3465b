"""The seam between target and draft: outcomes go out, growth comes in. Nothing here ever blocks a round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ssd_core.types import GrowthReport, Outcome, SessionOpen


class DraftLink(Protocol):
    """The target's side. Called from the thread of the target loop only, but for `wake`. Implementations may lose, repeat, delay or
    reorder messages: that costs hits, never output. A dead draft is the implementation's business, too: it leases another one and
    answers `needs_open` until the session is opened there."""

    def open(self, opening: SessionOpen) -> None:
        """Have a draft take up this session. Also after `unknown_sessions`, or when a lease moved to another draft."""

    def send_outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """Tell the drafts what was committed and what is verified now."""

    def poll_growth(self) -> list[GrowthReport]:
        """All that arrived since the last poll."""

    def needs_open(self) -> list[str]:
        """Sessions whose draft was lost or replaced since the last call: `open` them again."""

    def has_draft(self, session_id: str) -> bool:
        """False: no draft can answer now, so nobody should wait for one."""

    def wait(self, timeout_s: float) -> None:
        """Return when growth has arrived, on `wake`, or after the timeout."""

    def wake(self) -> None:
        """End a `wait`, from any thread: new requests have come."""

    def close(self, session_id: str) -> None:
        """The session has ended; everything the draft holds for it is given back."""


class NoDraft:
    """A link to nothing: what a service without drafts uses."""

    def open(self, opening: SessionOpen) -> None: ...

    def send_outcomes(self, outcomes: Sequence[Outcome]) -> None: ...

    def poll_growth(self) -> list[GrowthReport]:
        return []

    def needs_open(self) -> list[str]:
        return []

    def has_draft(self, session_id: str) -> bool:
        return False

    def wait(self, timeout_s: float) -> None: ...

    def wake(self) -> None: ...

    def close(self, session_id: str) -> None: ...

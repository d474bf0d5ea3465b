"""When a draft that was lost, or did not answer, may be tried again. Decides only: no clock."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0


@dataclass(frozen=True, slots=True)
class _Pause:
    ends_at: float
    length_s: float


class Backoff:
    """A pause after each failure, twice as long as the last where that was not long ago."""

    def __init__(self) -> None:
        self._pauses: dict[str, _Pause] = {}

    def failed(self, draft: str, now: float) -> None:
        # A draft that held out for longer than the longest pause starts anew.
        self._pauses = {name: pause for name, pause in self._pauses.items() if now - pause.ends_at <= LONGEST_PAUSE_S}
        last = self._pauses.get(draft)
        length_s = min(2 * last.length_s, LONGEST_PAUSE_S) if last else FIRST_PAUSE_S
        self._pauses[draft] = _Pause(now + length_s, length_s)

    def may_try(self, draft: str, now: float) -> bool:
        pause = self._pauses.get(draft)
        return pause is None or now >= pause.ends_at

"""Which draft actor serves which session. Decides only: no Ray, no clock; the pool acts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """What has to be done to come to the wanted size."""

    start: int = 0
    """Draft actors to start."""
    stop: tuple[str, ...] = ()
    """Drained draft actors that hold no session any more."""


@dataclass(slots=True)
class _Draft:
    sessions: dict[str, str] = field(default_factory=dict)
    """Session id -> target id."""
    is_draining: bool = False


class Leases:
    """Drafts, their sessions, and the wanted number of drafts.

    Invariant: a session is leased to one draft at most, and never newly to one that drains.
    """

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self._drafts: dict[str, _Draft] = {}
        self._home: dict[str, str] = {}  # session id -> draft name

    def __repr__(self) -> str:
        loads = ", ".join(
            f"{name}: {len(draft.sessions)}{' draining' if draft.is_draining else ''}" for name, draft in self._drafts.items()
        )
        return f"<Leases {loads or 'no drafts'}, {self.wanted} wanted>"

    @property
    def drafts(self) -> tuple[str, ...]:
        return tuple(self._drafts)

    @property
    def num_sessions(self) -> int:
        return len(self._home)

    def load(self, draft: str) -> int:
        return len(self._drafts[draft].sessions)

    def add(self, draft: str) -> None:
        assert draft not in self._drafts, draft
        self._drafts[draft] = _Draft()

    def remove(self, draft: str) -> tuple[str, ...]:
        """The draft is gone. Returns the sessions that lost it."""
        lost = tuple(self._drafts.pop(draft, _Draft()).sessions)
        for session_id in lost:
            del self._home[session_id]
        return lost

    def lease(self, target_id: str, session_id: str) -> str | None:
        """The least loaded draft, among equals one that serves this target already (one stream fewer); None: there is none.
        A session that holds a lease keeps it, unless its draft drains."""
        current = self._home.get(session_id)
        if current is not None and not self._drafts[current].is_draining:
            return current
        open_drafts = [name for name, draft in self._drafts.items() if not draft.is_draining]
        if not open_drafts:
            return current
        self.release(session_id)
        best = min(open_drafts, key=lambda name: (self.load(name), target_id not in self._drafts[name].sessions.values()))
        self._drafts[best].sessions[session_id] = target_id
        self._home[session_id] = best
        return best

    def release(self, session_id: str) -> None:
        """Unknown sessions are ignored: every path may call it."""
        draft = self._home.pop(session_id, None)
        if draft is not None:
            del self._drafts[draft].sessions[session_id]

    def release_target(self, target_id: str) -> tuple[str, ...]:
        """The target is gone. Returns its sessions."""
        gone = tuple(s for draft in self._drafts.values() for s, owner in draft.sessions.items() if owner == target_id)
        for session_id in gone:
            self.release(session_id)
        return gone

    def keep_only(self, target_id: str, session_ids: Iterable[str]) -> None:
        """The target says these are all it has: whatever else is leased to it is a leak."""
        kept = set(session_ids)
        for session_id in [s for draft in self._drafts.values() for s, owner in draft.sessions.items() if owner == target_id]:
            if session_id not in kept:
                self.release(session_id)

    def plan(self, num_starting: int = 0) -> PoolPlan:
        """Marks drafts to drain (the least loaded first), or takes back a drain, and says what to start and stop.
        `num_starting` drafts are on their way and not added yet."""
        serving = [name for name, draft in self._drafts.items() if not draft.is_draining]
        draining = [name for name, draft in self._drafts.items() if draft.is_draining]
        while len(serving) < self.wanted and draining:
            name = draining.pop()
            self._drafts[name].is_draining = False
            serving.append(name)
        for name in sorted(serving, key=self.load)[: max(0, len(serving) - self.wanted)]:
            self._drafts[name].is_draining = True
            draining.append(name)
        return PoolPlan(
            max(0, self.wanted - len(serving) - num_starting), tuple(name for name in draining if not self._drafts[name].sessions)
        )

    def check_integrity(self) -> None:
        held = {session_id: name for name, draft in self._drafts.items() for session_id in draft.sessions}
        assert held == self._home, (held, self._home)

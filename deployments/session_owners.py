"""Which target holds which session at one draft. Decides only: no clock, no loop.

A target says about once a second which sessions it holds (`SessionsHeld`), and what it does not
name ends. So a close that is lost, repeated or overtaken by its opening costs room until the next
beat, and a target that is not heard of for `TARGET_LOST_AFTER_S` holds nothing any more. A session
that is dropped by mistake is unknown when its next outcome comes, and is opened again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

from deployments.codec import Order, SessionsHeld
from ssd_core.draft_loop import DraftMessage, SessionClose

logger = logging.getLogger(__name__)

TARGET_LOST_AFTER_S = 10.0
"""A target that has not been heard of for so long is gone. It beats each second."""


class SessionOwners:
    """Invariant: a session belongs to one target, the first that named it, until it ends."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}  # session id -> target id
        self._heard_at: dict[str, float] = {}  # target id -> when

    def owner(self, session_id: str) -> str | None:
        return self._owners.get(session_id)

    def admit(self, target_id: str, orders: Iterable[Order], now: float) -> list[DraftMessage]:
        """What the draft's loop has to hear. An order for another target's session is refused."""
        self._heard_at[target_id] = now
        admitted: list[DraftMessage] = []
        for order in orders:
            if isinstance(order, SessionsHeld):
                admitted += self._keep_only(target_id, order.session_ids)
            elif self._owners.setdefault(order.session_id, target_id) != target_id:
                logger.warning("refused an order of %s for another's session", target_id)
            else:
                if isinstance(order, SessionClose):
                    del self._owners[order.session_id]
                admitted.append(order)
        return admitted

    def lost(self, now: float) -> list[str]:
        """Targets that have not been heard of for too long: `forget` them."""
        return [target_id for target_id, at in self._heard_at.items() if now - at > TARGET_LOST_AFTER_S]

    def forget(self, target_id: str) -> list[DraftMessage]:
        """The closes of all that the target held."""
        self._heard_at.pop(target_id, None)
        return self._keep_only(target_id, ())

    def _keep_only(self, target_id: str, session_ids: Collection[str]) -> list[DraftMessage]:
        kept = set(session_ids)
        gone = [s for s, owner in self._owners.items() if owner == target_id and s not in kept]
        for session_id in gone:
            del self._owners[session_id]
        return [SessionClose(session_id) for session_id in gone]

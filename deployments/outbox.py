"""From the engine's thread to the event loop: what several rounds emit wakes the loop once, and is taken together.

Waking the loop costs the engine's thread the interpreter lock, and every message some CPU of each process it passes. So emissions gather
for an interval that no reader notices; a session's first and last do not wait.
"""

from __future__ import annotations

import asyncio
from collections import deque

from deployments.messages import merged
from ssd_core.types import Emission


class Mailbox:
    """Emissions of one session. `take` gives all that came since the last one as one emission."""

    def __init__(self) -> None:
        self._emissions: list[Emission] = []
        self._arrived = asyncio.Event()
        self.is_begun = False
        """Something has been put for it. Written by the thread that puts."""

    def deliver(self, emission: Emission) -> None:
        self._emissions.append(emission)
        self._arrived.set()

    async def take(self) -> Emission:
        await self._arrived.wait()
        self._arrived.clear()
        emissions, self._emissions = self._emissions, []
        return merged(emissions)


class Outbox:
    """`put` from one foreign thread, delivery in the event loop."""

    def __init__(self, event_loop: asyncio.AbstractEventLoop, interval_s: float) -> None:
        self._event_loop = event_loop
        self._interval_s = interval_s
        self._pending: deque[tuple[Mailbox, Emission]] = deque()
        self._is_scheduled = False
        self._delivered_at = 0.0

    def put(self, mailbox: Mailbox, emission: Emission) -> None:
        self._pending.append((mailbox, emission))
        if emission.finish_reason is not None or not mailbox.is_begun:
            mailbox.is_begun = True
            self._event_loop.call_soon_threadsafe(self._deliver)
        elif not self._is_scheduled:
            self._is_scheduled = True
            self._event_loop.call_soon_threadsafe(self._deliver_in_time)

    def _deliver_in_time(self) -> None:
        self._event_loop.call_at(self._delivered_at + self._interval_s, self._deliver)  # at once, if that is past

    def _deliver(self) -> None:
        self._is_scheduled = False  # before the mail is taken: what is put from here on schedules anew
        self._delivered_at = self._event_loop.time()
        while self._pending:
            mailbox, emission = self._pending.popleft()
            mailbox.deliver(emission)


class Collector:
    """A sink for a session whose result is wanted whole: one wake-up, at its end."""

    def __init__(self, outbox: Outbox, mailbox: Mailbox) -> None:
        self._outbox = outbox
        self._mailbox = mailbox
        self._emissions: list[Emission] = []

    def __call__(self, emission: Emission) -> None:
        self._emissions.append(emission)
        if emission.finish_reason is not None:
            self._outbox.put(self._mailbox, merged(self._emissions))

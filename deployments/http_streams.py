"""How a stream leaves: server-sent events, and an end that its client can tell from a broken connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployments.http_errors import ErrorInfo, of_exception
from deployments.openai_responses import event

logger = logging.getLogger(__name__)

HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}
STOPPED = ErrorInfo(503, "the service stopped this request; try again", code="cancelled")


class EventStream(Response):
    """Server-sent events. The status waits for the first event: a refusal is a status, not an event.

    However a stream ends early (an error of its source, a time limit, a server that stops), its last event is the
    error, no [DONE] follows, and the body is ended as HTTP ends bodies. A client that leaves ends the source at once.
    """

    def __init__(self, source: AsyncGenerator[bytes, None]) -> None:
        self._source = source
        self._is_open = False
        """The body is begun and not ended."""
        self.status_code = 200
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(disconnected(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            has_left = leaving.done()
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
            if self._is_open and not has_left:  # the server stops, or the time limit of Serve's own
                await send({"type": "http.response.body", "body": event(STOPPED.body()), "more_body": False})

    async def _send(self, send: Send) -> None:
        async with aclosing(_with_error_events(self._source)) as events:
            first = await anext(events)
            with suppress(OSError):  # of `send`: the connection is gone
                headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                self._is_open = True
                await send({"type": "http.response.body", "body": first, "more_body": True})
                async for data in events:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            self._is_open = False


async def _with_error_events(source: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The source's events. An error after the first is one more event, and the last; before it, it is raised."""
    is_started = False
    async with aclosing(source):
        try:
            async for data in source:
                is_started = True
                yield data
        except Exception as error:
            if not is_started:
                raise
            info = of_exception(error)
            if info.status == 500:
                logger.exception("a stream failed")
            yield event(info.body())


async def disconnected(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass

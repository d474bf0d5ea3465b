"""One request at a time, streamed, and what its client saw."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx

from cluster.client import END_OF_EVENTS, bearer, event_data
from cluster.loadtest.arrivals import Arrival


@dataclass(frozen=True, slots=True)
class Target:
    url: str
    model: str
    api_key: str | None = None
    preset: str | None = None
    """None: the service's default."""
    temperature: float = 0.0
    timeout_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """At the client. Seconds; times of day from the test's start."""

    sent_at_s: float
    late_s: float
    """Sent so long after it was due: the client's own fault."""
    wall_s: float
    """From sending to the end of the answer, or to the error."""
    first_token_s: float | None
    """From sending to the first token; None: there was none."""
    num_tokens: int
    status: int
    """Of HTTP; 0: the connection failed or broke off."""
    error: str = ""

    @property
    def is_ok(self) -> bool:
        return self.status == 200 and not self.error

    @property
    def token_s(self) -> float | None:
        """Mean time of a token after the first."""
        if self.first_token_s is None or self.num_tokens < 2:
            return None
        return (self.wall_s - self.first_token_s) / (self.num_tokens - 1)


def new_client(target: Target) -> httpx.AsyncClient:
    headers = bearer(target.api_key)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(base_url=target.url, headers=headers, limits=limits, timeout=httpx.Timeout(target.timeout_s, connect=10.0))


async def send(client: httpx.AsyncClient, target: Target, arrival: Arrival, start: float, due_s: float) -> Outcome:
    """`start`: of the test, by time.monotonic(). `due_s`: after it."""
    began = time.monotonic()
    first_token_s: float | None = None
    num_tokens = status = 0
    error = ""
    try:
        async with client.stream("POST", "/v1/completions", json=_body(target, arrival)) as response:
            status = response.status_code
            async for count in _token_counts(response):
                if count and first_token_s is None:
                    first_token_s = time.monotonic() - began
                num_tokens += count
    except _Failure as failure:
        error = str(failure)
    except (httpx.HTTPError, ValueError) as failure:
        status, error = (status if status != 200 else 0), str(failure) or type(failure).__name__
    return Outcome(began - start, began - start - due_s, time.monotonic() - began, first_token_s, num_tokens, status, error)


class _Failure(Exception):
    """The service answered, but with no whole completion."""


async def _token_counts(response: httpx.Response) -> AsyncIterator[int]:
    """By event, up to the last. Raises _Failure."""
    if response.status_code != 200:
        raise _Failure((await response.aread()).decode(errors="replace")[:200])
    async for line in response.aiter_lines():
        data = event_data(line)
        if data == END_OF_EVENTS:
            return
        if data is None:
            continue
        event = json.loads(data)
        if "error" in event:
            raise _Failure(str(event["error"].get("message", event["error"]))[:200])
        yield sum(len(choice.get("token_ids") or ()) for choice in event.get("choices", ()))
    raise _Failure("the stream ended early")


def _body(target: Target, arrival: Arrival) -> dict[str, Any]:
    body = {
        "model": target.model,
        "prompt": arrival.prompt,
        "max_tokens": arrival.max_tokens,
        "temperature": target.temperature,
        "seed": arrival.seed,
        "ignore_eos": True,
        "stream": True,
        "return_token_ids": True,
    }
    return body | ({"preset": target.preset} if target.preset else {})

"""A small client of the service's REST interface: what the command line and the benchmark speak through."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import httpx

from cluster.counters import Counters, parse_metrics
from ssd_core.errors import SSDError

TIMEOUT = httpx.Timeout(600.0, connect=10.0)
"""A long completion on a busy CPU takes minutes; a service that is not there is known at once."""

END_OF_EVENTS = "[DONE]"


class ServiceError(SSDError):
    """The service answered with an error, or not at all."""


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    prompt: str
    preset: str | None = None
    """None: the service's default."""
    lookahead: int | None = None
    speculation: Mapping[str, Any] = field(default_factory=dict)
    """Other settings than the service's."""
    max_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class Account:
    """`metrics.speculative_decoding` of a response: what speculation did for this request."""

    num_rounds: int
    num_drafts: int
    """Rounds that submitted a speculation."""
    num_draft_tokens: int
    num_accepted_tokens: int
    accepted_per_position: tuple[int, ...]
    draft_wait_s: float | None
    """None: not known."""


@dataclass(frozen=True, slots=True)
class Completion:
    text: str
    token_ids: tuple[int, ...]
    wall_s: float
    """At the client: from sending the request to having the answer."""
    first_token_s: float
    """At the target: from the request's arrival to its first token."""
    account: Account


def bearer(api_key: str | None) -> dict[str, str]:
    """The header that shows a key; empty for none."""
    return {"authorization": f"Bearer {api_key}"} if api_key else {}


class RestClient:
    """One service. Threads may share it."""

    def __init__(self, url: str, model: str | None = None, api_key: str | None = None) -> None:
        headers = bearer(api_key)
        self._http = httpx.Client(base_url=url.rstrip("/"), timeout=TIMEOUT, headers=headers)
        self._model = model
        self.url = url.rstrip("/")

    def __enter__(self) -> RestClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    @property
    def model(self) -> str:
        """The name the service gives its model."""
        if self._model is None:
            response = self._get("/v1/models")
            with self._reading():
                self._model = str(response.json()["data"][0]["id"])
        return self._model

    def complete(self, request: CompletionRequest) -> Completion:
        """One answer, whole."""
        began = time.perf_counter()
        try:
            response = self._http.post("/v1/completions", json=self._body(request, stream=False))
        except httpx.RequestError as error:
            raise self._unreachable(error) from error
        wall_s = time.perf_counter() - began
        _raise_for_error(response)
        with self._reading():
            body = response.json()
            text, token_ids = body["choices"][0]["text"], tuple(body["choices"][0]["token_ids"])
            return Completion(text, token_ids, wall_s, body["metrics"]["time_to_first_token_s"], account_of(body))

    def stream(self, request: CompletionRequest) -> Iterator[str]:
        """The text of one answer, piece by piece as it arrives."""
        try:
            with self._http.stream("POST", "/v1/completions", json=self._body(request, stream=True)) as response:
                if response.is_error:
                    response.read()
                _raise_for_error(response)
                for event in _events(response.iter_lines()):
                    with self._reading():
                        texts = _texts(event)
                    yield from texts
        except httpx.RequestError as error:
            raise self._unreachable(error) from error

    def counters(self) -> Counters:
        response = self._get("/metrics")
        with self._reading():
            return parse_metrics(response.text)

    def _get(self, path: str) -> httpx.Response:
        try:
            response = self._http.get(path)
        except httpx.RequestError as error:
            raise self._unreachable(error) from error
        _raise_for_error(response)
        return response

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """An answer in which something is missing or no JSON comes from something else than this service."""
        try:
            yield
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise ServiceError(f"{self.url}: the answer is not that of ssd-serve: {error!r:.200}") from error

    def _unreachable(self, error: Exception) -> ServiceError:
        return ServiceError(f"{self.url}: {error or type(error).__name__}")

    def _body(self, request: CompletionRequest, stream: bool) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": request.prompt,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
            "ignore_eos": request.ignore_eos,
            "stream": stream,
            "return_token_ids": not stream,
        }
        speculation = {"preset": request.preset, "lookahead": request.lookahead, "speculation": dict(request.speculation) or None}
        return body | {key: value for key, value in speculation.items() if value is not None}


def account_of(body: dict[str, Any]) -> Account:
    """The account in a response body."""
    told = body["metrics"]["speculative_decoding"]
    return Account(
        num_rounds=told["rounds"],
        num_drafts=told["num_spec_steps"],
        num_draft_tokens=told["num_draft_tokens"],
        num_accepted_tokens=told["num_accepted_draft_tokens"],
        accepted_per_position=tuple(told["accepted_per_position"]),
        draft_wait_s=told["draft_wait_s"],
    )


def _raise_for_error(response: httpx.Response) -> None:
    if not response.is_error:
        return
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = response.text[:500]
    raise ServiceError(f"{response.request.url} answered {response.status_code}: {message}")


def _events(lines: Iterator[str]) -> Iterator[str]:
    """What server-sent events hold, up to the last."""
    for line in lines:
        data = event_data(line)
        if data == END_OF_EVENTS:
            return
        if data is not None:
            yield data


def _texts(event: str) -> list[str]:
    """The pieces of text in an event's JSON. Raises ServiceError where it is an error."""
    content = json.loads(event)
    if "error" in content:
        raise ServiceError(str(content["error"].get("message", content["error"])))
    return [choice["text"] for choice in content.get("choices", ()) if choice.get("text")]


def event_data(line: str) -> str | None:
    """What a line of server-sent events holds; None: nothing."""
    return line.removeprefix("data:").strip() if line.startswith("data:") else None

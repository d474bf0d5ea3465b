"""Peers: other decoders of the same pair of models, measured among the presets. Here their nouns and the client of one of them.

`hf-plain` is `generate` of transformers, `hf-assisted` the same with the draft as its assistant: speculative decoding as it is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from cluster.client import Account, Completion, CompletionRequest
from cluster.counters import NOTHING, Counters

PLAIN = "hf-plain"
ASSISTED = "hf-assisted"
PEERS = (PLAIN, ASSISTED)


@dataclass(frozen=True, slots=True)
class Drafting:
    """How far the assistant goes ahead in a round. None: as transformers has it by default."""

    num_tokens: int | None = None
    schedule: str | None = None
    """`constant` or `heuristic_transient`: two tokens more after a round that accepted all, one less after another."""
    confidence_threshold: float | None = None
    """A draft ends with a token less probable than this; 0 never ends one."""

    def __str__(self) -> str:
        if self == Drafting():
            return "transformers' default drafting"
        return f"drafting {self.num_tokens} {self.schedule}, confidence threshold {self.confidence_threshold:g}"


@dataclass(frozen=True, slots=True)
class Setting:
    """What a peer may be given to be at its best."""

    num_threads: int
    drafting: Drafting | None = None
    """None: plain decoding."""

    def __str__(self) -> str:
        threads = "1 thread" if self.num_threads == 1 else f"{self.num_threads} threads"
        return threads if self.drafting is None else f"{threads}, {self.drafting}"


@dataclass(frozen=True, slots=True)
class PeerRequest:
    """One answer of exactly `max_tokens` tokens: end of text does not end it."""

    prompt: str
    max_tokens: int
    temperature: float
    seed: int
    setting: Setting


@dataclass(frozen=True, slots=True)
class PeerAnswer:
    text: str
    token_ids: tuple[int, ...]
    first_token_s: float
    """From the request's arrival at the models to its first token."""
    num_rounds: int
    """Passes of the target."""


@dataclass(frozen=True, slots=True)
class Fork:
    """Where two answers part: the same `prefix`, then one token or the other."""

    prompt: str
    prefix: tuple[int, ...]
    tokens: frozenset[int]


class Models(Protocol):
    """The pair as the peer runs it: cluster.bench.peer_process.PeerProcess, or cluster.bench.fake.FakeModels."""

    def generate(self, request: PeerRequest) -> PeerAnswer: ...

    def gap_roundings(self, fork: Fork) -> float:
        """Difference of the fork's logits at the target, in roundings of the largest logit."""
        ...


class PeerClient:
    """One peer as a client of `cluster.bench.measure`. One request at a time."""

    def __init__(self, models: Models, settings: Mapping[float, Setting], clock: Callable[[], float] = time.perf_counter) -> None:
        """`settings` by temperature."""
        self._models = models
        self._settings = settings
        self._clock = clock

    def complete(self, request: CompletionRequest) -> Completion:
        assert request.ignore_eos, "a peer's answers have a fixed length"
        setting = self._settings[request.temperature]
        began = self._clock()
        answer = self._models.generate(PeerRequest(request.prompt, request.max_tokens, request.temperature, request.seed, setting))
        wall_s = self._clock() - began
        return Completion(answer.text, answer.token_ids, wall_s, answer.first_token_s, _account(answer.num_rounds))

    def counters(self) -> Counters:
        return NOTHING


def _account(num_rounds: int) -> Account:
    """transformers does not say what was drafted, nor how long that took."""
    return Account(num_rounds, num_drafts=0, num_draft_tokens=0, num_accepted_tokens=0, accepted_per_position=(), draft_wait_s=None)

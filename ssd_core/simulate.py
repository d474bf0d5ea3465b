"""Tokens per second for given costs, computed on any machine: the real loops and real engines, in virtual time.

    simulate(target, [draft], requests, target_cost=PassCost(...), draft_cost=PassCost(...), latency_s=0.0003).tokens_per_s

Target and drafts each have cores of their own here: a draft that works does not slow the target down.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ssd_core.draft_loop import DraftLoop
from ssd_core.engine.base import Engine
from ssd_core.loop_stats import LoopStats
from ssd_core.target_loop import TargetLoop
from ssd_core.types import Emission, GenerationRequest, SessionStats
from ssd_core.virtual_link import TimedDraft, VirtualLink
from ssd_core.virtual_time import PassCost, TimedEngine, VirtualClock


@dataclass(frozen=True, slots=True)
class Served:
    """What one request got."""

    tokens: tuple[int, ...]
    stats: SessionStats
    seconds: float
    """From its arrival to its last token."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """What came of a simulation. All times are virtual and repeat exactly, but for `stats.work_on_hit`, which is CPU time."""

    seconds: float
    """From the first request to the last token."""
    served: Mapping[str, Served]
    """By session id."""
    stats: LoopStats
    draft_busy_s: tuple[float, ...]
    """Seconds each draft worked."""

    @property
    def tokens(self) -> dict[str, tuple[int, ...]]:
        """By session id."""
        return {session_id: served.tokens for session_id, served in self.served.items()}

    @property
    def tokens_per_s(self) -> float:
        """Of all requests together, prompts included."""
        return self.stats.tokens / self.seconds

    @property
    def decode_tokens_per_s(self) -> float:
        """Of one request after its first token. Mean over the requests, of which some have more than one token."""
        seconds = sum(served.seconds - served.stats.first_token_s for served in self.served.values())
        return (self.stats.tokens - len(self.served)) / seconds

    @property
    def tokens_per_round(self) -> float:
        return self.stats.tokens / self.stats.rounds

    @property
    def hit_rate(self) -> float:
        """Of the rounds that looked up; 0 for presets that never do."""
        return self.stats.hits / self.stats.lookups if self.stats.lookups else 0.0


def simulate(
    target_engine: Engine,
    draft_engines: Sequence[Engine],
    requests: Sequence[GenerationRequest],
    *,
    target_cost: PassCost,
    draft_cost: PassCost,
    latency_s: float = 0.0,
    concurrency: int = 1,
    eos_token_ids: Sequence[int] = (),
    max_step_nodes: int = 16,
    prefill_chunk_tokens: int = 256,
    draft_timeout_s: float = 0.5,
) -> Simulation:
    """Serve `requests` in their order, `concurrency` at a time: when one ends, the next arrives. `draft_engines`: at least one; `ar` leaves
    them idle. A draft's overhead is part of its step. The target's lies between its pass, with the growth that has come by then, and the
    outcomes it sends next.

    Raises what TargetLoop.add raises. The engines get everything back, whatever happens.
    """
    assert len({request.session_id for request in requests}) == len(requests), "two requests have the same session id"
    clock = VirtualClock()
    drafts: list[TimedDraft] = []
    for engine in draft_engines:
        own_clock = VirtualClock()
        timed = TimedEngine(engine, draft_cost.step_s, own_clock)
        draft_loop = DraftLoop(
            timed, eos_token_ids=eos_token_ids, max_step_nodes=max_step_nodes, prefill_chunk_tokens=prefill_chunk_tokens, clock=own_clock
        )
        drafts.append(TimedDraft(draft_loop, own_clock, latency_s))
    link = VirtualLink(clock, drafts)
    loop = TargetLoop(
        TimedEngine(target_engine, target_cost.pass_s, clock),
        link,
        target_cost.step_times,
        eos_token_ids=eos_token_ids,
        max_sessions=concurrency,
        prefill_chunk_tokens=prefill_chunk_tokens,
        draft_timeout_s=draft_timeout_s,
        clock=clock,
    )
    users = _Users(loop, clock, requests, concurrency)
    try:
        users.ask()
        while not loop.is_idle:
            if loop.step():
                clock.advance(target_cost.overhead_s)
            else:
                loop.wait(draft_timeout_s)
            users.ask()
        return Simulation(users.ended_at_s, users.served, loop.stats(), tuple(draft.busy_s for draft in drafts))
    finally:
        loop.abort("the simulation was broken off")
        link.drain()


class _Users:
    """A closed loop: so many at a time, each of whom asks again as soon as the last answer is whole."""

    def __init__(self, loop: TargetLoop, clock: VirtualClock, requests: Sequence[GenerationRequest], concurrency: int) -> None:
        self._loop = loop
        self._clock = clock
        self._to_ask = deque(requests)
        self._concurrency = concurrency
        self._asked_at_s: dict[str, float] = {}
        """Of requests that are being answered."""
        self._tokens: dict[str, list[int]] = {}
        self.served: dict[str, Served] = {}
        self.ended_at_s = 0.0

    def ask(self) -> None:
        while self._to_ask and len(self._asked_at_s) < self._concurrency:
            request = self._to_ask.popleft()
            self._loop.add(request, self._take)
            self._asked_at_s[request.session_id] = self._clock()
            self._tokens[request.session_id] = []

    def _take(self, emission: Emission) -> None:
        tokens = self._tokens[emission.session_id]
        tokens.extend(emission.tokens)
        if emission.finish_reason is not None:
            assert emission.stats is not None
            self.ended_at_s = self._clock()
            seconds = self.ended_at_s - self._asked_at_s.pop(emission.session_id)
            self.served[emission.session_id] = Served(tuple(tokens), emission.stats, seconds)

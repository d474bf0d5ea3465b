"""Runs requests through a pair of fake engines, checking what must hold after every round."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ssd_core.config import SamplingParams, SpeculationConfig
from ssd_core.draft_loop import DraftLoop
from ssd_core.engine.fake import FakeEngine
from ssd_core.link import DraftLink
from ssd_core.lockstep import LockstepLink
from ssd_core.loop_stats import LoopStats
from ssd_core.target_loop import TargetLoop
from ssd_core.types import Emission, GenerationRequest, StepTimes

EOS = 5
STEP_TIMES = StepTimes((1, 16, 64), (0.010, 0.012, 0.030))


@dataclass
class Run:
    """What came of a set of requests."""

    tokens: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    last: dict[str, Emission] = field(default_factory=dict)
    emissions: list[Emission] = field(default_factory=list)
    stats: LoopStats | None = None

    def sink(self, emission: Emission) -> None:
        assert emission.session_id not in self.last, "nothing may follow the finish reason"
        self.tokens[emission.session_id].extend(emission.tokens)
        self.emissions.append(emission)
        if emission.finish_reason is not None:
            self.last[emission.session_id] = emission


def requests(count: int, preset: str, *, seed: int = 0, speculation: dict | None = None, **sampling: object) -> list[GenerationRequest]:
    """Requests with different prompts and seeds; the same for every preset."""
    made = []
    for i in range(count):
        prompt = tuple((7 * i + 3 * j + seed) % 64 for j in range(3 + 5 * i))
        params = SamplingParams(**{"max_tokens": 50, "seed": 100 * seed + i, "ignore_eos": True, **sampling})
        made.append(
            GenerationRequest(f"s{i}", prompt, params, SpeculationConfig(preset=preset, **{"self_tuning": False, **(speculation or {})}))
        )
    return made


def drive(
    wanted: Sequence[GenerationRequest],
    *,
    make_link: Callable[[DraftLoop], DraftLink] = LockstepLink,
    target: FakeEngine | None = None,
    draft: FakeEngine | None = None,
    max_sessions: int = 32,
    max_step_nodes: int = 16,
    prefill_chunk_tokens: int = 16,
    draft_timeout_s: float = 60.0,
    tokenizer: object = None,
    clock: Callable[[], float] = time.perf_counter,
    arrivals: Mapping[str, int] | None = None,
    on_round: Callable[[TargetLoop, int], None] | None = None,
) -> Run:
    """Run to the end. Asserts integrity after every round and that everything is given back at the end. `arrivals`: the round after which
    a request comes; the others are there from the start."""
    target = target or FakeEngine(seed=3)
    draft = draft or FakeEngine(seed=3, noise=0.4)
    draft_loop = DraftLoop(
        draft, eos_token_ids=(EOS,), max_step_nodes=max_step_nodes, prefill_chunk_tokens=prefill_chunk_tokens, clock=clock
    )
    link = make_link(draft_loop)
    loop = TargetLoop(
        target, link, STEP_TIMES, eos_token_ids=(EOS,), tokenizer=tokenizer, max_sessions=max_sessions,
        prefill_chunk_tokens=prefill_chunk_tokens, draft_timeout_s=draft_timeout_s, clock=clock,
    )  # fmt: skip
    run = Run()
    arrivals = arrivals or {}
    to_come = sorted(wanted, key=lambda request: arrivals.get(request.session_id, 0))
    num_rounds = 0
    while to_come or not loop.is_idle:
        while to_come and arrivals.get(to_come[0].session_id, 0) <= num_rounds:
            loop.add(to_come.pop(0), run.sink)
        if not loop.step():
            loop.wait(0.0)
        num_rounds += 1
        assert num_rounds < 20_000, "no end in sight"
        loop.check_integrity()
        draft_loop.check_integrity()
        if on_round is not None:
            on_round(loop, num_rounds)
    while draft_loop.step() is not None:  # let it hear of what was closed
        pass
    for engine in (target, draft):
        engine.check_integrity()
        assert engine.num_free_cells == engine.num_cells, "KV was not given back"
    assert len(draft_loop) == 0, "the draft still holds a session"
    run.stats = loop.stats()
    assert run.stats.store_sessions == 0 and run.stats.running == 0 and run.stats.queued == 0
    return run

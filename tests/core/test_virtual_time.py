"""In virtual time speeds are arithmetic. Costs here are sums of powers of two, so that equal times are equal floats."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ssd_core.config import PRESETS, SamplingParams, SpeculationConfig
from ssd_core.draft_loop import DraftLoop
from ssd_core.engine.base import TRUNK_END, Part
from ssd_core.engine.fake import FakeEngine
from ssd_core.errors import InvalidRequestError
from ssd_core.simulate import Simulation, simulate
from ssd_core.types import GenerationRequest, Outcome, SessionOpen, StepTimes
from ssd_core.virtual_link import TimedDraft, VirtualLink
from ssd_core.virtual_time import PassCost, TimedEngine, VirtualClock
from tests.core.driver import drive, requests

TARGET = PassCost(StepTimes((1, 8, 16), (0.25, 0.25, 0.375)), per_session_s=1 / 64, overhead_s=1 / 32)
DRAFT = PassCost(StepTimes((1, 16), (1 / 64, 1 / 64)), per_session_s=1 / 512, overhead_s=1 / 128)
STEP_S = 1 / 64 + 1 / 128
"""Of a draft step with one session, whatever its nodes."""
FREE = PassCost(StepTimes((1,), (0.0,)))
K = 3
PROMPT = (1, 2, 3, 4, 5)


def scaled(cost: PassCost, factor: float) -> PassCost:
    times = StepTimes(cost.step_times.nodes, tuple(factor * seconds for seconds in cost.step_times.seconds))
    return PassCost(times, factor * cost.per_session_s, factor * cost.overhead_s)


def run(wanted: list[GenerationRequest], *, num_drafts: int = 1, noise: float = 0.4, **changes: object) -> Simulation:
    """Simulate with fake engines, and see that they got everything back."""
    target, drafts = FakeEngine(seed=3), [FakeEngine(seed=3, noise=noise) for _ in range(num_drafts)]
    arguments = {"target_cost": TARGET, "draft_cost": DRAFT, "concurrency": len(wanted), "draft_timeout_s": 60.0, **changes}
    try:
        return simulate(target, drafts, wanted, **arguments)
    finally:
        for engine in (target, *drafts):
            engine.check_integrity()
            assert engine.num_free_cells == engine.num_cells, "KV was not given back"


def one(preset: str, max_tokens: int) -> list[GenerationRequest]:
    sampling = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
    return [GenerationRequest("s", PROMPT, sampling, SpeculationConfig(preset=preset, lookahead=K, fan_out=1))]


def round_s(preset: str, **changes: object) -> float:
    """Of one more round with a perfect draft, long after the prompt: K tokens are accepted, one more is chosen."""
    short, long = (run(one(preset, 1 + (K + 1) * rounds), noise=0.0, **changes) for rounds in (10, 11))
    assert long.stats.rounds == short.stats.rounds + 1
    return long.seconds - short.seconds


# ------------------------------------------------------------ what comes out


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("preset", PRESETS)
def test_tokens_are_those_of_plain_decoding(preset: str, temperature: float) -> None:
    plain = drive(requests(5, "ar", temperature=temperature))
    done = run(requests(5, preset, temperature=temperature), concurrency=3, num_drafts=2, latency_s=1 / 256)
    assert {session_id: list(tokens) for session_id, tokens in done.tokens.items()} == plain.tokens
    assert preset == "ar" or done.stats.accepted > 0


@pytest.mark.parametrize("preset", PRESETS)
def test_a_second_run_takes_exactly_as_long(preset: str) -> None:
    first, second = (run(requests(4, preset, temperature=0.8), num_drafts=2, latency_s=0.003) for _ in range(2))
    assert first.seconds == second.seconds and first.draft_busy_s == second.draft_busy_s and first.served == second.served


def test_the_account_adds_up() -> None:
    done = run(requests(4, "ssd-tree", max_tokens=30), concurrency=2)
    assert done.tokens_per_s == 120 / done.seconds and done.tokens_per_round == 120 / done.stats.rounds
    assert done.hit_rate == sum(s.stats.num_hits for s in done.served.values()) / sum(s.stats.num_lookups for s in done.served.values())
    first, *rest = done.served.values()
    assert 0 < first.stats.first_token_s < first.seconds < done.seconds
    assert max(served.seconds for served in rest) < done.seconds, "a later request arrives later, so its time is a part of the whole"
    assert done.draft_busy_s[0] == pytest.approx(done.stats.draft_busy_s, abs=2 * scaled(DRAFT, 2).step_s(2, 16))


def test_so_many_requests_run_at_a_time_and_the_next_comes_when_one_ends() -> None:
    """One at a time their times follow each other without a gap; two at a time, the third begins when the first has ended."""
    no_overhead = replace(TARGET, overhead_s=0.0)
    alone = run(requests(3, "ar", max_tokens=8), concurrency=1, target_cost=no_overhead)
    assert sum(served.seconds for served in alone.served.values()) == alone.seconds
    pairs = run(requests(3, "ar", max_tokens=8), concurrency=2, target_cost=no_overhead)
    assert pairs.served["s0"].seconds + pairs.served["s2"].seconds == pairs.seconds
    assert pairs.seconds < alone.seconds


def test_a_request_that_cannot_run_is_refused_and_everything_is_given_back() -> None:
    good, short, bad = (replace(one("ssd-tree", size)[0], session_id=str(size)) for size in (40, 5, 5000))
    with pytest.raises(InvalidRequestError):
        run([good, short, bad], concurrency=2)  # its turn comes while the first still runs


# ------------------------------------------------------------ how long it takes


def test_a_pass_costs_its_nodes_its_further_sessions_and_our_own_work() -> None:
    cost = PassCost(StepTimes((1, 3), (1.0, 2.0)), per_session_s=0.25, overhead_s=0.125)
    assert [cost.pass_s(1, 1), cost.pass_s(1, 2), cost.pass_s(1, 6)] == [1.0, 1.5, 4.0]
    assert cost.pass_s(3, 3) == 2.5 and cost.step_s(3, 3) == 2.625
    clock, fake = VirtualClock(), FakeEngine(seed=3)
    engine = TimedEngine(fake, cost.step_s, clock)
    for session_id in ("a", "b"):
        engine.open(session_id, 10)
    logits = engine.evaluate([Part("a", [4, 5], [TRUNK_END, 0]), Part("b", [6], [TRUNK_END])])
    assert clock() == cost.step_s(2, 3)
    assert logits[1].numpy() == pytest.approx(fake.logits_after([4, 5]))


def test_plain_decoding_takes_its_prompt_and_one_pass_a_token() -> None:
    done = run(one("ar", 20))
    assert done.seconds == TARGET.step_s(1, len(PROMPT)) + 18 * TARGET.step_s(1, 1) + TARGET.pass_s(1, 1)
    assert done.served["s"].stats.first_token_s == TARGET.pass_s(1, len(PROMPT)) and done.served["s"].seconds == done.seconds
    assert done.decode_tokens_per_s == 19 / (done.seconds - TARGET.pass_s(1, len(PROMPT)))
    assert done.draft_busy_s == (0.0,) and done.hit_rate == 0.0


def test_a_long_prompt_costs_in_proportion() -> None:
    prompt = tuple(range(64)) * 2
    long = [replace(request, prompt=prompt) for request in one("ar", 1)]
    assert run(long).seconds == TARGET.pass_s(1, 16) * 128 / 16
    assert run(long, prefill_chunk_tokens=64).seconds == TARGET.pass_s(1, 16) * 128 / 16 + TARGET.overhead_s, "in two passes"


@pytest.mark.parametrize("latency_s", [0.0, 1 / 64])
def test_taking_turns_costs_k_draft_steps_a_pass_and_the_way_there_and_back(latency_s: float) -> None:
    assert round_s("sd", latency_s=latency_s) == TARGET.step_s(1, K + 1) + K * STEP_S + 2 * latency_s


def test_the_wait_for_the_draft_is_counted_as_such() -> None:
    short, long = (run(one("sd", 1 + (K + 1) * rounds), noise=0.0, latency_s=1 / 64) for rounds in (10, 11))
    waited = long.served["s"].stats.draft_wait_s - short.served["s"].stats.draft_wait_s
    assert waited == long.stats.draft_wait_s - short.stats.draft_wait_s == K * STEP_S + 2 / 64


@pytest.mark.parametrize("latency_s", [0.0, 1 / 64])
def test_drafting_and_messages_are_hidden_behind_the_pass(latency_s: float) -> None:
    assert round_s("ssd", latency_s=latency_s) == TARGET.step_s(1, K + 1)


def test_a_pass_too_short_for_the_draft_hides_a_part_only() -> None:
    """A chain of K takes K steps: with time for one and a half a round, the draft is what limits."""
    target_cost = PassCost(StepTimes((1, K + 1), (1.5 * STEP_S, 1.5 * STEP_S)))
    limited, free = (run(one("ssd", 161), noise=0.0, target_cost=target_cost, draft_cost=cost).tokens_per_round for cost in (DRAFT, FREE))
    assert 1.0 < limited < 0.8 * free
    assert free == pytest.approx(K + 1, rel=0.05)


def test_the_faster_the_draft_the_faster_the_service() -> None:
    """A free and instant draft is the bound. One whose growth always comes too late costs what is submitted in vain, here nothing."""
    wanted = requests(4, "ssd-tree", max_tokens=60, temperature=0.8, speculation={"backup": "none"})
    instant, quick, slow, late = (
        run(wanted, concurrency=1, draft_cost=cost).seconds for cost in (FREE, DRAFT, scaled(DRAFT, 4), scaled(DRAFT, 1000))
    )
    plain = run(requests(4, "ar", max_tokens=60, temperature=0.8), concurrency=1).seconds
    assert instant <= quick < slow < late == plain
    assert instant < 0.6 * plain


def test_latency_costs_time() -> None:
    seconds = [run(requests(4, "ssd-tree", max_tokens=60), concurrency=1, latency_s=latency).seconds for latency in (0.0, 0.15, 0.6)]
    assert seconds == sorted(seconds) and seconds[0] < 0.95 * seconds[2]


def test_a_narrower_draft_step_evaluates_fewer_nodes() -> None:
    narrow, wide = (run(one("ssd-tree", 60), max_step_nodes=size).stats for size in (1, 16))
    assert narrow.draft_nodes / narrow.draft_steps < 1.5 < 2.5 < wide.draft_nodes / wide.draft_steps


@pytest.mark.parametrize("preset", ["sd", "tree"])
def test_two_drafts_serve_many_sessions_faster_than_one(preset: str) -> None:
    """A step takes longer the more sessions it serves; each of two drafts has half of them."""
    costly = replace(DRAFT, per_session_s=1 / 8)
    one_draft, two_drafts = (
        run(requests(8, preset, max_tokens=30), draft_cost=costly, num_drafts=n, latency_s=1 / 256, max_step_nodes=64) for n in (1, 2)
    )
    assert two_drafts.seconds < 0.8 * one_draft.seconds
    first, second = two_drafts.draft_busy_s
    assert first == pytest.approx(second, rel=0.3)
    assert two_drafts.seconds < first + second < 2 * two_drafts.seconds, "they work at the same time"


# ------------------------------------------------------------ the link, by the clock

LATENCY_S = 1.0
WORK_S = 4.0


def link_of(num_drafts: int = 1) -> tuple[VirtualLink, VirtualClock]:
    """Drafts whose steps take WORK_S."""
    clock, drafts = VirtualClock(), []
    for _ in range(num_drafts):
        own_clock = VirtualClock()
        engine = TimedEngine(FakeEngine(seed=3), lambda num_sessions, num_nodes: WORK_S, own_clock)
        drafts.append(TimedDraft(DraftLoop(engine, clock=own_clock), own_clock, LATENCY_S))
    return VirtualLink(clock, drafts), clock


def opening(session_id: str = "s", preset: str = "ssd-tree") -> SessionOpen:
    return SessionOpen(session_id, PROMPT, len(PROMPT), SamplingParams(), SpeculationConfig(preset=preset))


def test_growth_is_seen_after_the_way_there_the_step_and_the_way_back() -> None:
    link, clock = link_of()
    clock.move_to(10.0)
    link.open(opening())
    clock.move_to(10 + LATENCY_S + WORK_S + 0.5 * LATENCY_S)
    assert link.poll_growth() == [], "its step has ended, its report is on the way"
    clock.move_to(10 + LATENCY_S + WORK_S + LATENCY_S)
    (report,) = link.poll_growth()
    assert report.num_nodes == len(PROMPT) and report.busy_s == WORK_S
    assert link.poll_growth() == [], "nothing comes twice"


def test_a_step_knows_only_what_had_arrived_when_it_began() -> None:
    """Steps begin at 1, 5, 9, ... An outcome sent at 4.5 arrives within the second step, and is known to the third, though the second is
    computed only when the target asks for it."""
    link, clock = link_of()
    link.open(opening())
    clock.move_to(4.5)
    link.send_outcomes([Outcome("s", len(PROMPT), (7,), ())])
    clock.move_to(1 + 3 * WORK_S + LATENCY_S)
    first, second, third = link.poll_growth()
    assert [report.growths[0].committed_length - len(PROMPT) for report in (first, second, third)] == [0, 0, 1]


def test_an_outcome_that_arrives_as_a_step_begins_is_known_to_it() -> None:
    link, clock = link_of()
    link.open(opening())
    clock.move_to(1 + WORK_S - LATENCY_S)
    link.send_outcomes([Outcome("s", len(PROMPT), (7,), ())])
    clock.move_to(1 + 2 * WORK_S + LATENCY_S)
    assert [report.growths[0].committed_length - len(PROMPT) for report in link.poll_growth()] == [0, 1]


def test_an_idle_draft_begins_when_a_message_arrives() -> None:
    link, clock = link_of()
    link.open(opening(preset="sd"))
    clock.move_to(1000.0)
    assert link.poll_growth()[-1].growths[0].is_exhausted, "the chain is grown, and the draft idle since"
    link.send_outcomes([Outcome("s", len(PROMPT), (0,), ())])
    link.wait(60.0)
    assert clock() == 1000 + LATENCY_S + WORK_S + LATENCY_S
    assert len(link.poll_growth()) == 1


def test_a_wait_ends_with_the_next_arrival_or_the_timeout() -> None:
    link, clock = link_of(num_drafts=2)
    link.wait(2.0)
    assert clock() == 2.0, "nobody has anything to say"
    link.open(opening("a"))
    clock.move_to(4.5)
    link.open(opening("b"))
    link.wait(1.5)
    assert clock() == 6.0 and link.poll_growth() == []
    link.wait(60.0)
    assert clock() == 2 + LATENCY_S + WORK_S + LATENCY_S
    assert [growth.session_id for report in link.poll_growth() for growth in report.growths] == ["a"]
    link.wait(60.0)
    assert clock() == 4.5 + LATENCY_S + WORK_S + LATENCY_S, "the other draft began on its own, while the first worked"
    assert [growth.session_id for report in link.poll_growth() for growth in report.growths] == ["b"]


def test_no_draft_runs_ahead_of_what_the_target_may_still_say() -> None:
    """Steps begin at 1, 5, 9, ... A wait ends with the first report at 6; what the target says then arrives at 7: the third knows it."""
    link, clock = link_of()
    link.open(opening())
    link.wait(60.0)
    assert clock() == 6.0
    link.send_outcomes([Outcome("s", len(PROMPT), (7,), ())])
    clock.move_to(1 + 3 * WORK_S + LATENCY_S)
    assert [report.growths[0].committed_length - len(PROMPT) for report in link.poll_growth()] == [0, 0, 1]


def test_a_session_goes_to_the_draft_with_the_fewest_and_stays_there() -> None:
    link, clock = link_of(num_drafts=2)
    for session_id in ("a", "b", "c"):
        link.open(opening(session_id))
    link.close("a")
    link.close("c")
    link.open(opening("d"))
    link.open(opening("b"))  # again: its draft had lost it
    clock.move_to(1 + WORK_S + LATENCY_S)
    served = [{growth.session_id for growth in report.growths} for report in link.poll_growth()]
    assert served == [{"d"}, {"b"}]

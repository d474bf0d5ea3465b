"""Whatever ends a session gives everything back; what can never run is refused; one session's error is nobody else's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import pytest
import torch

from ssd_core.config import SamplingParams, SpeculationConfig
from ssd_core.engine.base import Part
from ssd_core.engine.fake import FakeEngine
from ssd_core.errors import CapacityError, InvalidRequestError
from ssd_core.link import NoDraft
from ssd_core.target_loop import TargetLoop
from ssd_core.types import FinishReason, GenerationRequest, StepTimes
from tests.core.driver import STEP_TIMES, Run, drive, requests


def test_cancelled_sessions_give_everything_back_and_the_others_go_on() -> None:
    plain = drive(requests(4, "ar"))
    run = drive(
        requests(4, "ssd-tree"),
        max_sessions=3,  # s3 is still waiting when it is cancelled
        on_round=lambda loop, n: [loop.cancel(s) for s in ("s1", "s3", "unknown")] if n == 4 else None,
    )
    assert run.last["s1"].finish_reason is run.last["s3"].finish_reason is FinishReason.CANCELLED
    assert run.tokens["s0"] == plain.tokens["s0"] and run.tokens["s2"] == plain.tokens["s2"]
    assert run.tokens["s1"] == plain.tokens["s1"][: len(run.tokens["s1"])]


def test_nan_logits_end_their_session_and_no_other() -> None:
    plain = drive(requests(3, "ar"))
    calls = {"s1": 0}

    def is_sick(session_id: str) -> bool:
        calls["s1"] += session_id == "s1"
        return session_id == "s1" and calls["s1"] > 4

    run = drive(requests(3, "ssd-tree"), target=FakeEngine(seed=3, yields_nan=is_sick))
    assert run.last["s1"].finish_reason is FinishReason.ERROR and "finite" in run.last["s1"].error
    assert run.tokens["s0"] == plain.tokens["s0"] and run.tokens["s2"] == plain.tokens["s2"]


def test_a_draft_that_yields_nan_costs_speed_only() -> None:
    plain = drive(requests(2, "ar"))
    for preset in ("sd", "tree", "ssd", "ssd-tree"):
        run = drive(requests(2, preset), draft=FakeEngine(seed=3, yields_nan=lambda session_id: True))
        assert run.tokens == plain.tokens


def test_without_any_draft_every_preset_decodes_plainly() -> None:
    plain = drive(requests(2, "ar"))
    for preset in ("sd", "tree", "ssd", "ssd-tree"):
        assert drive(requests(2, preset), make_link=lambda draft: NoDraft()).tokens == plain.tokens


@pytest.mark.parametrize("preset", ["sd", "tree", "ssd", "ssd-tree"])
@pytest.mark.parametrize("draft_len", [53, 30, 2], ids=["as long", "shorter", "shorter than the prompt"])
def test_where_the_context_ends_the_draft_stops_growing_and_the_session_goes_on(preset: str, draft_len: int) -> None:
    plain = drive(requests(1, "ar"))
    target, draft = FakeEngine(seed=3, max_model_len=53), FakeEngine(seed=3, max_model_len=draft_len)  # 3 prompt tokens and 50 new ones
    run = drive(requests(1, preset), target=target, draft=draft)
    assert run.tokens == plain.tokens
    assert (run.stats.accepted > 0) == (draft_len > 3)


def loop_of(**sizes: int) -> TargetLoop:
    return TargetLoop(FakeEngine(num_cells=100, max_model_len=90), NoDraft(), STEP_TIMES, **sizes)


def request(session_id: str = "a", prompt: tuple[int, ...] = (1, 2), **sampling: object) -> GenerationRequest:
    return GenerationRequest(session_id, prompt, SamplingParams(**sampling), SpeculationConfig(preset="ar"))


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("prompt", {"prompt": ()}),
        ("prompt", {"prompt": (64,)}),
        ("prompt", {"prompt": (-1,)}),
        ("prompt", {"prompt": (1,) * 90}),
        ("max_tokens", {"max_tokens": 89}),
    ],
)
def test_what_can_never_run_is_refused_with_the_field(field: str, wrong: dict) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        loop_of().add(request(**wrong), Run().sink)
    assert caught.value.field == field


def test_a_session_larger_than_the_kv_budget_is_refused() -> None:
    loop = TargetLoop(FakeEngine(num_cells=20, max_model_len=90), NoDraft(), STEP_TIMES)
    with pytest.raises(InvalidRequestError, match="KV cells"):
        loop.add(request(max_tokens=30), Run().sink)


def test_a_full_queue_refuses_until_something_ends() -> None:
    loop, run = loop_of(max_sessions=1, max_queued=1), Run()
    loop.add(request("a", max_tokens=2), run.sink)
    loop.add(request("b", max_tokens=2), run.sink)
    with pytest.raises(CapacityError):
        loop.add(request("c", max_tokens=2), run.sink)
    while not loop.is_idle:
        loop.step()
    assert loop.stats().refused_tokens == 2, "that c would have generated"
    loop.add(request("c", max_tokens=2), run.sink)
    while not loop.is_idle:
        loop.step()
    assert {k: len(v) for k, v in run.tokens.items()} == {"a": 2, "b": 2, "c": 2}


def test_what_is_outstanding_counts_those_who_wait_by_what_others_generated() -> None:
    sizes = {"max_sessions": 1, "prefill_chunk_tokens": 1}
    loop, run = TargetLoop(FakeEngine(num_cells=100), NoDraft(), STEP_TIMES, eos_token_ids=range(64), **sizes), Run()
    for name, max_tokens in (("a", 10), ("b", 20), ("c", 40)):
        loop.add(request(name, max_tokens=max_tokens), run.sink)
    loop.step()
    assert (loop.stats().running, loop.stats().queued, loop.stats().outstanding_tokens) == (1, 2, 70), "nobody has ended: all they may"
    while "a" not in run.last:
        loop.step()
    assert len(run.tokens["a"]) == 1
    assert loop.stats().outstanding_tokens == 2 + 4, "a tenth of what they may, as the first one"


def test_a_loop_is_as_full_as_its_cells_or_its_places() -> None:
    loop = loop_of(max_sessions=4)
    loop.add(request("a", max_tokens=5), Run().sink)
    loop.step()
    assert loop.stats().kv_share < loop.stats().used_share == 1 / 4
    loop.add(request("b", max_tokens=80), Run().sink)
    loop.step()
    assert loop.stats().kv_share == loop.stats().used_share > 0.8


def test_abort_tells_every_session() -> None:
    loop, run = loop_of(max_sessions=1), Run()
    for name in "ab":
        loop.add(request(name, max_tokens=5), run.sink)
    loop.step()
    loop.abort("the engine died")
    assert {k: (e.finish_reason, e.error) for k, e in run.last.items()} == dict.fromkeys("ab", (FinishReason.ERROR, "the engine died"))
    assert loop.stats().kv_cells_free == 100


def test_the_account_of_a_session_adds_up() -> None:
    run = drive(requests(2, "ssd-tree"))
    for session_id, last in run.last.items():
        stats = last.stats
        assert stats.num_tokens == len(run.tokens[session_id]) == 50
        assert stats.num_tokens == stats.num_rounds + stats.num_accepted, "every round gives one token and what was accepted"
        assert stats.accepted_per_position[0] == max(stats.accepted_per_position)
        assert stats.num_hits <= stats.num_lookups == stats.num_rounds - 1


def test_a_prompt_is_cut_alike_whoever_else_is_read() -> None:
    """Else its chunks, and what rounding makes of them, would hang on the others."""

    class Watched(FakeEngine):
        def __init__(self) -> None:
            super().__init__(seed=3)
            self.chunks: dict[str, list[int]] = defaultdict(list)

        def evaluate(self, parts: Sequence[Part]) -> torch.Tensor:
            assert sum(len(part.tokens) for part in parts if len(part.tokens) > 1) <= 16
            for part in parts:
                self.chunks[part.session_id].append(len(part.tokens))
            return super().evaluate(parts)

    wanted = requests(5, "ar", max_tokens=3)
    together = Watched()
    drive(wanted, target=together)
    for request in wanted:
        alone = Watched()
        drive([request], target=alone)
        assert alone.chunks[request.session_id] == together.chunks[request.session_id]


class Device(FakeEngine):
    """Notes at every launch how many emissions have been heard."""

    def __init__(self, run: Run) -> None:
        super().__init__(seed=3)
        self._run = run
        self.heard: list[int] = []

    def evaluate(self, parts: Sequence[Part]) -> torch.Tensor:
        self.heard.append(len(self._run.emissions))
        return super().evaluate(parts)


def on_device(run: Run, *, ingests_early: bool = True) -> tuple[TargetLoop, Device]:
    """Passes so short that no growth is waited for."""
    device = Device(run)
    return TargetLoop(device, NoDraft(), StepTimes((1,), (0.0,)), ingests_early=ingests_early), device


def test_a_round_is_told_of_while_the_next_pass_runs_where_a_device_runs_it_and_before_it_elsewhere() -> None:
    tokens = []
    for ingests_early, heard in ((True, [0, 0, 1, 2, 3]), (False, [0, 1, 2, 3, 4])):
        run = Run()
        loop, device = on_device(run, ingests_early=ingests_early)
        (request,) = requests(1, "ar", max_tokens=5)
        loop.add(request, run.sink)
        while not loop.is_idle:
            loop.step()
        assert device.heard == heard and len(run.emissions) == 5
        tokens.append(run.tokens["s0"])
    assert tokens[0] == tokens[1]


def test_what_a_round_gave_is_told_before_the_loop_waits_and_before_its_session_ends() -> None:
    run = Run()
    loop, _ = on_device(run)
    (request,) = requests(1, "ar")
    loop.add(request, run.sink)
    loop.step()
    assert not run.emissions
    loop.wait(0.0)
    assert len(run.emissions) == 1
    loop.step()
    loop.cancel("s0")
    loop.step()
    assert [emission.finish_reason for emission in run.emissions] == [None, None, FinishReason.CANCELLED]


def test_growth_is_waited_for_no_longer_than_a_pass_surely_takes() -> None:
    """What a prompt's pass takes is not measured: beyond the largest pass that is, T(n) is a guess that may be far too long."""
    now = 0.0

    class Waited(NoDraft):
        def wait(self, timeout_s: float) -> None:
            nonlocal now
            now += timeout_s

    loop = TargetLoop(FakeEngine(seed=3), Waited(), StepTimes((1, 2), (1.0, 1.0)), ingests_early=True, clock=lambda: now)
    (request,) = requests(1, "ar")
    assert len(request.prompt) > 2
    loop.add(request, Run().sink)
    loop.step()
    assert now == pytest.approx(0.9)


def test_a_prompt_is_read_without_speculation() -> None:
    """However much the draft has ready, here of those that wait for the pass's budget: so the prompt's pass is that of plain decoding."""
    sizes: dict[str, list[int]] = defaultdict(list)

    class Watched(FakeEngine):
        def evaluate(self, parts: Sequence[Part]) -> torch.Tensor:
            for part in parts:
                sizes[part.session_id].append(len(part.tokens))
            return super().evaluate(parts)

    wanted = requests(3, "ssd-tree")
    drive(wanted, target=Watched(seed=3), prefill_chunk_tokens=13)
    for request in wanted:
        assert sizes[request.session_id][0] == len(request.prompt) and max(sizes[request.session_id][1:]) > 1

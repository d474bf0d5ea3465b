from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from cluster.bench.fake import FakeClient
from cluster.bench.measure import measure, request_seconds
from cluster.bench.totals import totals
from cluster.bench.workload import Workload
from cluster.client import Completion, CompletionRequest, ServiceError

WORKLOAD = Workload(prompts=("a", "b"), presets=("ar", "sd"), max_tokens=12)


def client() -> FakeClient:
    return FakeClient({"ar": 1, "sd": 3})


def test_speed_is_tokens_over_the_clock() -> None:
    fake = client()
    results = measure(WORKLOAD, fake, clock=fake.clock)
    speeds = {result.block.preset: result.tokens_per_s for result in results}
    assert speeds == pytest.approx({"ar": 100.0, "sd": 300.0})


def test_warm_up_requests_are_not_counted() -> None:
    fake = client()
    results = measure(WORKLOAD, fake, clock=fake.clock)
    assert len(fake.requests) == WORKLOAD.num_requests + len(WORKLOAD.presets)
    assert sum(len(result.completions) for result in results) == WORKLOAD.num_requests


def test_requests_ask_for_a_fixed_length() -> None:
    fake = client()
    measure(WORKLOAD, fake, clock=fake.clock)
    assert all(request.ignore_eos and request.max_tokens == 12 for request in fake.requests)


def test_counters_are_those_of_the_block() -> None:
    fake = client()
    results = measure(WORKLOAD, fake, clock=fake.clock)
    rounds = {result.block.preset: totals([result.counters]).pass_nodes / 2 for result in results}
    assert rounds == {"ar": 12, "sd": 4}


def test_a_request_takes_what_an_answer_of_one_token_takes_besides_the_targets_work() -> None:
    class Far(FakeClient):
        def complete(self, request: CompletionRequest) -> Completion:
            return replace(super().complete(request), wall_s=0.05, first_token_s=0.03)

    fake = Far({"ar": 1, "sd": 3})
    assert request_seconds(WORKLOAD, fake) == pytest.approx(0.02)
    assert {request.max_tokens for request in fake.requests} == {1}


def test_progress_counts_up_to_all_requests() -> None:
    lines: list[str] = []
    fake = client()
    measure(WORKLOAD, fake, lines.append, fake.clock)
    assert lines[0].startswith("warming up ar, sd")
    assert lines[-1].startswith("4/4")


class Meeting(FakeClient):
    """Every request waits until `parties` run at once."""

    def __init__(self, parties: int) -> None:
        super().__init__({"ar": 1})
        self.barrier = threading.Barrier(parties, timeout=5)

    def complete(self, request: CompletionRequest) -> Completion:
        self.barrier.wait()
        return super().complete(request)


def test_concurrent_requests_run_at_once() -> None:
    workload = Workload(prompts=("a", "b", "c", "d"), presets=("ar",), concurrency=2, max_tokens=4)
    meeting = Meeting(parties=2)
    results = measure(workload, meeting, clock=meeting.clock)
    assert len(results) == 1
    assert [completion.text[0] for completion in results[0].completions] == ["a", "b", "c", "d"]


class Broken(FakeClient):
    def complete(self, request: CompletionRequest) -> Completion:
        raise ServiceError("500")


def test_an_error_ends_the_measurement() -> None:
    with pytest.raises(ServiceError):
        measure(WORKLOAD, Broken({}))

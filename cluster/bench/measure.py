"""Runs a workload: block by block, the client's clock around each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from statistics import median
from typing import Protocol

from cluster.bench.contestant import Contestant, contestant
from cluster.bench.workload import Block, Case, Workload, blocks
from cluster.client import Completion, CompletionRequest
from cluster.counters import Counters

NUM_PROBES = 8
"""Requests of one token, to see what a request takes besides the target's work."""

Clock = Callable[[], float]
Progress = Callable[[str], None]


class Client(Protocol):
    """What is measured: cluster.client.RestClient, cluster.bench.peer.PeerClient, or cluster.bench.fake.FakeClient."""

    def complete(self, request: CompletionRequest) -> Completion: ...

    def counters(self) -> Counters: ...


@dataclass(frozen=True, slots=True)
class BlockResult:
    block: Block
    completions: tuple[Completion, ...]
    """In the order of the block's cases."""
    wall_s: float
    counters: Counters
    """What the service counted meanwhile."""

    @property
    def num_tokens(self) -> int:
        return sum(len(completion.token_ids) for completion in self.completions)

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.wall_s

    @property
    def decode_tokens_per_s(self) -> float:
        """Of one request after its first token: the speed at which text arrives once it does. Mean over the block's requests."""
        return decode_tokens_per_s(self.completions)


class Timed(Protocol):
    """An answer and its times: cluster.client.Completion, or one of vLLM's."""

    @property
    def token_ids(self) -> tuple[int, ...]: ...

    @property
    def wall_s(self) -> float: ...

    @property
    def first_token_s(self) -> float: ...


def decode_tokens_per_s(answers: Sequence[Timed]) -> float:
    """Of one request after its first token, mean over all."""
    return sum(len(answer.token_ids) - 1 for answer in answers) / sum(answer.wall_s - answer.first_token_s for answer in answers)


def measure(
    workload: Workload,
    client: Client,
    progress: Progress = lambda line: None,
    clock: Clock = time.perf_counter,
    peers: Mapping[str, Client] = {},
) -> list[BlockResult]:
    """Every block of the workload, after a short warm-up of every preset and peer. An error of one of them ends the measurement.

    `peers`: the client of each of the workload's peers. `client` answers for the presets.
    """
    with ThreadPoolExecutor(workload.concurrency) as pool:
        progress(f"warming up {', '.join(workload.contestants)}")
        for block in _warm_up(workload):
            short = replace(workload, max_tokens=min(workload.warm_up_tokens, workload.max_tokens))
            _run(block, short, peers.get(block.preset, client), pool, clock)
        results: list[BlockResult] = []
        num_done = 0
        for block in blocks(workload):
            result = _run(block, workload, peers.get(block.preset, client), pool, clock)
            results.append(result)
            num_done += len(block.cases)
            progress(f"{num_done}/{workload.num_requests}  T={block.temperature:g}  {block.preset:<11} {result.tokens_per_s:7.1f} tokens/s")
    return results


def request_seconds(workload: Workload, client: Client) -> float:
    """What a request takes besides the target's work for it: of an answer that ends with its first token, the time after that token and
    before the target had the request. Median."""
    request = CompletionRequest(workload.prompts[0], preset=contestant(workload.presets[0]).preset, max_tokens=1, ignore_eos=True)
    answers = [client.complete(request) for _ in range(NUM_PROBES)]
    return median(answer.wall_s - answer.first_token_s for answer in answers)


def _warm_up(workload: Workload) -> list[Block]:
    cases = tuple(Case(i, prompt, workload.temperatures[0]) for i, prompt in enumerate(workload.prompts[: workload.concurrency]))
    return [Block(preset, workload.temperatures[0], 0, 0, cases) for preset in workload.contestants]


def _run(block: Block, workload: Workload, client: Client, pool: ThreadPoolExecutor, clock: Clock) -> BlockResult:
    who = contestant(block.preset) if block.preset not in workload.peers else Contestant(block.preset)
    requests: Sequence[CompletionRequest] = [
        CompletionRequest(
            prompt=case.prompt,
            preset=who.preset,
            lookahead=who.lookahead or workload.lookahead,
            speculation=who.settings,
            max_tokens=workload.max_tokens,
            temperature=case.temperature,
            seed=case.seed,
            ignore_eos=True,
        )
        for case in block.cases
    ]
    before = client.counters()
    began = clock()
    completions = tuple(pool.map(client.complete, requests))
    wall_s = clock() - began
    return BlockResult(block, completions, wall_s, client.counters().since(before))

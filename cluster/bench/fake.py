"""A service and a peer in memory: they answer at once, exactly, and let the clock tell how long it took."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cluster.bench.cost import DRAFT_DEVICES, DRAFT_FLOPS_PER_NODE, TARGET_DEVICES, TARGET_FLOPS_PER_NODE
from cluster.bench.peer import Fork, PeerAnswer, PeerRequest, Setting
from cluster.bench.service import TARGET_PASS_SECONDS
from cluster.bench.summary import GAP_ON_HIT
from cluster.bench.totals import NAMES
from cluster.client import Account, Completion, CompletionRequest
from cluster.counters import Counters


def tokens_of(request: CompletionRequest | PeerRequest) -> list[int]:
    return [hash((request.prompt, request.temperature, request.seed, i)) for i in range(request.max_tokens)]


@dataclass
class FakeClient:
    """Emits `tokens_per_round[preset]` tokens in every round of `round_s` seconds, eight tenths of which are a pass of two nodes; meanwhile
    the draft evaluates ten, in half the time. Two targets of one device, one draft of two. Its `clock` is the one to measure with."""

    tokens_per_round: Mapping[str, int]
    round_s: float = 0.01
    wrong: tuple[str, int] | None = None
    """A preset and a seed that are answered otherwise: what the exactness check must find."""
    now: float = 0.0
    requests: list[CompletionRequest] = field(default_factory=list)
    num_rounds: int = 0

    def clock(self) -> float:
        return self.now

    def complete(self, request: CompletionRequest) -> Completion:
        assert request.preset is not None
        self.requests.append(request)
        per_round = self.tokens_per_round[request.preset]
        num_rounds = -(-request.max_tokens // per_round)
        num_drafts = num_rounds if per_round > 1 else 0
        wall_s = num_rounds * self.round_s
        self.now += wall_s
        self.num_rounds += num_rounds
        tokens = tokens_of(request)
        if self.wrong == (request.preset, request.seed):
            tokens[-1] += 1
        account = Account(
            num_rounds=num_rounds,
            num_drafts=num_drafts,
            num_draft_tokens=num_drafts * per_round,
            num_accepted_tokens=num_drafts * (per_round - 1),
            accepted_per_position=(num_drafts,) * (per_round - 1),
            draft_wait_s=0.001 * num_drafts,
        )
        return Completion(request.prompt, tuple(tokens), wall_s, self.round_s, account)

    def counters(self) -> Counters:
        rounds = float(self.num_rounds)
        gaps = {GAP_ON_HIT: {0.0005: rounds / 2, 0.001: rounds, float("inf"): rounds}}
        counted = {
            "rounds": rounds,
            "passes": rounds,
            "pass_nodes": 2 * rounds,
            "pass_s": 0.8 * self.round_s * rounds,
            "lookups": 4 * rounds,
            "hits": 3 * rounds,
            "growth_steps": 2 * rounds,
            "growth_nodes": 10 * rounds,
            "growth_busy_s": 0.5 * self.round_s * rounds,
        }
        totals = {NAMES[field]: amount for field, amount in counted.items()}
        alike = {TARGET_FLOPS_PER_NODE: 100.0, DRAFT_FLOPS_PER_NODE: 10.0, TARGET_DEVICES: 1.0, DRAFT_DEVICES: 2.0}
        return Counters(totals, alike, gaps, {TARGET_DEVICES: 2.0, DRAFT_DEVICES: 2.0}, {TARGET_PASS_SECONDS: {1: 0.007, 2: 0.008}})


@dataclass
class FakeModels:
    """A peer beside a FakeClient, on its clock. Needs `seconds(setting)` for an answer."""

    service: FakeClient
    seconds: Callable[[Setting], float] = lambda setting: 0.5
    wrong_prompt: str | None = None
    """Answered with another last token when greedy ..."""
    gap: float = 1e6
    """... this many roundings away; sampled answers are always others than the service's."""
    requests: list[PeerRequest] = field(default_factory=list)
    forks: list[Fork] = field(default_factory=list)

    def generate(self, request: PeerRequest) -> PeerAnswer:
        self.requests.append(request)
        wall_s = self.seconds(request.setting)
        self.service.now += wall_s
        tokens = tokens_of(request)
        if request.temperature or request.prompt == self.wrong_prompt:
            tokens[-1] += 1
        return PeerAnswer(request.prompt, tuple(tokens), wall_s / 10, request.max_tokens)

    def gap_roundings(self, fork: Fork) -> float:
        self.forks.append(fork)
        return self.gap

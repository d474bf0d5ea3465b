"""From block results to the rows of the table: medians of paired ratios, rates, cost. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from statistics import median

from cluster.bench.contestant import contestant
from cluster.bench.cost import Cost, cost
from cluster.bench.measure import BlockResult
from cluster.bench.peer import ASSISTED, PEERS
from cluster.bench.totals import Totals, totals
from cluster.client import Account, Completion
from cluster.counters import Buckets
from ssd_core.policies.submit import policy_of

GAP_ON_HIT = "ssd_verify_gap_on_hit_seconds"
WORK_ON_HIT = "ssd_verify_work_on_hit_seconds"

DECODE_SPEED: Callable[[BlockResult], float] = attrgetter("decode_tokens_per_s")


@dataclass(frozen=True, slots=True)
class Row:
    """One preset, or peer, at one temperature. None where there was nothing to divide by."""

    temperature: float
    preset: str
    num_requests: int
    num_tokens: int
    wall_s: float
    """Of all blocks together."""
    tokens_per_s: float
    """Median over blocks: over requests at concurrency 1."""
    ratio_to_ar: float | None
    """Median over prompts (blocks) of the ratio of speeds in the same group and repeat."""
    ratio_to_sd: float | None
    ratio_to_assisted: float | None
    """To the peer `hf-assisted`."""
    first_token_ms: float
    """Median over requests, at the target."""
    decode_tokens_per_s: float
    """Of one request after its first token; median over blocks."""
    decode_ratio_to_ar: float | None
    tokens_per_round: float | None
    speculated: float | None
    """Share of rounds that submitted a speculation; None where there were no rounds, or the preset never speculates."""
    hit_rate: float | None
    accepted_per_position: tuple[float, ...]
    """[i] = share of rounds with a speculation that accepted at least i + 1 of its tokens."""
    draft_wait_ms: float | None
    """Per round: time the session stood ready but waited for its draft."""
    cost: Cost | None
    """None of a peer; so are the totals: the service counts nothing of it."""
    totals: Totals | None
    gap_on_hit: Buckets
    """From the end of a verification to the launch of the next, when the outcome was in the store; one session running."""
    work_on_hit: Buckets
    """The CPU time of the loop's thread in it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Two presets, or two repeats of one, that answered the same request differently."""

    prompt_index: int
    temperature: float
    preset: str
    reference_preset: str
    position: int
    """First token that differs."""


def summarise(results: Sequence[BlockResult]) -> list[Row]:
    """Rows by temperature, presets in the order of their first block."""
    by_row: dict[tuple[float, str], list[BlockResult]] = defaultdict(list)
    for result in results:
        by_row[result.block.temperature, result.block.preset].append(result)
    return [_row(temperature, preset, own, by_row) for (temperature, preset), own in by_row.items()]


def differences(results: Iterable[BlockResult]) -> list[Difference]:
    """Empty when every preset and every repeat gave the same tokens for the same prompt, temperature and seed: the first preset's, whoever
    went first. Peers stand apart."""
    reference: dict[tuple[int, float], tuple[str, Completion]] = {}
    found: list[Difference] = []
    by_preset: dict[str, list[BlockResult]] = defaultdict(list)
    for result in results:
        by_preset[result.block.preset].append(result)
    for result in (result for preset, own in by_preset.items() if preset not in PEERS for result in own):
        for case, completion in zip(result.block.cases, result.completions, strict=True):
            preset, first = reference.setdefault((case.prompt_index, case.temperature), (result.block.preset, completion))
            if completion.token_ids != first.token_ids:
                position = _first_difference(completion.token_ids, first.token_ids)
                found.append(Difference(case.prompt_index, case.temperature, result.block.preset, preset, position))
    return found


def paired_ratio(
    own: Sequence[BlockResult], baseline: Sequence[BlockResult], speed: Callable[[BlockResult], float] = attrgetter("tokens_per_s")
) -> float | None:
    """Median over pairs of the same repeat and group of own speed / baseline speed."""
    speeds = {(result.block.repeat, result.block.group): speed(result) for result in baseline}
    ratios = [
        speed(result) / speeds[result.block.repeat, result.block.group]
        for result in own
        if (result.block.repeat, result.block.group) in speeds
    ]
    return median(ratios) if ratios else None


def _row(temperature: float, preset: str, own: Sequence[BlockResult], by_row: dict[tuple[float, str], list[BlockResult]]) -> Row:
    completions = [completion for result in own for completion in result.completions]
    accounts = [completion.account for completion in completions]
    num_tokens = sum(len(completion.token_ids) for completion in completions)
    num_rounds = sum(account.num_rounds for account in accounts)
    num_drafts = sum(account.num_drafts for account in accounts)
    wall_s = sum(result.wall_s for result in own)
    counters = [result.counters for result in own]
    sums = totals(counters)
    is_peer = preset in PEERS
    return Row(
        temperature=temperature,
        preset=preset,
        num_requests=len(completions),
        num_tokens=num_tokens,
        wall_s=wall_s,
        tokens_per_s=median(result.tokens_per_s for result in own),
        ratio_to_ar=paired_ratio(own, by_row.get((temperature, "ar"), ())),
        ratio_to_sd=paired_ratio(own, by_row.get((temperature, "sd"), ())),
        ratio_to_assisted=paired_ratio(own, by_row.get((temperature, ASSISTED), ())),
        first_token_ms=1000 * median(completion.first_token_s for completion in completions),
        decode_tokens_per_s=median(map(DECODE_SPEED, own)),
        decode_ratio_to_ar=paired_ratio(own, by_row.get((temperature, "ar"), ()), DECODE_SPEED),
        tokens_per_round=_share(num_tokens, num_rounds),
        speculated=_share(num_drafts, num_rounds) if not is_peer and policy_of(contestant(preset).preset).uses_draft else None,
        hit_rate=_share(sums.hits, sums.lookups),
        accepted_per_position=_per_position([account.accepted_per_position for account in accounts], num_drafts),
        draft_wait_ms=_draft_wait_ms(accounts),
        cost=None if is_peer else cost(counters, sums, num_tokens, wall_s, policy_of(contestant(preset).preset).uses_draft),
        totals=None if is_peer else sums,
        gap_on_hit=sum((result.counters.buckets(GAP_ON_HIT) for result in own), Buckets()),
        work_on_hit=sum((result.counters.buckets(WORK_ON_HIT) for result in own), Buckets()),
    )


def _draft_wait_ms(accounts: Sequence[Account]) -> float | None:
    """Per round; None where it is not known."""
    waits_s = [account.draft_wait_s for account in accounts if account.draft_wait_s is not None]
    return _share(1000 * sum(waits_s), sum(account.num_rounds for account in accounts)) if waits_s else None


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _per_position(columns: Sequence[Sequence[int]], num_drafts: int) -> tuple[float, ...]:
    if not num_drafts:
        return ()
    longest = max(len(column) for column in columns)
    return tuple(sum(column[i] for column in columns if i < len(column)) / num_drafts for i in range(longest))


def _first_difference(one: Sequence[int], other: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))

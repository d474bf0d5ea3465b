"""What the loop counts adds up."""

from __future__ import annotations

import itertools

import pytest

from ssd_core.loop_stats import LoopCounters, LoopStats
from ssd_core.store import SpeculationStore
from ssd_core.types import FinishReason
from tests.core.driver import drive, requests


def stats_of(preset: str, num_answers: int = 3, **speculation: object) -> LoopStats:
    stats = drive(requests(num_answers, preset, speculation=speculation)).stats
    assert stats is not None
    return stats


@pytest.mark.parametrize("preset", ["ssd", "saguaro", "ssd-tree"])
def test_every_round_but_a_sessions_first_began_with_a_hit_or_a_miss(preset: str) -> None:
    num_answers = 24  # over three, a tree's misses, which have backups, may by chance do as well as its hits
    stats = stats_of(preset, num_answers)
    assert (stats.hit_rounds, stats.miss_rounds) == (stats.hits, stats.lookups - stats.hits)
    assert stats.hit_rounds + stats.miss_rounds == stats.rounds - num_answers
    assert stats.hit_tokens / stats.hit_rounds > stats.miss_tokens / stats.miss_rounds >= 1


def test_after_a_miss_a_chain_preset_submits_nothing_and_gets_one_token() -> None:
    stats = stats_of("ssd")
    assert stats.miss_tokens == stats.miss_rounds > 0 == stats.miss_draft_tokens
    assert 0 < stats.hit_draft_tokens <= stats.draft_tokens


@pytest.mark.parametrize("preset", ["ar", "sd", "ssd"])
def test_a_sessions_drafts_are_the_rounds_that_submitted_nodes(preset: str) -> None:
    run = drive(requests(3, preset))
    accounts = [emission.stats for emission in run.last.values()]
    assert run.stats is not None and all(accounts)
    assert sum(account.num_drafts for account in accounts if account) == run.stats.drafts < run.stats.rounds


@pytest.mark.parametrize("preset", ["ar", "sd", "tree"])
def test_presets_that_look_nothing_up_have_neither_hits_nor_misses(preset: str) -> None:
    stats = stats_of(preset)
    assert stats.hit_rounds == stats.miss_rounds == stats.hit_tokens == stats.miss_tokens == 0


def test_only_where_it_is_waited_for_does_the_draft_get_a_turn() -> None:
    assert stats_of("sd").draft_turn_s > 0
    assert stats_of("saguaro", backup="wait").draft_turn_s > 0
    assert stats_of("saguaro", backup="ngram").draft_turn_s == stats_of("ssd").draft_turn_s == 0


@pytest.mark.parametrize(
    ("preset", "speculation", "backups"),
    [
        ("ssd", {}, {"none"}),
        ("ssd-tree", {"backup": "ngram"}, {"guess", "none"}),
        ("saguaro", {"backup": "wait"}, {"wait"}),
        ("ssd-tree", {}, {"wait", "guess", "none"}),
    ],
)
def test_every_miss_has_a_reason_and_a_backup(preset: str, speculation: dict[str, str], backups: set[str]) -> None:
    ticks = itertools.count()  # a tenth of a millisecond at each look at the clock: whether waiting pays hangs on time
    stats = drive(requests(3, preset, speculation=speculation, max_tokens=300), clock=lambda: next(ticks) * 1e-4).stats
    assert stats is not None
    num_misses = stats.lookups - stats.hits
    assert stats.misses_ungrown + stats.misses_unforeseen == sum(dict(stats.backups).values()) == num_misses
    assert {kind for kind, count in stats.backups if count} == backups


def test_a_miss_is_unforeseen_where_other_tokens_had_been_proposed() -> None:
    """After the root, token 5 was grown and proposed 7; token 6 was proposed and not grown."""
    for outcome, is_unforeseen in (
        ([4], True),
        ([6], False),
        ([5], False),
        ([5, 8], True),
        ([5, 7], False),
        ([5, 7, 8], False),
        ([], False),
    ):
        store = SpeculationStore(vocab_size=10)
        root = store.open("s", [1, 2, 3]).tree.root
        five = store["s"].tree.add(root, 5, 0.6)
        store["s"].tree.add(root, 6, 0.3)
        assert five is not None
        store["s"].tree.add(five, 7, 0.9)
        assert store.advance("s", outcome) == is_unforeseen, outcome


def test_a_requests_times_add_up() -> None:
    """In virtual time: seconds that nothing but passes takes."""
    stats = stats_of("ssd", 5)
    assert sum(stats.queue.counts) == sum(stats.first_token.counts) == sum(stats.request.counts) == sum(stats.token.counts) == 5
    assert 0 < stats.first_token.total_s < stats.request.total_s
    after_first_s = stats.request.total_s - stats.first_token.total_s
    assert stats.token.total_s == pytest.approx(after_first_s / 49), "of 50 tokens each"
    assert stats.prompt_tokens == sum(len(request.prompt) for request in requests(5, "ssd"))


def test_only_what_was_not_broken_off_has_a_duration() -> None:
    counters = LoopCounters()
    account = drive(requests(1, "ssd")).last["s0"].stats
    assert account is not None
    for reason in FinishReason:
        counters.count_end(reason, account, 2.0, max_tokens=100)
    assert dict(counters.finished) == {reason.value: 1 for reason in FinishReason}
    assert sum(counters.request.counts) == sum(counters.token.counts) == 2
    assert counters.length_share.value == account.num_tokens / 100 == 0.5, "whoever broke off might have gone on"


def test_passes_that_read_prompts_are_told_apart() -> None:
    counters = LoopCounters()
    counters.count_pass(100, 0.5, has_prompts=True)
    counters.count_pass(7, 0.01, has_prompts=False)
    assert (counters.passes, counters.pass_nodes, counters.pass_s) == (2, 107, 0.51)
    assert (counters.prompt_passes, counters.prompt_pass_nodes, counters.prompt_pass_s) == (1, 100, 0.5)

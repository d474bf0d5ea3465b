"""What the loop counts adds up."""

from __future__ import annotations

import pytest

from ssd_core.loop_stats import LoopCounters, LoopStats
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


def test_passes_that_read_prompts_are_told_apart() -> None:
    counters = LoopCounters()
    counters.count_pass(100, 0.5, has_prompts=True)
    counters.count_pass(7, 0.01, has_prompts=False)
    assert (counters.passes, counters.pass_nodes, counters.pass_s) == (2, 107, 0.51)
    assert (counters.prompt_passes, counters.prompt_pass_nodes, counters.prompt_pass_s) == (1, 100, 0.5)

"""Every formula against numbers computed by hand, and at its limits."""

from __future__ import annotations

import math

import pytest

from ssd_core.theory import (
    Backup,
    Scheme,
    accepted_tokens,
    chain_tokens,
    critical_batch,
    free_drafting_bound,
    gain_over_sd,
    sd_speed,
    ssd_speed,
    synchronous_speed,
)

NOTHING = Backup(1.0, 0.0)
NEURAL = Backup(3.0, 0.5)


@pytest.mark.parametrize(
    ("acceptance", "lookahead", "tokens"),
    [(0.8, 2, 1 + 0.8 + 0.64), (0.5, 1, 1.5), (0.5, 60, 2.0), (0.0, 5, 1.0), (1.0, 5, 6.0)],
)
def test_a_chain_gives_its_accepted_tokens_and_the_bonus(acceptance: float, lookahead: int, tokens: float) -> None:
    assert chain_tokens(acceptance, lookahead) == pytest.approx(tokens)
    assert accepted_tokens([acceptance ** (k + 1) for k in range(lookahead)]) == pytest.approx(tokens)


def test_without_a_speculation_a_round_gives_one_token() -> None:
    assert accepted_tokens([]) == 1


def test_taking_turns_costs_the_drafts_time() -> None:
    assert sd_speed(3.0, 0.5) == 2.0
    assert sd_speed(3.0, 0.0) == 3.0


@pytest.mark.parametrize(
    ("hit_rate", "growth_time", "backup", "speed"),
    [
        (0.8, 0.5, NOTHING, 3.4 / 1.0),  # 0.8 * 4 + 0.2 * 1 tokens in one verify
        (0.8, 1.0, NOTHING, 3.4),
        (0.8, 1.5, NOTHING, 3.4 / (0.8 * 1.5 + 0.2)),
        (0.8, 0.5, NEURAL, 3.8 / (0.8 + 0.2 * 1.5)),
        (1.0, 0.5, NEURAL, 4.0),
        (1.0, 2.0, NEURAL, 2.0),
        (0.0, 2.0, NEURAL, 2.0),
        (0.0, 2.0, NOTHING, 1.0),
    ],
)
def test_theorem_7(hit_rate: float, growth_time: float, backup: Backup, speed: float) -> None:
    assert ssd_speed(Scheme(hit_rate, 4.0, growth_time, backup)) == pytest.approx(speed)


def test_theorem_7_without_hits_and_with_a_neural_backup_is_sd() -> None:
    assert ssd_speed(Scheme(0.0, 4.0, 0.7, NEURAL)) == pytest.approx(sd_speed(NEURAL.tokens, NEURAL.time))


@pytest.mark.parametrize(
    ("batch", "speed"),
    [(1, 3.5 / (0.5 + 0.5 * 1.5)), (2, 3.5 / (0.25 + 0.75 * 1.5)), (1000, 3.5 / 1.5)],
)
def test_corollary_16(batch: int, speed: float) -> None:
    assert synchronous_speed(Scheme(0.5, 4.0, 0.9, NEURAL), batch) == pytest.approx(speed)


def test_a_batch_of_one_waits_for_nobody() -> None:
    scheme = Scheme(0.7, 4.0, 1.2, NEURAL)
    assert synchronous_speed(scheme, 1) == ssd_speed(scheme)


def test_a_backup_without_time_never_makes_a_batch_wait() -> None:
    scheme = Scheme(0.7, 4.0, 0.9, NOTHING)
    assert synchronous_speed(scheme, 32) == pytest.approx(ssd_speed(scheme))


def test_corollary_9() -> None:
    assert gain_over_sd(0.8, 4.0, 5.0, 0.5) == pytest.approx((1.5 / 1.1 * 0.8, 1.5 * 0.8))


def test_with_a_draft_that_takes_no_time_there_is_nothing_to_hide() -> None:
    assert gain_over_sd(0.3, 4.0, 4.0, 0.0) == (1.0, 1.0)


def test_when_everything_hits_all_of_the_drafts_time_is_hidden() -> None:
    assert gain_over_sd(1.0, 4.0, 4.0, 0.5) == (1.5, 1.5)


def test_the_bound_is_tokens_by_the_time_of_their_pass() -> None:
    assert free_drafting_bound(4.0, 0.02) == 200


@pytest.mark.parametrize(
    ("hit_rate", "growth_time", "slow", "batch"),
    [
        # N = 3.4 and 3.8, D(0) = 3.8 - 3.4 * 1.5 = -1.3, D(1) = 0.4
        (0.8, 0.5, Backup(3.0, 0.5), math.log(1.3 / 1.7) / math.log(0.8)),
        # the same with M = 2: D(1) = 0.8
        (0.8, 2.0, Backup(3.0, 0.5), math.log(1.3 / 2.1) / math.log(0.8)),
        (0.5, 0.5, Backup(3.0, 0.2), math.inf),  # D(0) = 3.5 - 2.5 * 1.2 > 0: worth its time even if all wait for it every round
        (1.0, 0.5, Backup(3.0, 5.0), math.inf),  # there are no misses
        (0.0, 0.5, Backup(3.0, 5.0), 0.0),  # every round waits, for two tokens more
        (0.8, 0.5, Backup(1.0, 0.5), 0.0),  # slower, and no better
    ],
)
def test_the_critical_batch(hit_rate: float, growth_time: float, slow: Backup, batch: float) -> None:
    assert critical_batch(hit_rate, 4.0, growth_time, fast=NOTHING, slow=slow) == pytest.approx(batch)


@pytest.mark.parametrize("growth_time", [0.5, 1.4])
@pytest.mark.parametrize("fast", [NOTHING, Backup(1.5, 0.1)])
def test_at_the_critical_batch_both_backups_are_equal_and_beyond_it_the_fast_one_wins(growth_time: float, fast: Backup) -> None:
    slow = Backup(3.0, 0.8)
    batch = critical_batch(0.85, 4.0, growth_time, fast=fast, slow=slow)
    assert 0 < batch < math.inf

    def lead_of_the_slow_one(size: float) -> float:
        of_slow, of_fast = (synchronous_speed(Scheme(0.85, 4.0, growth_time, backup), size) for backup in (slow, fast))
        return of_slow - of_fast

    assert lead_of_the_slow_one(batch) == pytest.approx(0)
    assert lead_of_the_slow_one(batch / 2) > 0 > lead_of_the_slow_one(2 * batch)


def test_the_slow_backup_is_the_slower_one() -> None:
    with pytest.raises(AssertionError):
        critical_batch(0.5, 4.0, 1.0, fast=NEURAL, slow=NOTHING)

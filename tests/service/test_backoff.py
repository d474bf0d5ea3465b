"""deployments/backoff.py"""

from __future__ import annotations

from deployments.backoff import FIRST_PAUSE_S, LONGEST_PAUSE_S, Backoff


def test_pauses_double_up_to_the_longest_and_each_ends() -> None:
    backoff, now, pauses = Backoff(), 100.0, []
    for _ in range(10):
        backoff.failed("d", now)
        began = now
        while not backoff.may_try("d", now):
            now += FIRST_PAUSE_S / 4
        pauses.append(now - began)
    for pause, expected in zip(pauses, (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 5.0), strict=True):
        assert expected <= pause < expected + FIRST_PAUSE_S


def test_a_draft_that_held_out_for_long_starts_anew_and_others_are_their_own() -> None:
    backoff = Backoff()
    for now in (0.0, 0.1, 0.3):
        backoff.failed("d", now)
    assert backoff.may_try("other", 0.3) and not backoff.may_try("d", 0.6)
    later = 0.3 + 4 * FIRST_PAUSE_S + LONGEST_PAUSE_S + 0.01
    backoff.failed("d", later)
    assert backoff.may_try("d", later + FIRST_PAUSE_S)

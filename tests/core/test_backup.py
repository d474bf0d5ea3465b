"""What a session does on a miss, and that nobody else pays for it."""

from __future__ import annotations

import math

import pytest

from ssd_core.average import Average
from ssd_core.draft_loop import DraftLoop
from ssd_core.engine.fake import FakeEngine
from ssd_core.lockstep import LockstepLink
from ssd_core.policies.backup import TRIAL_EVERY, ByBatch, ByGain, Miss, MissEstimates, Pause
from ssd_core.target_loop import TargetLoop
from ssd_core.types import Growth, GrowthReport
from tests.core.driver import drive, requests


def miss(num_sessions: int = 1, *, alone: float = 1.0, waited: float = 3.0, wait_s: float = 0.005, hits: float = 0.8) -> Miss:
    learned = MissEstimates(Average(hits), Average(4.0), Average(waited), Average(alone), Average(wait_s))
    return Miss(num_sessions, alone, 0.010, learned)


def test_as_published_small_batches_wait_and_large_ones_do_not() -> None:
    backup = ByBatch(num_levels=3, num_guesses=4)
    # Alone 0.8 * 4 + 0.2 * 1 = 3.4 tokens, after waits 3.8 in 1 + 0.5 (1 - .8^b) verifies: equal at .8^b = 1 - 0.2353, b = 1.2.
    assert backup.pause(miss(1)) == Pause(3, math.inf) and backup.pause(miss(2)) is None
    assert backup.pause(miss(64, wait_s=0.0)), "waiting that costs nothing pays in any batch"
    assert backup.pause(miss(1, alone=3.5)) is None, "guesses as good as the draft's are never waited for"


def test_a_session_waits_where_that_gains_more_tokens_than_its_time_is_worth() -> None:
    backup = ByGain(num_levels=2, num_guesses=4)
    # 0.8 * 4 + 0.2 * 1 = 3.4 tokens in 10 ms: 5 ms are worth 1.7 tokens, and waiting gains 2.
    assert backup.pause(miss()) == Pause(2, 0.010)
    assert backup.pause(miss(wait_s=0.007)) is None and backup.pause(miss(waited=2.5)) is None
    assert backup.pause(miss(alone=2.0)) is None, "where prompt look-up has good guesses, less is gained"


def test_now_and_then_the_other_way_is_tried() -> None:
    backup, one = ByGain(num_levels=2, num_guesses=4), miss(wait_s=0.007)
    chosen = [backup.pause(one) for _ in range(2 * TRIAL_EVERY)]
    assert len(chosen) - chosen.count(None) == 2


@pytest.mark.parametrize("backup", ["none", "ngram", "wait", "by-batch", "by-gain"])
@pytest.mark.parametrize("preset", ["ssd", "saguaro", "ssd-tree"])
def test_every_backup_gives_the_tokens_of_plain_decoding(preset: str, backup: str) -> None:
    plain = drive(requests(4, "ar", temperature=0.8))
    run = drive(requests(4, preset, temperature=0.8, speculation={"backup": backup}), draft=FakeEngine(seed=3, noise=0.8))
    assert run.tokens == plain.tokens
    assert run.stats.hits < run.stats.lookups


def test_a_session_that_waits_begins_with_what_its_draft_has_grown() -> None:
    def tokens_after_misses(backup: str) -> float:
        speculation = {"backup": backup, "backup_levels": 3}
        stats = drive(requests(1, "ssd", speculation=speculation, max_tokens=300), draft=FakeEngine(seed=3, noise=0.3)).stats
        return stats.miss_tokens / stats.miss_rounds

    assert tokens_after_misses("none") == 1.0
    assert tokens_after_misses("wait") > 2.0


class Late(LockstepLink):
    """What the draft says of one session is held back until `is_late` ends."""

    def __init__(self, draft: DraftLoop, session_id: str) -> None:
        super().__init__(draft)
        self.session_id = session_id
        self.is_late = True
        self.held: list[Growth] = []

    def poll_growth(self) -> list[GrowthReport]:
        growths = [*self.held, *(growth for report in super().poll_growth() for growth in report.growths)]
        self.held = [growth for growth in growths if growth.session_id == self.session_id and self.is_late]
        return [GrowthReport(tuple(growth for growth in growths if growth not in self.held))]


def test_a_session_that_waits_delays_no_other() -> None:
    links: list[Late] = []

    def make_link(draft: DraftLoop) -> Late:
        links.append(Late(draft, "s1"))
        return links[0]

    def on_round(loop: TargetLoop, num_rounds: int) -> None:
        links[0].is_late = loop.stats().finished == ()

    run = drive(requests(2, "ssd", speculation={"backup": "wait"}), make_link=make_link, on_round=on_round)
    of_session = [emission.session_id for emission in run.emissions]
    rounds = run.last["s0"].stats.num_rounds
    assert of_session.index("s1") < 2 and of_session[2 : rounds + 1] == ["s0"] * (rounds - 1), "one round, then it waited"
    assert run.tokens == drive(requests(2, "ar")).tokens

"""The constitution: speculative output equals plain decoding."""

from __future__ import annotations

import pytest

from ssd_core.config import PRESETS
from ssd_core.engine.fake import FakeEngine
from ssd_core.lockstep import LockstepLink
from tests.core.driver import drive, requests
from tests.core.scheduled_link import Fate, Schedule, ScheduledLink

SAMPLINGS = {
    "greedy": {},
    "greedy with penalties": {"repetition_penalty": 1.3, "frequency_penalty": 0.5, "presence_penalty": 0.2},
    "greedy with a bias": {"logit_bias": {3: 4.0, 9: -3.0}},
    "T=0.7": {"temperature": 0.7},
    "T=1": {"temperature": 1.0},
    "T=1, top-p and penalties": {"temperature": 1.0, "top_p": 0.9, "repetition_penalty": 1.2, "frequency_penalty": 0.3},
    "T=1.3, top-k, min-p": {"temperature": 1.3, "top_k": 8, "min_p": 0.05},
    "EOS and min_tokens": {"temperature": 1.0, "ignore_eos": False, "min_tokens": 4, "max_tokens": 60, "stop_token_ids": (11, 12)},
}
SPECULATIVE = [preset for preset in PRESETS if preset != "ar"]


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
@pytest.mark.parametrize("concurrency", [1, 8])
def test_every_preset_gives_the_tokens_of_plain_decoding(sampling: dict, concurrency: int) -> None:
    sampling = {"max_tokens": 50 if concurrency == 1 else 24, **sampling}
    plain = drive(requests(concurrency, "ar", **sampling))
    for preset in SPECULATIVE:
        run = drive(requests(concurrency, preset, **sampling))
        assert run.tokens == plain.tokens, preset
        assert {k: e.finish_reason for k, e in run.last.items()} == {k: e.finish_reason for k, e in plain.last.items()}
        assert run.stats.draft_tokens > 0 and run.stats.accepted > 0, "nothing was speculated: the test would show nothing"
        assert run.stats.rounds < plain.stats.rounds


@pytest.mark.parametrize("preset", SPECULATIVE)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_lost_late_and_repeated_messages_change_no_token_and_leave_some_speculation(preset: str, temperature: float) -> None:
    """Long sessions through one bad link; test_properties.py has every kind of link, with short ones."""
    sampling = {"temperature": temperature, "frequency_penalty": 0.2}
    plain = drive(requests(4, "ar", **sampling))
    bad = Schedule(
        fates=(Fate(), Fate(()), Fate((0, 0)), Fate((2,)), Fate(overtakes=True), Fate((1, 3)), Fate()), steps=(2, 0, 3, 1), losses=(15,)
    )
    run = drive(requests(4, preset, **sampling), make_link=lambda draft: ScheduledLink(draft, bad), draft_timeout_s=0.001)
    assert run.tokens == plain.tokens and run.stats.accepted > 0


BAD_TIMES = {
    "the draft is lost": Schedule(steps=(6,), losses=(6,), away=4),
    "nothing gets through": Schedule(fates=(*[Fate()] * 8, *[Fate(())] * 30, *[Fate()] * 1000), steps=(6,)),
    "an old opening comes once more": Schedule(fates=(Fate((0, 9)), *[Fate()] * 1000), steps=(6,)),
}


@pytest.mark.parametrize("preset", SPECULATIVE)
@pytest.mark.parametrize("schedule", BAD_TIMES.values(), ids=BAD_TIMES.keys())
def test_after_a_bad_time_speculation_is_as_good_as_before(preset: str, schedule: Schedule) -> None:
    plain = drive(requests(1, "ar", max_tokens=160))
    wanted = requests(1, preset, max_tokens=160)
    run = drive(wanted, make_link=lambda draft: ScheduledLink(draft, schedule), draft=FakeEngine(seed=3), draft_timeout_s=0.001)
    last = run.emissions[-10:-1]
    assert run.tokens == plain.tokens
    assert sum(len(emission.tokens) for emission in last) / len(last) > 3


@pytest.mark.parametrize("preset", SPECULATIVE)
@pytest.mark.parametrize("noise", [0.0, 5.0], ids=["perfect draft", "useless draft"])
def test_the_quality_of_the_draft_changes_speed_only(preset: str, noise: float) -> None:
    plain = drive(requests(3, "ar"))
    run = drive(requests(3, preset), draft=FakeEngine(seed=3, noise=noise))
    assert run.tokens == plain.tokens
    tokens_per_round = run.stats.tokens / run.stats.rounds
    assert tokens_per_round > 3 if noise == 0.0 else tokens_per_round < 2


def test_sizes_of_speculation_change_no_token() -> None:
    plain = drive(requests(2, "ar", temperature=0.8))
    for preset in SPECULATIVE:
        for speculation in ({"lookahead": 1, "tree_nodes": 1}, {"lookahead": 12, "tree_nodes": 40}, {"growth_limit": 3}, {"fan_out": 6}):
            run = drive(requests(2, preset, temperature=0.8, speculation=speculation))
            assert run.tokens == plain.tokens, (preset, speculation)


def test_presets_mix_in_one_batch() -> None:
    plain = drive(requests(len(PRESETS), "ar", temperature=0.9))
    mixed = [requests(len(PRESETS), preset, temperature=0.9)[i] for i, preset in enumerate(PRESETS)]
    assert drive(mixed).tokens == plain.tokens


def test_sessions_that_wait_for_room_get_the_same_tokens() -> None:
    plain = drive(requests(6, "ar"))
    assert drive(requests(6, "ssd-tree"), max_sessions=2).tokens == plain.tokens
    small = FakeEngine(seed=3, num_cells=180)
    assert drive(requests(6, "ssd-tree"), target=small).tokens == plain.tokens


def test_a_draft_without_room_costs_speed_only() -> None:
    plain = drive(requests(3, "ar"))
    for preset in SPECULATIVE:
        run = drive(requests(3, preset), draft=FakeEngine(seed=3, num_cells=20))
        assert run.tokens == plain.tokens and run.stats.accepted == 0, preset


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 5, 6, 7, 15, 16, 17])
def test_output_lengths_around_lookahead_and_chunk_boundaries(max_tokens: int) -> None:
    plain = drive(requests(4, "ar", max_tokens=max_tokens))
    assert all(len(tokens) == max_tokens for tokens in plain.tokens.values())
    for preset in SPECULATIVE:
        assert drive(requests(4, preset, max_tokens=max_tokens)).tokens == plain.tokens, preset


def test_a_stop_token_at_every_offset_inside_an_accepted_run_ends_the_output_there() -> None:
    plain = drive(requests(1, "ar")).tokens["s0"]
    for offset in range(1, 12):
        stop = plain[offset]
        end = plain.index(stop) + 1
        run = drive(requests(1, "ssd-tree", stop_token_ids=(stop,)), draft=FakeEngine(seed=3))
        assert run.tokens["s0"] == plain[:end]


def test_logprobs_are_those_of_plain_decoding() -> None:
    plain = drive(requests(2, "ar", temperature=0.8, logprobs=3))
    run = drive(requests(2, "ssd-tree", temperature=0.8, logprobs=3))
    for session_id in plain.tokens:
        ours = [p for e in run.emissions if e.session_id == session_id for p in e.logprobs]
        theirs = [p for e in plain.emissions if e.session_id == session_id for p in e.logprobs]
        assert [p.token for p in ours] == plain.tokens[session_id]
        assert ours == theirs


def test_growth_steps_deeper_than_one_round_are_kept() -> None:
    run = drive(requests(1, "ssd-tree", max_tokens=120), make_link=lambda draft: LockstepLink(draft, 6), draft=FakeEngine(seed=3))
    assert run.stats.hits / run.stats.lookups > 0.9

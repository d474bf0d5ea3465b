"""The planner against numbers computed by hand: a pass of n nodes takes 9 + n ms."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from ssd_core.config import PRESETS
from ssd_core.figures import Figures
from ssd_core.planner import Prediction, plan, rounds_of

AR = {"own_work_s": 0.002}
SD = {
    "nodes": 6, "own_work_s": 0.002, "acceptance": 0.8, "lookahead": 2,
    "draft_steps": 2, "draft_nodes": 2, "draft_step_s": 0.004, "message_s": 0.001,
}  # fmt: skip
SSD = {
    "nodes": 5, "own_work_s": 0.003, "hit_rate": 0.8, "tokens_after_hit": 4, "nodes_after_hit": 6,
    "draft_steps": 3, "draft_nodes": 9, "draft_step_s": 0.004,
}  # fmt: skip
TARGET = {"pass_nodes": [1, 10], "pass_s": [0.010, 0.019], "flops_per_node": 100, "devices": 2, "cost_per_device_hour": 3}
CONTENT: dict[str, Any] = {
    "target": TARGET,
    "draft": {"flops_per_node": 10, "cost_per_device_hour": 0.5},
    "presets": {"ar": AR, "sd": SD, "ssd": SSD},
    "prompt_tokens": 22, "prompt_s": 0.05, "output_tokens": 11, "request_s": 0.01,
}  # fmt: skip


def figures(concurrency: int = 1, draft: dict[str, Any] | None = None, **presets: dict[str, Any]) -> Figures:
    changed = {name: CONTENT["presets"].get(name, {}) | change for name, change in presets.items()}
    known = CONTENT["presets"] | changed
    return Figures.model_validate(CONTENT | {"presets": known, "concurrency": concurrency, "draft": CONTENT["draft"] | (draft or {})})


def predicted(preset: str, of: Figures) -> Prediction:
    return next(prediction for prediction in plan(of).predictions if prediction.preset == preset)


def test_plain_decoding_is_a_pass_and_our_own_work() -> None:
    ar = predicted("ar", figures())
    assert ar.rounds.tokens_per_s == pytest.approx(1 / 0.012)
    assert ar.tokens_per_s == pytest.approx(11 / (0.06 + 10 * 0.012))
    assert (ar.num_drafts, ar.draft_flops, ar.draft_held_s, ar.draft_busy_s) == (0, 0, 0, 0)
    assert ar.ratio_to_ar == 1


def test_taking_turns_adds_the_drafts_steps_and_messages() -> None:
    sd = predicted("sd", figures())
    assert sd.rounds.round_s == pytest.approx(0.015 + 0.002 + 2 * 0.005)
    assert sd.rounds.tokens == pytest.approx(2.44)


def test_every_preset_is_planned_for_if_it_is_known() -> None:
    known = {"ar": AR, "sd": SD, "tree": SD, "ssd": SSD, "saguaro": SSD, "ssd-tree": SSD}
    predictions = plan(Figures.model_validate(CONTENT | {"presets": known})).predictions
    assert tuple(prediction.preset for prediction in predictions) == PRESETS
    ssd, *others = predictions[3:]
    assert ssd.gain_over_sd is not None and [replace(other, preset="ssd") for other in others] == [ssd, ssd]


def test_growth_within_the_verify_is_hidden() -> None:
    ssd = predicted("ssd", figures())
    assert ssd.rounds.tokens_per_s == pytest.approx(3.4 / 0.017)
    assert ssd.tokens_per_s == pytest.approx(11 / (0.06 + 10 * 0.017 / 3.4)) == pytest.approx(100)
    assert ssd.ratio_to_ar == pytest.approx(100 / (11 / 0.18))
    assert ssd.ratio_to_sd == pytest.approx(100 / (11 / (0.06 + 10 * 0.027 / 2.44)))


def test_growth_beyond_the_verify_is_waited_for_on_a_hit() -> None:
    ssd = predicted("ssd", figures(ssd={"draft_step_s": 0.010}))
    assert ssd.rounds.round_s == pytest.approx(0.8 * 0.030 + 0.2 * 0.017)


def test_a_backup_is_waited_for_on_a_miss() -> None:
    ssd = predicted("ssd", figures(ssd={"backup_s": 0.010}))
    assert ssd.rounds.round_s == pytest.approx(0.8 * 0.017 + 0.2 * 0.027)


def test_the_bound_is_a_hits_tokens_by_its_pass() -> None:
    ssd = predicted("ssd", figures())
    assert ssd.rounds.bound_tokens_per_s == pytest.approx(4 / 0.015)
    assert ssd.share_of_bound == pytest.approx(0.75)


def test_a_pass_beside_a_busy_draft_takes_longer() -> None:
    assert rounds_of(figures(), figures(ssd={"pass_stretch": 1.5}).presets.ssd).pass_s == pytest.approx(0.021)


def test_prices_of_a_token_include_its_share_of_the_prompt() -> None:
    ssd = predicted("ssd", figures())
    assert ssd.target_flops == pytest.approx(100 * (5 / 3.4 + 2))
    assert ssd.draft_flops == pytest.approx(10 * (9 / 3.4 + 2))
    assert (ssd.target_held_s, ssd.draft_held_s) == pytest.approx((0.02, 0.01))
    assert ssd.target_busy_s == pytest.approx(2 * (0.014 / 3.4 + 0.05 / 11))
    assert ssd.draft_busy_s == pytest.approx(0.012 / 3.4)
    assert ssd.cost_per_million_tokens == pytest.approx((0.02 * 3 + 0.01 * 0.5) / 3600 * 1e6)


def test_sessions_share_a_pass_and_everyone_waits_for_every_prompt() -> None:
    ssd = predicted("ssd", figures(concurrency=2))
    verify_s = 0.019 + 2 * 0.003  # ten nodes
    assert ssd.rounds.round_s == pytest.approx(verify_s)
    assert ssd.tokens_per_s == pytest.approx(2 * 11 / (0.01 + 2 * 0.05 + 10 * verify_s / 3.4))
    assert ssd.target_busy_s == pytest.approx(2 * (0.019 / 2 / 3.4 + 0.05 / 11))


def test_while_some_wait_for_their_draft_the_others_are_verified() -> None:
    """Beyond ten nodes s sessions take 6 * 1.9 + 2 = 13.4 ms each; with a turn of 10 ms, 13.4 s + 10 = 4 * 13.4."""
    rounds = predicted("sd", figures(concurrency=4)).rounds
    assert rounds.sessions_per_pass == pytest.approx(43.6 / 13.4)
    assert rounds.round_s == pytest.approx(0.0436 + 0.010)


def test_a_pass_has_a_session_even_if_all_mostly_wait() -> None:
    assert predicted("sd", figures(concurrency=4, sd={"draft_step_s": 1.0})).rounds.sessions_per_pass == 1


def test_nothing_is_faster_than_its_bound_even_where_more_nodes_cost_more_than_they_give() -> None:
    ssd = predicted("ssd", figures(concurrency=8, ssd={"nodes_after_hit": 30}))
    assert ssd.rounds.bound_tokens_per_s == pytest.approx(3.4 / 0.076)
    assert ssd.share_of_bound < 1


def test_a_batch_that_waits_for_misses_is_slower_than_sessions_that_do_not() -> None:
    rounds = predicted("ssd", figures(concurrency=2, ssd={"backup_s": 0.025})).rounds
    assert rounds.tokens_per_s == pytest.approx(3.4 / (0.8 * 0.025 + 0.2 * 0.050))
    assert rounds.synchronous_tokens_per_s == pytest.approx(3.4 / (0.64 * 0.025 + 0.36 * 0.050))


@pytest.mark.parametrize(
    ("concurrency", "draft_step_s", "drafts"),
    # 4 sessions together 123 tokens/s: the draft is busy 12 or 36 ms for 3.4 of them
    [(1, 0.004, 1), (1, 0.1, 1), (4, 0.004, 1), (4, 0.012, 2), (4, 0.1, 4)],
)
def test_drafts_are_as_many_as_none_is_busier_than_always(concurrency: int, draft_step_s: float, drafts: int) -> None:
    assert predicted("ssd", figures(concurrency, ssd={"draft_step_s": draft_step_s})).num_drafts == drafts


def test_the_recommendation_goes_by_speed_or_by_cost() -> None:
    costly = figures(draft={"cost_per_device_hour": 100})
    assert plan(costly).recommended == plan(figures(), "cost").recommended == "ssd"
    assert plan(costly, "cost").recommended == "ar"


def test_the_paper_says_how_much_sd_may_gain_and_up_to_which_batch_misses_are_worth_a_wait() -> None:
    sd, ssd = (predicted(preset, figures()) for preset in ("sd", "ssd"))
    assert sd.gain_over_sd is None and sd.critical_batch is None
    turn = 0.010 / 0.017
    assert ssd.gain_over_sd == pytest.approx(((1 + turn) / (1 + 0.2 * turn) * 4 / 2.44, (1 + turn) * 4 / 2.44))
    fast, slow = 3.4, 0.8 * 4 + 0.2 * 2.44
    at_zero, at_one = slow - fast * (1 + turn), slow - fast
    assert ssd.critical_batch == pytest.approx(math.log(at_zero / (at_zero - at_one)) / math.log(0.8))


def test_without_sd_nothing_is_said_about_it() -> None:
    content = CONTENT | {"presets": {"ssd": SSD}}
    ssd = predicted("ssd", Figures.model_validate(content))
    assert ssd.ratio_to_sd is None and ssd.gain_over_sd is None and ssd.critical_batch is None


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"target": TARGET | {"pass_s": [0.01, -0.02]}}, "target.pass_s.1", "greater than 0"),
        ({"target": TARGET | {"pass_s": [0.01]}}, "target", "pass_s has 1 times for the 2 sizes"),
        ({"target": TARGET | {"pass_nodes": [10, 1]}}, "target.pass_nodes", "sizes must ascend"),
        ({"target": {"pass_nodes": [1]}}, "target.pass_s", "Field required"),
        ({"target": TARGET | {"devices": 0}}, "target.devices", "greater than 0"),
        ({"draft": {"flops_per_node": float("nan")}}, "draft.flops_per_node", "finite"),
        ({"draft": {"gpus": 1}}, "draft.gpus", "Extra inputs"),
        ({"presets": {"ssd-tree": SSD | {"hit_rate": 1.2}}}, "presets.ssd-tree.hit_rate", "less than or equal to 1"),
        ({"presets": {"ssd-tree": SSD | {"tokens_after_hit": 0.5}}}, "presets.ssd-tree.tokens_after_hit", "greater than or equal to 1"),
        ({"presets": {"ssd-tree": {k: v for k, v in SSD.items() if k != "hit_rate"}}}, "presets.ssd-tree.hit_rate", "Field required"),
        ({"presets": {"ssd-tree": SSD | {"acceptance": 0.5}}}, "presets.ssd-tree.acceptance", "Extra inputs"),
        ({"presets": {"sd": SD | {"lookahead": None}}}, "presets.sd", "either accepted_per_position is needed, or acceptance"),
        ({"presets": {"sd": SD | {"accepted_per_position": [0.5]}}}, "presets.sd", "either accepted_per_position is needed, or acceptance"),
        ({"presets": {"sd": SD | {"acceptance": -0.1}}}, "presets.sd.acceptance", "greater than or equal to 0"),
        ({"presets": {"xyz": {}}}, "presets.xyz", "Extra inputs"),
        ({"concurrency": 0}, "concurrency", "greater than or equal to 1"),
        ({"output_tokens": float("inf")}, "output_tokens", "finite"),
        ({"prompt_s": -1}, "prompt_s", "greater than or equal to 0"),
    ],
)  # fmt: skip
def test_a_bad_figure_is_named(change: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Figures.model_validate(CONTENT | change)
    (error,) = caught.value.errors()
    assert ".".join(map(str, error["loc"])) == field
    assert message in error["msg"]

"""From figures to what each preset would do: speed, bound, price, drafts. Pure; the formulas are in theory.py.

A session's round is a pass, the target's own work after it, and, where the preset waits, the draft's turn. Sessions that run at a time
share their passes; while some wait for their draft, the others are verified. A prompt is read once, and everybody waits for it. A miss is
its own session's affair (`ssd_speed`); what it would cost if the whole batch waited for it (`synchronous_speed`) is said beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ssd_core.config import PresetName
from ssd_core.figures import DraftedFigures, Figures, OverlapFigures, PlainFigures, TurnFigures
from ssd_core.theory import (
    Backup,
    Bounds,
    Scheme,
    critical_batch,
    free_drafting_bound,
    gain_over_sd,
    sd_speed,
    ssd_speed,
    synchronous_speed,
)

Preference = Literal["speed", "cost"]

BALANCING_STEPS = 30
"""Each brings the number of sessions in a pass closer, by turn / (verify + turn) at least: a verify grows no faster than its sessions."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """The rounds of one session."""

    tokens: float
    """Of one round. Mean."""
    round_s: float
    """From one launch to the next. Mean."""
    pass_s: float
    """The pass in it, ..."""
    sessions_per_pass: float
    """... which it shares with so many, itself included."""
    synchronous_tokens_per_s: float
    """Of a session, if the batch waited for every session's misses."""
    bound_tokens_per_s: float
    """Of a session, if drafting and everything but the pass took no time, and every look-up hit, where that is better."""

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.round_s


@dataclass(frozen=True, slots=True)
class Prediction:
    """Of one preset. Prices are for each emitted token."""

    preset: PresetName
    rounds: Rounds
    tokens_per_s: float
    """Of all sessions that run at a time, from request to answer."""
    ratio_to_ar: float
    ratio_to_sd: float | None
    target_flops: float
    draft_flops: float
    target_held_s: float
    """Device-seconds; so are the next three."""
    draft_held_s: float
    target_busy_s: float
    draft_busy_s: float
    cost_per_million_tokens: float
    num_drafts: int
    """Draft actors, each busy at most all of the time."""
    gain_over_sd: Bounds | None
    """Between these the paper puts the gain over `sd` after the first token."""
    critical_batch: float | None
    """In a batch that waits for misses: above so many sessions it is better to go on with what this preset has on a miss than to wait for a
    chain, as `sd` does."""

    @property
    def share_of_bound(self) -> float:
        return self.rounds.tokens_per_s / self.rounds.bound_tokens_per_s


@dataclass(frozen=True, slots=True)
class Plan:
    predictions: tuple[Prediction, ...]
    """In the order of PRESETS."""
    recommended: PresetName


def plan(figures: Figures, prefer: Preference = "speed") -> Plan:
    known = figures.presets
    presets: dict[PresetName, PlainFigures | None] = {
        "ar": known.ar,
        "sd": known.sd,
        "tree": known.tree,
        "ssd": known.ssd,
        "saguaro": known.saguaro,
        "ssd-tree": known.ssd_tree,
    }
    speeds = {preset: _request_speed(figures, own) for preset, own in presets.items() if own is not None}
    predictions = tuple(_predict(figures, preset, own, speeds) for preset, own in presets.items() if own is not None)
    if prefer == "speed":
        best = max(predictions, key=lambda prediction: prediction.tokens_per_s)
    else:
        best = min(predictions, key=lambda prediction: prediction.cost_per_million_tokens)
    return Plan(predictions, best.preset)


def rounds_of(figures: Figures, own: PlainFigures) -> Rounds:
    """The rounds of one of `figures.concurrency` sessions."""
    sessions = _sessions_per_pass(figures, own)
    verify_s = _verify_seconds(figures, own, sessions)
    tokens = speed = synchronous = 1.0
    if isinstance(own, TurnFigures):
        tokens = own.tokens_per_round
        speed = synchronous = sd_speed(tokens, own.turn_s / verify_s)
    elif isinstance(own, OverlapFigures):
        scheme = _scheme(own, verify_s)
        tokens = scheme.tokens_per_round
        speed, synchronous = ssd_speed(scheme), synchronous_speed(scheme, figures.concurrency)
    bound = free_drafting_bound(tokens, _pass_seconds(figures, own, figures.concurrency, own.nodes))
    if isinstance(own, OverlapFigures):
        hits_pass_s = _pass_seconds(figures, own, figures.concurrency, own.nodes_after_hit)
        bound = max(bound, free_drafting_bound(own.tokens_after_hit, hits_pass_s))
    return Rounds(
        tokens=tokens,
        round_s=tokens / speed * verify_s,
        pass_s=_pass_seconds(figures, own, sessions, own.nodes),
        sessions_per_pass=sessions,
        synchronous_tokens_per_s=synchronous / verify_s,
        bound_tokens_per_s=bound,
    )


def _pass_seconds(figures: Figures, own: PlainFigures, sessions: float, nodes: float) -> float:
    return own.pass_stretch * figures.target.step_times.at(sessions * nodes)


def _verify_seconds(figures: Figures, own: PlainFigures, sessions: float) -> float:
    """The unit of the theory's times: from a launch to when the next could be."""
    return _pass_seconds(figures, own, sessions, own.nodes) + sessions * own.own_work_s


def _sessions_per_pass(figures: Figures, own: PlainFigures) -> float:
    """All, or where they wait for the draft those that are not waiting: s = C V(s) / (V(s) + turn), V(s) being the verify of s sessions."""
    sessions = float(figures.concurrency)
    if isinstance(own, TurnFigures):
        for _ in range(BALANCING_STEPS):
            verify_s = _verify_seconds(figures, own, sessions)
            sessions = max(1.0, figures.concurrency * verify_s / (verify_s + own.turn_s))
    return sessions


def num_drafts(figures: Figures, own: PlainFigures, rounds: Rounds, tokens_per_s: float) -> int:
    """So many that none is busier than all of the time. One session never keeps more than one busy: growth ends with the round."""
    if not isinstance(own, DraftedFigures):
        return 0
    share = own.draft_steps * own.draft_step_s / rounds.tokens * tokens_per_s
    return max(1, math.ceil(min(share, figures.concurrency)))


def _scheme(own: OverlapFigures, verify_s: float) -> Scheme:
    growth_time = own.draft_steps * own.draft_step_s / verify_s
    return Scheme(own.hit_rate, own.tokens_after_hit, growth_time, Backup(own.tokens_after_miss, own.backup_s / verify_s))


def _request_speed(figures: Figures, own: PlainFigures) -> float:
    """Tokens/s of all sessions: each answer begins with the way here and the prompts of all, then come the rounds after the first token."""
    decode_s = (figures.output_tokens - 1) / rounds_of(figures, own).tokens_per_s
    return figures.concurrency * figures.output_tokens / (figures.request_s + figures.concurrency * figures.prompt_s + decode_s)


def _predict(figures: Figures, preset: PresetName, own: PlainFigures, speeds: dict[PresetName, float]) -> Prediction:
    target, draft, speed = figures.target, figures.draft, speeds[preset]
    rounds = rounds_of(figures, own)
    drafts = num_drafts(figures, own, rounds, speed)
    per_prompt = 1 / figures.output_tokens  # of what a prompt takes, each token bears
    drafted = own if isinstance(own, DraftedFigures) else DraftedFigures()
    draft_prompt_nodes = figures.prompt_tokens * per_prompt if drafts else 0.0
    target_held_s, draft_held_s = target.devices / speed, drafts * draft.devices / speed
    hourly = target_held_s * target.cost_per_device_hour + draft_held_s * draft.cost_per_device_hour
    return Prediction(
        preset=preset,
        rounds=rounds,
        tokens_per_s=speed,
        ratio_to_ar=speed / speeds["ar"],
        ratio_to_sd=speed / speeds["sd"] if "sd" in speeds else None,
        target_flops=target.flops_per_node * (own.nodes / rounds.tokens + figures.prompt_tokens * per_prompt),
        draft_flops=draft.flops_per_node * (drafted.draft_nodes / rounds.tokens + draft_prompt_nodes),
        target_held_s=target_held_s,
        draft_held_s=draft_held_s,
        target_busy_s=target.devices * (rounds.pass_s / rounds.sessions_per_pass / rounds.tokens + figures.prompt_s * per_prompt),
        draft_busy_s=draft.devices * drafted.draft_steps * drafted.draft_step_s / rounds.tokens,
        cost_per_million_tokens=hourly / 3600 * 1e6,
        num_drafts=drafts,
        gain_over_sd=_gain_over_sd(figures, own),
        critical_batch=_critical_batch(figures, own),
    )


def _sd_turn(figures: Figures) -> Backup | None:
    """A chain of `sd`, waited for: its tokens, and the draft's turn in units of its verify."""
    sd = figures.presets.sd
    if sd is None:
        return None
    rounds = rounds_of(figures, sd)
    return Backup(rounds.tokens, sd.turn_s / (rounds.round_s - sd.turn_s))


def _gain_over_sd(figures: Figures, own: PlainFigures) -> Bounds | None:
    turn = _sd_turn(figures)
    if turn is None or not isinstance(own, OverlapFigures):
        return None
    return gain_over_sd(own.hit_rate, own.tokens_after_hit, turn.tokens, turn.time)


def _critical_batch(figures: Figures, own: PlainFigures) -> float | None:
    turn = _sd_turn(figures)
    if turn is None or not isinstance(own, OverlapFigures):
        return None
    scheme = _scheme(own, _verify_seconds(figures, own, figures.concurrency))
    if scheme.backup.time > turn.time:
        return None  # what it has on a miss takes longer than a chain
    return critical_batch(scheme.hit_rate, scheme.hit_tokens, scheme.growth_time, fast=scheme.backup, slow=turn)

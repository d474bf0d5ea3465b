"""A plan as aligned text. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

from cluster.bench.table import aligned
from ssd_core.planner import Plan, Prediction

SPEED_HEADER = (
    "preset", "tokens/s", "vs ar", "vs sd", "then, each session", "if it waits for misses", "if drafting were free", "reached", "measured",
    "error",
)  # fmt: skip
COST_HEADER = (
    "preset", "drafts", "target MFLOP/tok", "draft MFLOP/tok", "target held ms/tok", "busy", "draft held ms/tok", "busy", "cost/M tokens",
)  # fmt: skip
LEGEND = """\
tokens/s: all sessions, from request to answer. then: after the first token; if a miss concerned its session alone, and if the whole batch
waited for it (Corollary 16). if drafting were free: tokens of a round by the time of its pass; `reached` is the share of that."""


def plan_text(plan: Plan, tokens_per_s: Mapping[str, float] | None = None) -> str:
    """`tokens_per_s`: measured, by preset; None: there is nothing to compare with."""
    known = tokens_per_s or {}
    speeds = [SPEED_HEADER, *(_speed_cells(prediction, known.get(prediction.preset)) for prediction in plan.predictions)]
    costs = [COST_HEADER, *map(_cost_cells, plan.predictions)]
    bounds = [line for prediction in plan.predictions if (line := _theory_line(prediction))]
    return "\n\n".join(part for part in (aligned(speeds), aligned(costs), "\n".join(bounds), f"recommended: {plan.recommended}") if part)


def _speed_cells(prediction: Prediction, measured: float | None) -> tuple[str, ...]:
    rounds = prediction.rounds
    return (
        prediction.preset,
        f"{prediction.tokens_per_s:.1f}",
        f"{prediction.ratio_to_ar:.2f}x",
        "-" if prediction.ratio_to_sd is None else f"{prediction.ratio_to_sd:.2f}x",
        f"{rounds.tokens_per_s:.1f}",
        f"{rounds.synchronous_tokens_per_s:.1f}",
        f"{rounds.bound_tokens_per_s:.1f}",
        f"{prediction.share_of_bound:.0%}",
        "-" if measured is None else f"{measured:.1f}",
        "-" if measured is None else f"{prediction.tokens_per_s / measured - 1:+.1%}",
    )


def _cost_cells(prediction: Prediction) -> tuple[str, ...]:
    return (
        prediction.preset,
        str(prediction.num_drafts),
        f"{prediction.target_flops / 1e6:.1f}",
        f"{prediction.draft_flops / 1e6:.1f}",
        f"{1e3 * prediction.target_held_s:.2f}",
        f"{1e3 * prediction.target_busy_s:.2f}",
        f"{1e3 * prediction.draft_held_s:.2f}",
        f"{1e3 * prediction.draft_busy_s:.2f}",
        f"{prediction.cost_per_million_tokens:.3g}",
    )


def _theory_line(prediction: Prediction) -> str:
    bounds, batch = prediction.gain_over_sd, prediction.critical_batch
    if bounds is None:
        return ""
    line = f"{prediction.preset}: gain over sd between {bounds.low:.2f} and {bounds.high:.2f} (Corollary 9, after the first token)"
    if batch is None:
        return line
    if math.isinf(batch):
        return line + "; a batch that waits for misses had better wait for a chain, whatever its size"
    return line + f"; a batch that waits for misses had better not wait for a chain above {batch:.1f} sessions"

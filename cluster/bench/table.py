"""The rows as aligned text. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from cluster.bench.cost import Cost
from cluster.bench.peer import ASSISTED
from cluster.bench.summary import Row
from cluster.counters import Buckets

HEADER = (
    "preset", "tokens/s", "vs ar", "vs sd", "first ms", "then tokens/s", "vs ar", "tok/round", "hits", "wait ms/round",
    "accepted at position 1, 2, ...",
)  # fmt: skip
COST_HEADER = (
    "preset", "tokens/s per device", "target MFLOP/tok", "draft MFLOP/tok", "target held ms/tok", "busy", "draft held ms/tok", "busy",
)  # fmt: skip
POSITIONS_SHOWN = 8
BAR_WIDTH = 40


def table(rows: Sequence[Row]) -> str:
    """For each temperature a block of speeds and a block of costs, the latter without peers."""
    parts = []
    for temperature, group in groupby(rows, key=lambda row: row.temperature):
        own = list(group)
        speeds = [HEADER, *map(_cells, own)]
        if any(row.ratio_to_assisted is not None for row in own):
            speeds = _with_column(speeds, [f"vs {ASSISTED}", *(number(row.ratio_to_assisted, "{:.2f}x") for row in own)], after="vs sd")
        costs = [COST_HEADER, *(_cost_cells(row.preset, row.cost) for row in own if row.cost is not None)]
        parts.append(f"temperature {temperature:g}\n" + aligned(speeds))
        parts.append(f"cost at temperature {temperature:g}\n" + aligned(costs))
    return "\n\n".join(parts)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; first and last to the left, the others to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    last = len(widths) - 1
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in (0, last) else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def histogram(buckets: Buckets) -> str:
    """One line for each bucket that holds something between the first and the last that does."""
    held = [i for i, count in enumerate(buckets.counts) if count]
    if not held:
        return "  (nothing observed)"
    most = max(buckets.counts)
    lines = []
    for i in range(held[0], held[-1] + 1):
        below = f"<= {1000 * buckets.bounds_s[i]:g} ms" if buckets.bounds_s[i] != float("inf") else "longer"
        count = buckets.counts[i]
        lines.append(f"  {below:>12}  {count:7.0f}  {'#' * round(BAR_WIDTH * count / most)}".rstrip())
    return "\n".join(lines)


def _with_column(lines: Sequence[tuple[str, ...]], cells: Sequence[str], after: str) -> list[tuple[str, ...]]:
    place = lines[0].index(after) + 1
    return [(*line[:place], cell, *line[place:]) for line, cell in zip(lines, cells, strict=True)]


def _cells(row: Row) -> tuple[str, ...]:
    positions = row.accepted_per_position[:POSITIONS_SHOWN]
    return (
        row.preset,
        f"{row.tokens_per_s:.1f}",
        number(row.ratio_to_ar, "{:.2f}x"),
        number(row.ratio_to_sd, "{:.2f}x"),
        f"{row.first_token_ms:.0f}",
        f"{row.decode_tokens_per_s:.1f}",
        number(row.decode_ratio_to_ar, "{:.2f}x"),
        number(row.tokens_per_round, "{:.2f}"),
        number(row.hit_rate, "{:.0%}"),
        number(row.draft_wait_ms, "{:.2f}"),
        " ".join(f".{round(100 * share):02d}" if round(100 * share) < 100 else "1.0" for share in positions) or "-",
    )


def _cost_cells(preset: str, cost: Cost) -> tuple[str, ...]:
    return (
        preset,
        number(cost.tokens_per_s_per_device, "{:.1f}"),
        number(cost.target_flops, "{:.1f}", 1e-6),
        number(cost.draft_flops, "{:.1f}", 1e-6),
        number(cost.target_held_s, "{:.2f}", 1e3),
        number(cost.target_busy_s, "{:.2f}", 1e3),
        number(cost.draft_held_s, "{:.2f}", 1e3),
        number(cost.draft_busy_s, "{:.2f}", 1e3),
    )


def number(value: float | None, form: str, scale: float = 1.0) -> str:
    return "-" if value is None else form.format(value * scale)

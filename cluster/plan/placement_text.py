"""A placement as aligned text. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from cluster.bench.table import aligned, number
from cluster.plan.placement import Part, PlacedDraft, PlacedGroup, Placement, Spare, Unplaced

GROUP_HEADER = ("target group", "spread over", "slowest link GB/s", "devices")
DRAFT_HEADER = ("draft", "serves", "distance", "message us", "of each device", "devices")
SPARE_HEADER = ("spare on", "empty devices", "free devices", "free GiB")
UNPLACED_HEADER = ("not placed", "number", "because")


def placement_text(placement: Placement) -> str:
    """Tables of groups, drafts, spare capacity (nodes alike that follow each other in one line), and what has no place."""
    tables = [
        _table(GROUP_HEADER, map(_group_cells, placement.groups)),
        _table(DRAFT_HEADER, map(_draft_cells, placement.drafts)),
        _table(SPARE_HEADER, (_spare_cells(list(alike)) for _, alike in groupby(placement.spare, key=_free))),
        _table(UNPLACED_HEADER, (_unplaced_cells(list(alike)) for _, alike in groupby(placement.unplaced, key=lambda own: own.reason))),
    ]
    return "\n\n".join([*filter(None, tables), _summary(placement)])


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, *rows]
    return aligned(lines) if len(lines) > 1 else ""


def _group_cells(group: PlacedGroup) -> tuple[str, ...]:
    return group.name, group.spread.words, number(group.gb_per_s, "{:g}"), _devices(group.parts)


def _draft_cells(draft: PlacedDraft) -> tuple[str, ...]:
    return draft.name, draft.serves, draft.distance.words, f"{draft.latency_us:g}", f"{draft.share:g}", _devices([draft.part])


def _devices(parts: Iterable[Part]) -> str:
    return "; ".join(f"{part.node}: {' '.join(map(str, part.devices))}" for part in parts)


def _free(spare: Spare) -> tuple[str, ...]:
    return str(spare.num_empty), f"{spare.devices:.3g}", f"{spare.memory_gib:.6g}"


def _spare_cells(alike: Sequence[Spare]) -> tuple[str, ...]:
    return _first_to_last([spare.node for spare in alike]), *(cell + (" each" if len(alike) > 1 else "") for cell in _free(alike[0]))


def _unplaced_cells(alike: Sequence[Unplaced]) -> tuple[str, ...]:
    return _first_to_last([own.name for own in alike]), str(len(alike)), alike[0].reason


def _first_to_last(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}"


def _summary(placement: Placement) -> str:
    placed, waiting = len(placement.groups) + len(placement.drafts), len(placement.unplaced)
    empty = sum(spare.num_empty for spare in placement.spare)
    return f"{placed} of {placed + waiting} placed; {empty} devices are empty"

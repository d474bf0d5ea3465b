"""Whether a measurement of a preset is one of its speculation at all: self-tuning turns that off where it does not pay. Pure."""

from __future__ import annotations

from collections.abc import Iterable

HARDLY = 0.05
"""Below this share of rounds that speculated, a preset's figures are those of plain decoding."""


def warnings(shares: Iterable[tuple[str, float, float | None]]) -> list[str]:
    """A line for each preset, temperature and share of rounds that speculated, where that is next to none.

    None: the preset does not speculate, or the share is not known."""
    return [
        f"warning: {preset} at temperature {temperature:g} speculated in {share:.1%} of its rounds: its figures are those of plain "
        "decoding. It had no draft, or its self-tuning found that none pays here: measure again, longer or with self_tuning=false"
        for preset, temperature, share in shares
        if share is not None and share < HARDLY
    ]

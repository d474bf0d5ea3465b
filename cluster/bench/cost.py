"""What a preset's speed takes: operations and time of devices, for each emitted token. Pure.

A device is a GPU where the service's configuration sets GPUs aside for a part, else a CPU core. *Held* is the devices' number times the
time on the clock, whether they work or not: what one pays for. *Busy* is the part of it in which they evaluate. Speculation buys speed
with the draft's device and with nodes that are thrown away; both are here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.bench.totals import Totals
from cluster.counters import Counters

TARGET_FLOPS_PER_NODE = "ssd_target_flops_per_node"
DRAFT_FLOPS_PER_NODE = "ssd_draft_flops_per_node"
TARGET_DEVICES = "ssd_target_devices"
DRAFT_DEVICES = "ssd_draft_devices"


@dataclass(frozen=True, slots=True)
class Cost:
    """For each emitted token. None where the service does not say what a node costs or what a part holds."""

    target_flops: float | None
    """All nodes the target evaluated, the prompt's included; attention left out."""
    draft_flops: float | None
    """All nodes the draft evaluated, the prompt's and those that were never submitted included."""
    target_held_s: float | None
    """Device-seconds of all target replicas."""
    draft_held_s: float | None
    """Device-seconds of all draft actors; zero for a preset that needs none: it could be served without."""
    target_busy_s: float | None
    """Device-seconds in passes."""
    draft_busy_s: float | None
    """Device-seconds in growth steps."""
    tokens_per_s_per_device: float | None
    """Of all devices the preset needs."""


def cost(counters: Sequence[Counters], sums: Totals, num_tokens: int, wall_s: float, uses_draft: bool) -> Cost:
    """Of `num_tokens` tokens that took `wall_s` seconds on the clock; `sums` are the totals of `counters`."""

    def most(values: list[float]) -> float | None:
        return max(values, default=None)

    def one(name: str) -> float | None:
        """What one process says: they are alike."""
        return most([stretch.largest[name] for stretch in counters if name in stretch.largest])

    def together(name: str) -> float | None:
        return most([stretch.gauges[name] for stretch in counters if name in stretch.gauges])

    def per_token(price: float | None, amount: float) -> float | None:
        return None if price is None else price * amount / num_tokens

    target_devices = together(TARGET_DEVICES)
    draft_devices = together(DRAFT_DEVICES) if uses_draft else 0.0
    devices = None if target_devices is None or draft_devices is None else target_devices + draft_devices
    return Cost(
        target_flops=per_token(one(TARGET_FLOPS_PER_NODE), sums.pass_nodes),
        draft_flops=per_token(one(DRAFT_FLOPS_PER_NODE), sums.growth_nodes),
        target_held_s=per_token(target_devices, wall_s),
        draft_held_s=per_token(draft_devices, wall_s),
        target_busy_s=per_token(one(TARGET_DEVICES), sums.pass_s),
        draft_busy_s=per_token(one(DRAFT_DEVICES), sums.growth_busy_s),
        tokens_per_s_per_device=num_tokens / wall_s / devices if devices else None,
    )

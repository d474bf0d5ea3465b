"""What stays the same whatever is measured: the models' price and pace, the devices, the way to the service and back. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.bench.cost import DRAFT_DEVICES, DRAFT_FLOPS_PER_NODE, TARGET_DEVICES, TARGET_FLOPS_PER_NODE
from cluster.bench.measure import BlockResult
from cluster.bench.peer import PEERS

TARGET_PASS_SECONDS = "ssd_target_pass_seconds"


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """None where the service does not say."""

    pass_nodes: tuple[int, ...]
    """Sizes of a target pass that the service measured at its start, ascending; empty where it does not say."""
    pass_s: tuple[float, ...]
    """... and their seconds."""
    target_flops_per_node: float | None
    draft_flops_per_node: float | None
    devices_per_target: float | None
    """Of one replica."""
    devices_per_draft: float | None
    """Of one actor."""
    num_targets: float | None
    request_s: float
    """What a request takes besides the target's work for it: HTTP and messages, both ways. Median."""


def service_facts(results: Sequence[BlockResult], request_s: float) -> ServiceFacts:
    """As the service said at the last block of a preset; blocks of peers know nothing of it."""
    counters = next(result.counters for result in reversed(results) if result.block.preset not in PEERS)
    times = counters.by_nodes.get(TARGET_PASS_SECONDS, {})
    each = counters.largest.get(TARGET_DEVICES)
    return ServiceFacts(
        pass_nodes=tuple(sorted(times)),
        pass_s=tuple(times[nodes] for nodes in sorted(times)),
        target_flops_per_node=counters.largest.get(TARGET_FLOPS_PER_NODE),
        draft_flops_per_node=counters.largest.get(DRAFT_FLOPS_PER_NODE),
        devices_per_target=each,
        devices_per_draft=counters.largest.get(DRAFT_DEVICES),
        num_targets=counters.gauges[TARGET_DEVICES] / each if each else None,
        request_s=request_s,
    )

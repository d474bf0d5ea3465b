"""Why a target group or a draft has no place, in words. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from cluster.plan.demand import ClusterConfig, Draft, Group, TargetsConfig, WantsConfig
from cluster.plan.packer import least_loss, spreads
from cluster.plan.packing import Packing
from cluster.plan.room import Room


def why_no_group(packing: Packing, wanted: ClusterConfig, group: Group) -> str:
    wants = group.wants
    if not any(wants.may_use(room.node) for room in packing.rooms):
        return _no_such_device(wants)
    if _has_place(packing.rooms, wanted, wants.model_copy(update={"min_gb_per_s": 0.0})):
        return f"the {wants.devices} devices that are free together are joined by links slower than {wants.min_gb_per_s:g} GB/s only"
    if not _has_place((Room.of(room.node) for room in packing.rooms), wanted, wants):
        return f"no {wants.devices} devices alike are joined by links of {wants.min_gb_per_s:g} GB/s or more, even where nothing is placed"
    free = Counter[str]()
    for room in packing.rooms:
        free[room.node.device_kind] += len(room.empty) if wants.may_use(room.node) else 0
    return (
        f"no {wants.devices} devices are free together; free in all: {', '.join(f'{num} {kind}' for kind, num in free.items() if num) or 0}"
    )


def why_no_draft(packing: Packing, draft: Draft) -> str:
    wants = draft.wants
    if draft.serves not in packing.groups:
        return "its target group has no place"
    nodes = [room.node for room in packing.rooms if wants.may_use(room.node)]
    if not nodes:
        return _no_such_device(wants)
    if wants.devices > max(node.num_devices for node in nodes):
        return f"no node has {wants.devices:g} such devices"
    if wants.devices >= 1:
        return f"no node has {wants.devices:g} such {'device' if wants.devices == 1 else 'devices'} free"
    return f"no such device has {wants.devices:g} of it and {wants.memory_gib:g} GiB free"


def _has_place(rooms: Iterable[Room], wanted: ClusterConfig, wants: TargetsConfig) -> bool:
    held = {room.node.position: room for room in rooms}
    return bool(least_loss(held.values(), wanted, wants, wants.devices)) or any(True for _ in spreads(held, wanted, wants))


def _no_such_device(wants: WantsConfig) -> str:
    return f"no node has {wants.device_kind or 'a device'} with {wants.memory_gib:g} GiB"

"""What is free on one node. A value: taking something gives another one.

Invariant: no device gives more than one device, nor more memory than it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cluster.plan.demand import DraftsConfig, TargetsConfig
from cluster.plan.topology import Node

SLACK = 1e-9
"""Three drafts of a third of a device each fit on one, however their sum is rounded."""


@dataclass(frozen=True, slots=True)
class Room:
    node: Node
    shares: tuple[float, ...]
    """[device]: the fraction that is free."""
    memory_gib: tuple[float, ...]
    """[device]: free memory."""
    empty: tuple[int, ...]
    """Devices that hold nothing, ascending."""
    targets: frozenset[int] = frozenset()
    """Devices that hold a part of a target group."""

    @classmethod
    def of(cls, node: Node) -> Room:
        num = node.num_devices
        return cls(node, (1.0,) * num, (node.memory_gib,) * num, tuple(range(num)))

    @property
    def free_devices(self) -> float:
        """Free fractions of all devices, added up."""
        return sum(share for share in self.shares if share > SLACK)

    @property
    def free_memory_gib(self) -> float:
        """Of devices of which something is free: where nothing is, memory is of no use."""
        return sum(memory_gib for share, memory_gib in zip(self.shares, self.memory_gib, strict=True) if share > SLACK)

    def has_devices(self, wants: TargetsConfig, num_devices: int) -> bool:
        """Whether so many of a group's devices can be here."""
        return (
            num_devices <= len(self.empty)
            and wants.may_use(self.node)
            and (num_devices == 1 or self.node.interconnect_gb_per_s >= wants.min_gb_per_s)
        )

    def with_group(self, wants: TargetsConfig, num_devices: int) -> tuple[Room, tuple[int, ...]]:
        """So many of a group's devices put here, and which they are."""
        assert self.has_devices(wants, num_devices), (self, wants, num_devices)
        devices = self.empty[:num_devices]
        left = self._less(devices, 1.0 - wants.share_for_drafts, wants.memory_gib)
        return replace(left, targets=self.targets.union(devices)), devices

    def devices_for(self, wants: DraftsConfig) -> tuple[int, ...] | None:
        """Where a draft had best be: on the fullest device that has room, but not beside a target if it can be helped."""
        if not wants.may_use(self.node):
            return None
        if wants.devices >= 1:
            num = int(wants.devices)
            return self.empty[:num] if num <= len(self.empty) else None
        fitting = [
            (device in self.targets, share, memory_gib, device)
            for device, (share, memory_gib) in enumerate(zip(self.shares, self.memory_gib, strict=True))
            if wants.devices <= share + SLACK and wants.memory_gib <= memory_gib + SLACK
        ]
        return (min(fitting)[-1],) if fitting else None

    def with_draft(self, wants: DraftsConfig, devices: Sequence[int]) -> Room:
        return self._less(devices, min(wants.devices, 1.0), wants.memory_gib)

    def without_draft(self, wants: DraftsConfig, devices: Sequence[int]) -> Room:
        return self._less(devices, -min(wants.devices, 1.0), -wants.memory_gib)

    def _less(self, devices: Sequence[int], share: float, memory_gib: float) -> Room:
        shares, memory = list(self.shares), list(self.memory_gib)
        for device in devices:
            shares[device] -= share
            memory[device] -= memory_gib
            assert shares[device] >= -SLACK and memory[device] >= -SLACK, (self, devices, share, memory_gib)
        empty = tuple(device for device, free in enumerate(shares) if free >= 1.0 - SLACK)
        return replace(self, shares=tuple(shares), memory_gib=tuple(memory), empty=empty)

"""What `ssd-serve plan --cluster` reads: a described cluster, and the target groups and drafts that it should hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator, model_validator

from cluster.plan.topology import Distance, NetworkConfig, Node, NodesConfig, expanded
from ssd_core.config import Config, FiniteFloat
from ssd_core.figures import Amount, Positive


class WantsConfig(Config):
    name: str = Field(min_length=1)
    """Of the model; what is placed is called NAME-0, NAME-1, ..."""
    memory_gib: Positive
    """On each device: weights, KV and what the engine works with, in 2^30 bytes."""
    device_kind: str | None = None
    """None: any, but one kind for all devices of a group."""

    def may_use(self, node: Node) -> bool:
        """Whether the node's devices would do, were they free."""
        return self.device_kind in (None, node.device_kind) and self.memory_gib <= node.memory_gib


class TargetsConfig(WantsConfig):
    """Replicas of one target, each a group of devices that works as one (tensor parallel)."""

    replicas: int = Field(default=1, ge=1)
    devices: int = Field(default=1, ge=1)
    """Of each group: the tensor-parallel size. A group on several nodes has the same number of devices on each."""
    min_gb_per_s: Amount = 20.0
    """A group is never spread over a slower link, within a node or between nodes. Every layer of every pass waits for this link: PCIe 4.0
    x16 and 200 Gb/s networks just do, 100 Gb/s do not."""
    share_for_drafts: Annotated[FiniteFloat, Field(ge=0, le=0.99)] = 0.0
    """Fraction of each of its devices that drafts may use. 0: no draft shares a device with it."""


class DraftsConfig(WantsConfig):
    """Draft actors of one kind. Give `count` or `per_target`."""

    target: str | None = None
    """The target that they serve; None: all targets."""
    per_target: int | None = Field(default=None, ge=1)
    """Drafts of each target group."""
    count: int | None = Field(default=None, ge=1)
    """Drafts in all, spread evenly over the target groups."""
    devices: Annotated[FiniteFloat, Field(ge=0.001)] = 1.0
    """Of each draft: a fraction of one device, or whole devices of one node."""

    @field_validator("devices")
    @classmethod
    def _is_a_fraction_or_whole(cls, devices: float) -> float:
        if devices > 1 and devices != int(devices):
            raise ValueError("more than one device must be whole devices")
        return devices

    @model_validator(mode="after")
    def _says_how_many(self) -> DraftsConfig:
        if (self.per_target is None) == (self.count is None):
            raise ValueError("either count is needed, or per_target")
        return self


@dataclass(frozen=True, slots=True)
class Group:
    """A target replica that wants a place."""

    name: str
    wants: TargetsConfig


@dataclass(frozen=True, slots=True)
class Draft:
    """A draft that wants a place."""

    name: str
    wants: DraftsConfig
    serves: str
    """Name of the group that it should be near to."""


class ClusterConfig(Config):
    """One YAML file."""

    nodes: tuple[NodesConfig, ...]
    network: NetworkConfig = Field(default=NetworkConfig(), validate_default=True)
    targets: tuple[TargetsConfig, ...]
    drafts: tuple[DraftsConfig, ...] = ()

    @field_validator("nodes", "targets")
    @classmethod
    def _has_one_at_least(cls, entries: tuple[Config, ...]) -> tuple[Config, ...]:
        if not entries:  # `min_length` would also complain where an entry is wrong, and so not counted
            raise ValueError("at least one is needed")
        return entries

    @field_validator("nodes")
    @classmethod
    def _have_names_of_their_own(cls, nodes: tuple[NodesConfig, ...]) -> tuple[NodesConfig, ...]:
        _refuse_twice(node.name for node in expanded(nodes))
        return nodes

    @field_validator("network")
    @classmethod
    def _joins_all_nodes(cls, network: NetworkConfig, info: ValidationInfo) -> NetworkConfig:
        nodes = expanded(info.data.get("nodes", ()))
        racks = {node.area(Distance.RACK): node for node in nodes}
        used = {a.distance(b) for a, b in combinations(racks.values(), 2)}
        if len(racks) < len(nodes):
            used.add(Distance.RACK)
        for distance in sorted(used):
            if network.link(distance) is None:
                raise ValueError(f"`{distance.name.lower()}` is missing, and there are nodes that it joins")
        return network

    @field_validator("targets")
    @classmethod
    def _are_told_apart(cls, targets: tuple[TargetsConfig, ...]) -> tuple[TargetsConfig, ...]:
        _refuse_twice(target.name for target in targets)
        return targets

    @field_validator("drafts")
    @classmethod
    def _serve_targets_that_are_there(cls, drafts: tuple[DraftsConfig, ...], info: ValidationInfo) -> tuple[DraftsConfig, ...]:
        if "targets" not in info.data:  # wrong themselves, and said to be
            return drafts
        targets = [target.name for target in info.data["targets"]]
        _refuse_twice([*targets, *(draft.name for draft in drafts)])
        for draft in drafts:
            if draft.target is not None and draft.target not in targets:
                raise ValueError(f"{draft.name} serves {draft.target!r}, which is no target")
        return drafts

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """In the order in which they are placed: what is hardest to place first."""
        targets = sorted(self.targets, key=lambda target: (-target.devices, *_pickiness(target)))
        return tuple(Group(f"{target.name}-{i}", target) for target in targets for i in range(target.replicas))

    @cached_property
    def all_drafts(self) -> tuple[Draft, ...]:
        """In the order in which they are placed: what is hardest to place first."""
        wanted = sorted(self.drafts, key=lambda draft: (-draft.devices, *_pickiness(draft)))
        return tuple(draft for wants in wanted for draft in self._drafts_of(wants))

    @cached_property
    def asked_kinds(self) -> frozenset[str]:
        """Kinds of devices that something asks for by name."""
        return frozenset(wants.device_kind for wants in (*self.targets, *self.drafts) if wants.device_kind is not None)

    def _drafts_of(self, wants: DraftsConfig) -> Iterable[Draft]:
        served = [group.name for group in self.groups if wants.target in (None, group.wants.name)]
        count = wants.count or (wants.per_target or 0) * len(served)
        # Evenly: the numbers of two groups differ by one at most.
        return (Draft(f"{wants.name}-{i}", wants, served[i * len(served) // count]) for i in range(count))


def _pickiness(wants: WantsConfig) -> tuple[float, bool]:
    return -wants.memory_gib, wants.device_kind is None


def _refuse_twice(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"the name {name!r} is there twice")
        seen.add(name)

"""A described cluster: its nodes, where they stand, and the links between them. Says what is there; decides nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from pydantic import Field

from ssd_core.config import Config
from ssd_core.figures import Amount, Positive

Area = tuple[str | int, ...]
"""Names nodes that are near to each other."""


class Distance(IntEnum):
    """How far apart two nodes are."""

    NODE = 0
    RACK = 1
    ZONE = 2
    CLUSTER = 3

    @property
    def words(self) -> str:
        return ("same node", "same rack", "same zone", "other zone")[self]


class LinkConfig(Config):
    """What joins two nodes."""

    gb_per_s: Positive
    """Each way, in 10^9 bytes a second."""
    latency_us: Amount = 0.0
    """Of a small message, in microseconds."""


class NetworkConfig(Config):
    """The links between nodes. One that no two nodes of the cluster use may be left out."""

    rack: LinkConfig | None = None
    """Between nodes of one rack."""
    zone: LinkConfig | None = None
    """Between racks of one zone."""
    cluster: LinkConfig | None = None
    """Between zones."""

    def link(self, distance: Distance) -> LinkConfig | None:
        """Between two nodes at this distance; None: they are one node, or the link was left out."""
        return (None, self.rack, self.zone, self.cluster)[distance]


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    position: int
    """In the order of the file."""
    device_kind: str
    num_devices: int
    memory_gib: float
    """Of each device."""
    interconnect_gb_per_s: float
    """Between any two of its devices."""
    zone: str
    rack: str
    """Its name says nothing outside its zone."""

    def distance(self, other: Node) -> Distance:
        if self.position == other.position:
            return Distance.NODE
        if self.zone != other.zone:
            return Distance.CLUSTER
        return Distance.RACK if self.rack == other.rack else Distance.ZONE

    def area(self, distance: Distance) -> Area:
        """What is no farther than `distance` from here: two nodes are in one area if and only if they are so near."""
        areas: tuple[Area, ...] = ((self.position,), (self.zone, self.rack), (self.zone,), ())
        return areas[distance]


class NodesConfig(Config):
    """Nodes that are alike."""

    name: str = Field(min_length=1)
    """Of the node, if there is one; several are called NAME-0, NAME-1, ..."""
    count: int = Field(default=1, ge=1)
    device_kind: str = Field(min_length=1)
    """`h100`, `l4`, `cpu`, ...: targets and drafts may ask for it."""
    num_devices: int = Field(ge=1)
    """Of each node."""
    memory_gib: Positive
    """Of each device, in 2^30 bytes."""
    interconnect_gb_per_s: Positive
    """From any device to any other of the node, each way, in 10^9 bytes a second: NVLink, PCIe, ..."""
    zone: str = "zone"
    rack: str = "rack"
    nodes_per_rack: int | None = Field(default=None, ge=1)
    """They fill racks of so many, called RACK-0, RACK-1, ...; None: all stand in one, called RACK."""

    def nodes(self, first_position: int) -> Iterator[Node]:
        for i in range(self.count):
            yield Node(
                name=self.name if self.count == 1 else f"{self.name}-{i}",
                position=first_position + i,
                device_kind=self.device_kind,
                num_devices=self.num_devices,
                memory_gib=self.memory_gib,
                interconnect_gb_per_s=self.interconnect_gb_per_s,
                zone=self.zone,
                rack=self.rack if self.nodes_per_rack is None else f"{self.rack}-{i // self.nodes_per_rack}",
            )


def expanded(entries: tuple[NodesConfig, ...]) -> tuple[Node, ...]:
    """Every node, in the order of the file: node i stands at position i."""
    nodes: list[Node] = []
    for entry in entries:
        nodes.extend(entry.nodes(len(nodes)))
    return tuple(nodes)

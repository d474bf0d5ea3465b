"""What is where: target groups and drafts on the nodes of a cluster, and which of two such states is better."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from cluster.plan.demand import ClusterConfig, Draft, Group
from cluster.plan.room import Room
from cluster.plan.topology import Distance, Node


class Score(NamedTuple):
    """The greater, the better: what comes first counts first."""

    num_placed: tuple[int, ...]
    """Groups of each target and drafts of each kind, in the order in which they are placed."""
    togetherness: int
    """Of the nodes of groups: 0 where each is on one node."""
    nearness: int
    """Of drafts to their groups: 0 where all are on the same node."""


@dataclass(frozen=True, slots=True)
class Held:
    """Devices of one node."""

    position: int
    devices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Packing:
    """Groups and drafts that are not in it have no place."""

    rooms: tuple[Room, ...]
    """[position of the node]"""
    groups: dict[str, tuple[Held, ...]] = field(default_factory=dict)
    """By name. The target's loop runs on the first node: drafts want to be near that."""
    drafts: dict[str, Held] = field(default_factory=dict)

    def home(self, group: str) -> Node:
        return self.rooms[self.groups[group][0].position].node

    def distance(self, draft: Draft) -> Distance:
        return self.home(draft.serves).distance(self.rooms[self.drafts[draft.name].position].node)

    def spread(self, group: str) -> Distance:
        """The longest way between two nodes of a group."""
        home = self.home(group)  # if any two are so far apart, one of them is as far from the first
        return max(home.distance(self.rooms[held.position].node) for held in self.groups[group])

    def with_nodes(self, nodes: Iterable[Node]) -> Packing:
        """The same, and empty nodes besides."""
        return Packing((*self.rooms, *map(Room.of, nodes)), self.groups, self.drafts)


def score(packing: Packing, wanted: ClusterConfig) -> Score:
    groups = groupby(wanted.groups, key=lambda group: group.wants.name)
    drafts = groupby(wanted.all_drafts, key=lambda draft: draft.wants.name)
    return Score(
        num_placed=(
            *(sum(group.name in packing.groups for group in alike) for _, alike in groups),
            *(sum(draft.name in packing.drafts for draft in alike) for _, alike in drafts),
        ),
        togetherness=-sum(packing.spread(group) for group in packing.groups),
        nearness=-sum(packing.distance(draft) for draft in wanted.all_drafts if draft.name in packing.drafts),
    )


def waiting_groups(packing: Packing, wanted: ClusterConfig) -> list[Group]:
    return [group for group in wanted.groups if group.name not in packing.groups]


def waiting_drafts(packing: Packing, wanted: ClusterConfig) -> list[Draft]:
    return [draft for draft in wanted.all_drafts if draft.name not in packing.drafts]

"""One way of packing target groups and drafts onto nodes, first to last; what has a place keeps it. Pure and deterministic.

A group goes to the one node where least is lost to others; where no node has room for it, to as near and as few nodes as have. Its drafts
are placed together with it, so that it goes where they find room too, or after all groups, as near to it as is still free.
"""

from __future__ import annotations

from collections import ChainMap, defaultdict, deque
from collections.abc import Container, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from cluster.plan.demand import ClusterConfig, Draft, DraftsConfig, Group, TargetsConfig
from cluster.plan.packing import Held, Packing, waiting_groups
from cluster.plan.room import Room
from cluster.plan.topology import Area, Distance, Node


@dataclass(frozen=True, slots=True)
class Way:
    """The choices that a packing leaves open."""

    num_together: int
    """So many groups, the first, get their drafts with them: beside them where that is possible, before other targets in any case."""
    is_near_first: bool
    """Of drafts placed after the groups: those that find room on their group's node come first, then those that find it in its rack, and
    so on. Else they come in their order, each as near as it gets."""


def packed(start: Packing, wanted: ClusterConfig, way: Way) -> Packing:
    """`start` and whatever else finds room."""
    bench = _Bench(start, wanted)
    together = {group.name for group in wanted.groups[: way.num_together]}
    for _, alike in groupby(waiting_groups(start, wanted), key=lambda group: group.wants.name):
        waiting = list(alike)
        left_over = bench.place_with_drafts([group for group in waiting if group.name in together])
        left_over += [group for group in waiting if group.name not in together]
        bench.place_spread(bench.place_whole(left_over), together)
    for within in Distance if way.is_near_first else (Distance.CLUSTER,):
        bench.place_drafts(wanted.all_drafts, within)
    return bench.packing


def least_loss(rooms: Iterable[Room], wanted: ClusterConfig, wants: TargetsConfig, num_devices: int) -> list[int]:
    """Positions of the nodes that have so many devices for a group, in the order of what is lost to others: nodes with devices that
    nothing asks for by name before others, small memory before large, slow interconnects before fast, full nodes before empty ones."""
    fitting = [room for room in rooms if room.has_devices(wants, num_devices)]
    fitting.sort(
        key=lambda room: (
            wants.device_kind is None and room.node.device_kind in wanted.asked_kinds,
            room.node.memory_gib,
            room.node.interconnect_gb_per_s,
            len(room.empty),
            room.node.position,
        )
    )
    return [room.node.position for room in fitting]


def spreads(rooms: Mapping[int, Room], wanted: ClusterConfig, wants: TargetsConfig) -> Iterator[list[int]]:
    """Nodes with one kind of device that have room for a group together, the same number of devices on each: the nearest to each other
    come first, then the fewest. Of these nodes the emptiest is the first: drafts want to be there. Looks at `rooms` again after each."""
    for distance in (Distance.RACK, Distance.ZONE, Distance.CLUSTER):
        link = wanted.network.link(distance)
        if link is None or link.gb_per_s < wants.min_gb_per_s:
            continue
        alike = defaultdict(list)
        for position, room in rooms.items():
            alike[room.node.area(distance), room.node.device_kind].append(position)
        for num_nodes in (num for num in range(2, wants.devices + 1) if wants.devices % num == 0):
            for near in alike.values():
                while len(found := least_loss((rooms[i] for i in near), wanted, wants, wants.devices // num_nodes)) >= num_nodes:
                    yield sorted(found[:num_nodes], key=lambda position: (-len(rooms[position].empty), position))


def areas_of(nodes: Iterable[Node]) -> dict[Area, list[int]]:
    """Positions of the nodes of every area."""
    areas = defaultdict(list)
    for node in nodes:
        for distance in Distance:
            areas[node.area(distance)].append(node.position)
    return areas


def outward(areas: Mapping[Area, Sequence[int]], home: Node, within: Distance) -> Iterator[int]:
    """Positions of all nodes no farther than this, the nearest first; some more than once."""
    for distance in Distance:
        if distance <= within:
            yield from areas[home.area(distance)]


def first_with_room(rooms: Mapping[int, Room], positions: Iterable[int], wants: DraftsConfig) -> Held | None:
    for position in positions:
        devices = rooms[position].devices_for(wants)
        if devices is not None:
            return Held(position, devices)
    return None


def take_group(rooms: MutableMapping[int, Room], wants: TargetsConfig, positions: Sequence[int]) -> tuple[Held, ...]:
    """The same number of devices on each of these nodes."""
    held = []
    for position in positions:
        rooms[position], devices = rooms[position].with_group(wants, wants.devices // len(positions))
        held.append(Held(position, devices))
    return tuple(held)


def take_draft(rooms: MutableMapping[int, Room], wants: DraftsConfig, held: Held) -> None:
    rooms[held.position] = rooms[held.position].with_draft(wants, held.devices)


class _Bench:
    """A packing while it is made. Rooms only shrink."""

    def __init__(self, start: Packing, wanted: ClusterConfig) -> None:
        self._rooms = dict(enumerate(start.rooms))
        self._groups = dict(start.groups)
        self._drafts = dict(start.drafts)
        self._wanted = wanted
        self._areas = areas_of(room.node for room in start.rooms)
        self._drafts_of = defaultdict[str, list[Draft]](list)
        for draft in wanted.all_drafts:
            self._drafts_of[draft.serves].append(draft)

    @property
    def packing(self) -> Packing:
        return Packing(tuple(self._rooms.values()), self._groups, self._drafts)

    def place_with_drafts(self, groups: Sequence[Group]) -> list[Group]:
        """Groups alike, each on one node, with all their drafts: on that node, else in its rack, else in its zone. Returns the others."""
        waiting = deque(groups)
        for within in (Distance.NODE, Distance.RACK, Distance.ZONE):
            full: set[Area] = set()  # that had no room for the drafts of one more group
            for home in self._homes(waiting):
                area = self._rooms[home].node.area(within)
                while waiting and area not in full and self._rooms[home].has_devices(waiting[0].wants, waiting[0].wants.devices):
                    if self._is_placed_with_drafts(waiting[0], home, within):
                        waiting.popleft()
                    else:
                        full.add(area)
        return list(waiting)

    def place_whole(self, groups: Sequence[Group]) -> list[Group]:
        """Groups alike, each on one node. Returns those for which none has room."""
        waiting = deque(groups)
        for home in self._homes(waiting):
            while waiting and self._rooms[home].has_devices(waiting[0].wants, waiting[0].wants.devices):
                group = waiting.popleft()
                self._groups[group.name] = take_group(self._rooms, group.wants, [home])
        return list(waiting)

    def place_spread(self, groups: Sequence[Group], together: Container[str]) -> None:
        """Groups alike, each over several nodes, as far as there are such nodes; each of those `together` is followed by its drafts."""
        if groups:
            for group, positions in zip(groups, spreads(self._rooms, self._wanted, groups[0].wants), strict=False):
                self._groups[group.name] = take_group(self._rooms, group.wants, positions)
                if group.name in together:
                    self.place_drafts(self._drafts_of[group.name], Distance.CLUSTER)

    def place_drafts(self, drafts: Iterable[Draft], within: Distance) -> None:
        """Those whose group has a place, each as near to it as there is room, but no farther than this."""
        perhaps: dict[tuple[str, Area], deque[int]] = {}  # by kind of draft and area: nodes that may have room for one more
        for draft in drafts:
            if draft.name in self._drafts or draft.serves not in self._groups:
                continue
            home = self._rooms[self._groups[draft.serves][0].position].node
            for area in (home.area(distance) for distance in Distance if distance <= within):
                key = draft.wants.name, area
                if key not in perhaps:
                    perhaps[key] = deque(self._areas[area])
                if held := self._take_first(draft.wants, perhaps[key]):
                    self._drafts[draft.name] = held
                    break

    def _homes(self, waiting: Sequence[Group]) -> list[int]:
        if not waiting:
            return []
        wants = waiting[0].wants
        return least_loss(self._rooms.values(), self._wanted, wants, wants.devices)

    def _is_placed_with_drafts(self, group: Group, home: int, within: Distance) -> bool:
        """All or nothing."""
        rooms = ChainMap[int, Room]({}, self._rooms)
        held = take_group(rooms, group.wants, [home])
        drafts: dict[str, Held] = {}
        for draft in self._drafts_of[group.name]:
            found = first_with_room(rooms, outward(self._areas, self._rooms[home].node, within), draft.wants)
            if found is None:
                return False
            take_draft(rooms, draft.wants, found)
            drafts[draft.name] = found
        self._rooms.update(rooms.maps[0])
        self._groups[group.name] = held
        self._drafts.update(drafts)
        return True

    def _take_first(self, wants: DraftsConfig, perhaps: deque[int]) -> Held | None:
        """Of these nodes, the first with room. Those before it will never have any again, and are dropped."""
        while perhaps:
            if found := first_with_room(self._rooms, [perhaps[0]], wants):
                take_draft(self._rooms, wants, found)
                return found
            perhaps.popleft()
        return None

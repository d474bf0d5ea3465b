"""Which node and devices hold which target group and which drafts. Pure and deterministic: of several packings, the best.

Guaranteed: no device gives more than it has; no group is spread over a link slower than it allows, nor over several nodes while one had
room for it when it was placed; no draft could be moved nearer to its group, as things are; what has no place is named, with the reason; and
an entry added at the end of `nodes` never makes it place less (`Score.num_placed`).

Not guaranteed: that nothing more could be placed, or nearer. Packing is hard (it is bin packing, with memory as a second size), and this
is best fit, the largest first, tried with more and with fewer groups that keep room for their drafts beside them. What comes first, larger
groups before smaller ones and all groups before drafts, is never given up for what comes later.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from cluster.plan.demand import ClusterConfig, Draft
from cluster.plan.packer import Way, areas_of, first_with_room, outward, packed, take_draft
from cluster.plan.packing import Held, Packing, score, waiting_drafts, waiting_groups
from cluster.plan.refusal import why_no_draft, why_no_group
from cluster.plan.topology import Distance, expanded


@dataclass(frozen=True, slots=True)
class Part:
    """Devices of one node that hold a group, some of it, or a draft."""

    node: str
    devices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PlacedGroup:
    name: str
    parts: tuple[Part, ...]
    """The target's loop runs on the first."""
    spread: Distance
    """The longest way between two of its nodes."""
    gb_per_s: float | None
    """Of the slowest link between its devices; None: there is one device only."""


@dataclass(frozen=True, slots=True)
class PlacedDraft:
    name: str
    serves: str
    part: Part
    share: float
    """Fraction of each device that it holds."""
    distance: Distance
    """From the first node of the group that it serves."""
    latency_us: float
    """Of a message to there; 0 within a node."""


@dataclass(frozen=True, slots=True)
class Spare:
    """What is free on a node."""

    node: str
    num_empty: int
    """Devices that hold nothing."""
    devices: float
    """Free fractions of all its devices, added up."""
    memory_gib: float
    """Free memory, added up, of the devices of which something is free."""


@dataclass(frozen=True, slots=True)
class Unplaced:
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Placement:
    """Every group and draft is in it once: placed, or unplaced with the reason."""

    groups: tuple[PlacedGroup, ...]
    drafts: tuple[PlacedDraft, ...]
    spare: tuple[Spare, ...]
    """Of every node, in the order of the file."""
    unplaced: tuple[Unplaced, ...]


def place(wanted: ClusterConfig) -> Placement:
    """Takes time in proportion to the entries of `nodes` where not everything finds a place."""
    return _told(_decided(wanted), wanted)


def _decided(wanted: ClusterConfig) -> Packing:
    nodes = expanded(wanted.nodes)
    afresh = _best(Packing(()).with_nodes(nodes), wanted)
    if not waiting_groups(afresh, wanted) and not waiting_drafts(afresh, wanted):
        return afresh
    # Entry by entry, keeping what the entries before it held unless planning afresh does better: so one more never places less.
    kept = Packing(())
    for num_nodes in accumulate(entry.count for entry in wanted.nodes):
        fresh = afresh if num_nodes == len(nodes) else _best(Packing(()).with_nodes(nodes[:num_nodes]), wanted)
        extended = _best(kept.with_nodes(nodes[len(kept.rooms) : num_nodes]), wanted) if kept.rooms else fresh
        kept = _better(wanted, fresh, extended)
    return kept


def _best(start: Packing, wanted: ClusterConfig) -> Packing:
    """`start` and what else finds room: with as many groups as possible together with their drafts, but none left out for it."""

    def tried(num_together: int) -> Packing:
        return _better(wanted, *(packed(start, wanted, Way(num_together, is_near_first)) for is_near_first in (True, False)))

    def is_worse(packing: Packing) -> bool:
        """For the sake of near drafts something is left out, or a group spread."""
        return score(packing, wanted)[:2] < score(apart, wanted)[:2]

    apart, together = tried(0), tried(len(wanted.groups))
    best = _better(wanted, apart, together)
    if is_worse(together):
        enough, too_many = 0, len(wanted.groups)
        while too_many - enough > 1:
            middle = (enough + too_many) // 2
            packing = tried(middle)
            if is_worse(packing):
                too_many = middle
            else:
                enough, best = middle, _better(wanted, best, packing)
    return _settled(best, wanted)


def _better(wanted: ClusterConfig, *packings: Packing) -> Packing:
    """The first of the best."""
    return max(packings, key=lambda packing: score(packing, wanted))


def _settled(packing: Packing, wanted: ClusterConfig) -> Packing:
    """Drafts moved nearer to their groups until none can be, and what is left free by that taken by what waits."""
    while (nearer := packed(_drawn_nearer(packing, wanted), wanted, Way(0, is_near_first=True))) != packing:
        packing = nearer
    return packing


def _drawn_nearer(packing: Packing, wanted: ClusterConfig) -> Packing:
    rooms, drafts = dict(enumerate(packing.rooms)), dict(packing.drafts)
    areas = areas_of(room.node for room in packing.rooms)
    for draft in wanted.all_drafts:
        if draft.name not in drafts or not (distance := packing.distance(draft)):
            continue
        if found := first_with_room(rooms, outward(areas, packing.home(draft.serves), Distance(distance - 1)), draft.wants):
            held = drafts[draft.name]
            rooms[held.position] = rooms[held.position].without_draft(draft.wants, held.devices)
            take_draft(rooms, draft.wants, found)
            drafts[draft.name] = found
    return Packing(tuple(rooms.values()), packing.groups, drafts)


def _told(packing: Packing, wanted: ClusterConfig) -> Placement:
    """By names instead of positions."""

    def part(held: Held) -> Part:
        return Part(packing.rooms[held.position].node.name, held.devices)

    def group(name: str) -> PlacedGroup:
        held, spread = packing.groups[name], packing.spread(name)
        rates = [packing.rooms[each.position].node.interconnect_gb_per_s for each in held if len(each.devices) > 1]
        if link := wanted.network.link(spread):
            rates.append(link.gb_per_s)
        return PlacedGroup(name, tuple(map(part, held)), spread, min(rates, default=None))

    def draft(own: Draft) -> PlacedDraft:
        distance = packing.distance(own)
        link = wanted.network.link(distance)
        share = min(own.wants.devices, 1.0)
        return PlacedDraft(own.name, own.serves, part(packing.drafts[own.name]), share, distance, link.latency_us if link else 0.0)

    return Placement(
        groups=tuple(group(own.name) for own in wanted.groups if own.name in packing.groups),
        drafts=tuple(draft(own) for own in wanted.all_drafts if own.name in packing.drafts),
        spare=tuple(Spare(room.node.name, len(room.empty), room.free_devices, room.free_memory_gib) for room in packing.rooms),
        unplaced=(
            *(Unplaced(own.name, why_no_group(packing, wanted, own)) for own in waiting_groups(packing, wanted)),
            *(Unplaced(own.name, why_no_draft(packing, own)) for own in waiting_drafts(packing, wanted)),
        ),
    )

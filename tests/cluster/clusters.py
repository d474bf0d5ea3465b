"""Described clusters for tests: made up, counted anew, and placed the slow way."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import combinations
from typing import Any

from hypothesis import strategies as st

from cluster.plan.demand import ClusterConfig, DraftsConfig, TargetsConfig
from cluster.plan.placement import Part, Placement
from cluster.plan.topology import Distance, Node, expanded

NETWORK = {
    "rack": {"gb_per_s": 50, "latency_us": 10},
    "zone": {"gb_per_s": 12, "latency_us": 30},
    "cluster": {"gb_per_s": 1, "latency_us": 900},
}


def nodes(count: int = 1, **changed: Any) -> dict[str, Any]:
    return {"name": "n", "count": count, "device_kind": "big", "num_devices": 8, "memory_gib": 80, "interconnect_gb_per_s": 400} | changed


def target(replicas: int = 1, devices: int = 4, **changed: Any) -> dict[str, Any]:
    return {"name": "t", "replicas": replicas, "devices": devices, "memory_gib": 60} | changed


def drafts(**changed: Any) -> dict[str, Any]:
    return {"name": "d", "memory_gib": 10} | ({} if "count" in changed else {"per_target": 1}) | changed


def described(
    cluster: list[dict[str, Any]], targets: list[dict[str, Any]], drafts: list[dict[str, Any]] | None = None, **network: Any
) -> ClusterConfig:
    return ClusterConfig.model_validate({"nodes": cluster, "network": NETWORK | network, "targets": targets, "drafts": drafts or []})


@st.composite
def clusters(draw: st.DrawFn, max_nodes: int = 6, max_devices: int = 8) -> ClusterConfig:
    kinds, memory = st.sampled_from(["big", "small"]), st.sampled_from([16, 24, 80])
    entries = draw(st.integers(1, 3))
    cluster = [
        nodes(
            draw(st.integers(1, max_nodes // entries)), name=f"n{i}", device_kind=draw(kinds),
            num_devices=draw(st.integers(1, max_devices)), memory_gib=draw(memory),
            interconnect_gb_per_s=draw(st.sampled_from([10, 32, 400])), zone=draw(st.sampled_from("xy")),
            rack=draw(st.sampled_from("pq")), nodes_per_rack=draw(st.sampled_from([None, 1, 2])),
        )
        for i in range(entries)
    ]  # fmt: skip
    targets = [
        target(
            draw(st.integers(1, 4)), draw(st.integers(1, max_devices)), name=f"t{i}", memory_gib=draw(st.sampled_from([10, 20, 60])),
            device_kind=draw(st.none() | kinds), min_gb_per_s=draw(st.sampled_from([0, 20, 100])),
            share_for_drafts=draw(st.sampled_from([0, 0, 0.25])),
        )
        for i in range(draw(st.integers(1, 2)))
    ]  # fmt: skip
    names = st.none() | st.sampled_from([own["name"] for own in targets])
    wanted = [
        {draw(st.sampled_from(["count", "per_target"])): draw(st.integers(1, 3))}
        | {
            "name": f"d{i}", "memory_gib": draw(st.sampled_from([2, 8, 20])), "device_kind": draw(st.none() | kinds),
            "devices": draw(st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 1, 2])), "target": draw(names),
        }
        for i in range(draw(st.integers(0, 2)))
    ]  # fmt: skip
    return described(cluster, targets, wanted)


@st.composite
def tiny_clusters(draw: st.DrawFn, is_uniform: bool = False) -> ClusterConfig:
    """Small enough to try everything. Uniform: nodes alike in one rack, one target, one draft for each group."""
    devices = draw(st.sampled_from([2, 4]))
    kinds = st.just("big") if is_uniform else st.sampled_from(["big", "small"])
    places = st.just("p") if is_uniform else st.sampled_from("pq")
    cluster = [
        nodes(
            name=f"n{i}", num_devices=devices if is_uniform else draw(st.integers(1, 4)), device_kind=draw(kinds),
            memory_gib=80 if is_uniform else draw(st.sampled_from([24, 80])), rack=draw(places), zone=draw(places),
        )
        for i in range(draw(st.integers(1, 3)))
    ]  # fmt: skip
    targets = [
        target(
            draw(st.integers(1, 2)), draw(st.sampled_from([1, 2, 4] if is_uniform else [1, 2, 3, 4])), name=f"t{i}",
            memory_gib=60 if is_uniform else draw(st.sampled_from([20, 60])), device_kind=None if is_uniform else draw(st.none() | kinds),
        )
        for i in range(1 if is_uniform else draw(st.integers(1, 2)))
    ]  # fmt: skip
    how_many = {"per_target": 1} if is_uniform else draw(st.sampled_from([{"per_target": 1}, {"count": 2}, {"count": 3}]))
    return described(cluster, targets, [drafts(devices=draw(st.sampled_from([0.5, 1])), **how_many)])


class Held:
    """What a placement takes of every device, counted anew. Raises AssertionError where a device is of the wrong kind, or is not there."""

    def __init__(self, wanted: ClusterConfig, placement: Placement) -> None:
        self.nodes = {node.name: node for node in expanded(wanted.nodes)}
        self.share: dict[tuple[str, int], float] = defaultdict(float)
        self.memory_gib: dict[tuple[str, int], float] = defaultdict(float)
        self.num_things: Counter[tuple[str, int]] = Counter()
        self.targets: dict[tuple[str, int], TargetsConfig] = {}
        groups, drafts = {own.name: own.wants for own in wanted.groups}, {own.name: own.wants for own in wanted.all_drafts}
        for group in placement.groups:
            for part in group.parts:
                self._take(part, groups[group.name], 1 - groups[group.name].share_for_drafts)
                self.targets |= {(part.node, device): groups[group.name] for device in part.devices}
        for draft in placement.drafts:
            assert draft.share * len(draft.part.devices) == drafts[draft.name].devices
            self._take(draft.part, drafts[draft.name], draft.share)

    def _take(self, part: Part, wants: TargetsConfig | DraftsConfig, share: float) -> None:
        node = self.nodes[part.node]
        assert wants.device_kind in (None, node.device_kind)
        assert len(set(part.devices)) == len(part.devices) > 0
        for device in part.devices:
            assert 0 <= device < node.num_devices
            self.share[part.node, device] += share
            self.memory_gib[part.node, device] += wants.memory_gib
            self.num_things[part.node, device] += 1

    def has_room(self, node: Node, wants: DraftsConfig) -> bool:
        if wants.device_kind not in (None, node.device_kind):
            return False
        fitting = [
            device
            for device in range(node.num_devices)
            if self.share[node.name, device] + min(wants.devices, 1) <= 1 + 1e-6
            and self.memory_gib[node.name, device] + wants.memory_gib <= node.memory_gib + 1e-6
        ]
        return len(fitting) >= max(1, wants.devices)


Value = tuple[tuple[int, ...], int, int]
"""What is placed, how little groups are spread, how near drafts are: the greater, the better."""


def value(wanted: ClusterConfig, placement: Placement) -> Value:
    counts = Counter(own.name.rsplit("-", 1)[0] for own in (*placement.groups, *placement.drafts))
    names = dict.fromkeys(own.wants.name for own in (*wanted.groups, *wanted.all_drafts))
    spread, apart = sum(group.spread for group in placement.groups), sum(draft.distance for draft in placement.drafts)
    return tuple(counts[name] for name in names), -spread, -apart


def best_of_all(wanted: ClusterConfig) -> Value:
    """Over all ways there are. For tiny clusters."""
    everything = expanded(wanted.nodes)
    names = dict.fromkeys(own.wants.name for own in (*wanted.groups, *wanted.all_drafts))
    free = [[(1.0, node.memory_gib)] * node.num_devices for node in everything]
    best: Value = ((), 0, 0)

    def places(wants: TargetsConfig) -> Iterator[tuple[list[int], int, Distance]]:
        """Nodes, devices on each, and the longest way between them."""
        for num in range(1, len(everything) + 1):
            inside = wants.devices // num
            for chosen in combinations(everything, num) if wants.devices % num == 0 else ():
                spread = max(a.distance(b) for a in chosen for b in chosen)
                link = wanted.network.link(spread)
                if (
                    len({node.device_kind for node in chosen}) == 1
                    and all(wants.device_kind in (None, node.device_kind) and wants.memory_gib <= node.memory_gib for node in chosen)
                    and (link is None or link.gb_per_s >= wants.min_gb_per_s)
                    and (inside == 1 or all(node.interconnect_gb_per_s >= wants.min_gb_per_s for node in chosen))
                ):
                    yield [node.position for node in chosen], inside, spread

    def drafts_from(i: int, homes: dict[str, int], counts: Counter[str], spread: int, apart: int) -> None:
        nonlocal best
        if i == len(wanted.all_drafts):
            best = max(best, (tuple(counts[name] for name in names), -spread, -apart))
            return
        draft = wanted.all_drafts[i]
        drafts_from(i + 1, homes, counts, spread, apart)
        if draft.serves not in homes:
            return
        wants, share, num = draft.wants, min(draft.wants.devices, 1.0), max(1, int(draft.wants.devices))
        for node in everything:
            if wants.device_kind not in (None, node.device_kind):
                continue
            own, seen = free[node.position], set()
            fitting = [d for d, (left, gib) in enumerate(own) if left >= share - 1e-9 and gib >= wants.memory_gib - 1e-9]
            for devices in combinations(fitting, num):
                before = tuple(own[d] for d in devices)
                if before in seen:
                    continue
                seen.add(before)
                for d in devices:
                    own[d] = (own[d][0] - share, own[d][1] - wants.memory_gib)
                way = everything[homes[draft.serves]].distance(node)
                drafts_from(i + 1, homes, counts + Counter([wants.name]), spread, apart + way)
                for d, was in zip(devices, before, strict=True):
                    own[d] = was

    def groups_from(i: int, homes: dict[str, int], counts: Counter[str], spread: int) -> None:
        if i == len(wanted.groups):
            drafts_from(0, homes, counts, spread, 0)
            return
        group = wanted.groups[i]
        groups_from(i + 1, homes, counts, spread)
        for positions, inside, way in places(group.wants):
            empty = {p: [d for d, (left, _) in enumerate(free[p]) if left == 1.0][:inside] for p in positions}
            if any(len(devices) < inside for devices in empty.values()):
                continue
            for p, devices in empty.items():
                for d in devices:
                    free[p][d] = (group.wants.share_for_drafts, everything[p].memory_gib - group.wants.memory_gib)
            for home in positions:
                groups_from(i + 1, homes | {group.name: home}, counts + Counter([group.wants.name]), spread + way)
            for p, devices in empty.items():
                for d in devices:
                    free[p][d] = (1.0, everything[p].memory_gib)

    groups_from(0, {}, Counter(), 0)
    return best

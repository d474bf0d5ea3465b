"""`ssd-serve plan --cluster`: described clusters of 1 to 256 nodes, what every placement keeps to, and the best there is on tiny ones."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from cluster.cli import main
from cluster.config import CONFIGS
from cluster.plan.demand import ClusterConfig
from cluster.plan.placement import Placement, place
from cluster.plan.topology import Distance, expanded
from tests.cluster.clusters import Held, best_of_all, clusters, described, drafts, nodes, target, tiny_clusters, value

LONGEST_S = 4.0
"""For 256 nodes; well under a second where the machine is not busy with other things."""


def distances(placement: Placement) -> Counter[Distance]:
    return Counter(draft.distance for draft in placement.drafts)


def where(placement: Placement) -> dict[str, list[str]]:
    """By name: the nodes."""
    held = {group.name: [part.node for part in group.parts] for group in placement.groups}
    return held | {draft.name: [draft.part.node] for draft in placement.drafts}


def reasons(placement: Placement) -> dict[str, str]:
    return {own.name: own.reason for own in placement.unplaced}


# --- described clusters


def test_one_node_holds_a_group_and_its_draft_beside_it() -> None:
    placement = place(described([nodes()], [target(devices=4)], [drafts(devices=0.5)]))
    (group,), (draft,), (spare,) = placement.groups, placement.drafts, placement.spare
    assert (group.parts[0].devices, group.gb_per_s, group.spread) == ((0, 1, 2, 3), 400, Distance.NODE)
    assert (draft.part.devices, draft.serves, draft.distance, draft.latency_us) == ((4,), "t-0", Distance.NODE, 0)
    assert (spare.num_empty, spare.devices, spare.memory_gib) == (3, 3.5, 4 * 80 - 10)
    assert placement.unplaced == ()


def test_a_device_that_is_full_gives_no_spare_memory() -> None:
    (spare,) = place(described([nodes(num_devices=2)], [target(devices=1, memory_gib=10)])).spare
    assert (spare.num_empty, spare.memory_gib) == (1, 80)


def test_two_nodes_take_a_group_each_so_that_both_drafts_are_beside_theirs() -> None:
    placement = place(described([nodes(2)], [target(2, 4)], [drafts()]))
    assert where(placement) == {"t-0": ["n-0"], "t-1": ["n-1"], "d-0": ["n-0"], "d-1": ["n-1"]}


def test_groups_are_not_left_out_so_that_drafts_are_near() -> None:
    placement = place(described([nodes(3)], [target(4, 4)], [drafts()]))
    assert not placement.unplaced and distances(placement) == {Distance.NODE: 2, Distance.RACK: 2}


def test_as_many_drafts_as_possible_are_near_where_not_all_can_be() -> None:
    # 12 nodes with one group and room for drafts, 4 with two groups
    placement = place(described([nodes(16)], [target(20, 4)], [drafts()]))
    assert not placement.unplaced and distances(placement)[Distance.NODE] == 12


def test_small_groups_leave_whole_nodes_to_large_ones() -> None:
    placement = place(described([nodes(3)], [target(5, 2, name="s"), target(1, 8, name="l"), target(1, 6, name="m")]))
    assert not placement.unplaced
    assert Counter(len(group.parts) for group in placement.groups) == {1: 7}
    assert [spare.num_empty for spare in placement.spare].count(0) == 3


def test_whatever_asks_for_no_kind_leaves_the_asked_one_to_others() -> None:
    cluster = [nodes(name="big"), nodes(name="small", device_kind="small")]
    placement = place(described(cluster, [target(1, 8, name="any"), target(1, 4, name="picky", device_kind="big")]))
    assert where(placement) == {"any-0": ["small"], "picky-0": ["big"]}


def test_groups_that_need_little_memory_leave_the_larger_devices_to_others() -> None:
    cluster = [nodes(name="large"), nodes(name="small", memory_gib=24)]
    placement = place(described(cluster, [target(1, 8, name="light", memory_gib=20), target(1, 6, name="heavy")]))
    assert where(placement) == {"light-0": ["small"], "heavy-0": ["large"]}


def test_groups_go_to_the_fullest_node_so_that_an_empty_one_is_left_for_a_large_draft() -> None:
    placement = place(described([nodes(name="n"), nodes(name="m", num_devices=4)], [target()], [drafts(devices=8)]))
    assert where(placement) == {"t-0": ["m"], "d-0": ["n"]}


def test_eight_nodes_of_two_kinds_put_drafts_on_the_cheap_devices_of_the_rack() -> None:
    cluster = [nodes(3, name="a", rack="p"), nodes(3, name="b", rack="q")] + [
        nodes(name=f"l4-{rack}", device_kind="l4", num_devices=4, memory_gib=24, interconnect_gb_per_s=32, rack=rack) for rack in "pq"
    ]
    placement = place(described(cluster, [target(12, 4, device_kind="big")], [drafts(devices=0.5, device_kind="l4")]))
    assert not placement.unplaced and distances(placement) == {Distance.RACK: 12}
    assert {draft.part.node for draft in placement.drafts} == {"l4-p", "l4-q"}


def test_the_loop_of_a_group_on_several_nodes_runs_where_its_draft_has_room() -> None:
    placement = place(described([nodes(name="n", num_devices=2), nodes(name="m", num_devices=3)], [target()], [drafts()]))
    assert where(placement) == {"t-0": ["m", "n"], "d-0": ["m"]} and distances(placement) == {Distance.NODE: 1}


def test_a_group_larger_than_a_node_stays_in_a_rack() -> None:
    cluster = [nodes(3, name="a", rack="p"), nodes(4, name="b", rack="q")]
    placement = place(described(cluster, [target(1, 32), target(1, 16, name="s")]))
    assert where(placement) == {"t-0": ["b-0", "b-1", "b-2", "b-3"], "s-0": ["a-0", "a-1"]}
    assert {group.gb_per_s for group in placement.groups} == {50}


def test_it_goes_beyond_the_rack_only_over_links_that_are_fast_enough() -> None:
    cluster = [nodes(name=f"n{i}", rack=f"r{i}") for i in range(2)]
    slow = place(described(cluster, [target(1, 16)], [drafts()]))
    assert reasons(slow) == {
        "t-0": "the 16 devices that are free together are joined by links slower than 20 GB/s only",
        "d-0": "its target group has no place",
    }
    fast = place(described(cluster, [target(1, 16)], zone={"gb_per_s": 20}))
    assert fast.groups[0].spread == Distance.ZONE and fast.groups[0].gb_per_s == 20


def test_no_group_is_spread_where_one_node_has_room() -> None:
    placement = place(described([nodes(4, num_devices=4), nodes(name="last")], [target(1, 8)]))
    assert where(placement) == {"t-0": ["last"]}


def test_a_slow_interconnect_is_a_slow_link_too() -> None:
    cluster = [nodes(interconnect_gb_per_s=16)]
    assert list(reasons(place(described(cluster, [target(1, 2)])))) == ["t-0"]
    assert not place(described(cluster, [target(2, 1), target(1, 2, name="slow", min_gb_per_s=16)])).unplaced


def test_the_devices_of_a_group_are_of_one_kind() -> None:
    cluster = [nodes(), nodes(name="other", device_kind="other")]
    told = reasons(place(described(cluster, [target(1, 16)])))
    assert told == {"t-0": "no 16 devices alike are joined by links of 20 GB/s or more, even where nothing is placed"}


def test_drafts_in_another_zone_are_better_than_none() -> None:
    cluster = [nodes(name="full", zone="x"), nodes(name="far", zone="y")]
    placement = place(described(cluster, [target(1, 8, device_kind="big")], [drafts()]))
    (draft,) = placement.drafts
    assert (draft.part.node, draft.distance, draft.latency_us) == ("far", Distance.CLUSTER, 900)


def test_racks_of_different_zones_may_have_the_same_name() -> None:
    cluster = [nodes(name="a", zone="x", rack="r"), nodes(name="b", zone="y", rack="r")]
    assert expanded(described(cluster, [target()]).nodes)[0].distance(expanded(described(cluster, [target()]).nodes)[1]) == Distance.CLUSTER


def test_drafts_share_devices_by_fraction_and_memory() -> None:
    by_share = place(described([nodes(num_devices=2)], [target(1, 1)], [drafts(count=3, devices=1 / 3)]))
    assert [draft.part.devices for draft in by_share.drafts] == [(1,)] * 3
    by_memory = place(described([nodes(num_devices=2)], [target(1, 1)], [drafts(count=3, devices=0.1, memory_gib=30)]))
    assert len(by_memory.drafts) == 2
    assert reasons(by_memory) == {"d-2": "no such device has 0.1 of it and 30 GiB free"}


def test_drafts_share_a_device_with_a_target_only_where_it_leaves_a_share() -> None:
    def told(devices: float, **changed: Any) -> Placement:
        return place(described([nodes(num_devices=4)], [target(1, 4, **changed)], [drafts(devices=devices)]))

    assert reasons(told(0.25)) == {"d-0": "no such device has 0.25 of it and 10 GiB free"}
    assert not told(0.25, share_for_drafts=0.25).unplaced
    assert told(0.3, share_for_drafts=0.25).unplaced
    free_elsewhere = place(described([nodes(num_devices=5)], [target(1, 4, share_for_drafts=0.5)], [drafts(devices=0.5)]))
    assert free_elsewhere.drafts[0].part.devices == (4,)


def test_counted_drafts_are_spread_evenly_over_the_groups() -> None:
    wanted = described(
        [nodes(8)], [target(4, 4, name="t"), target(2, 2, name="u")], [drafts(count=8), drafts(name="e", count=3, target="u")]
    )
    served = Counter((draft.name[0], draft.serves) for draft in place(wanted).drafts)
    assert [served["d", f"t-{i}"] for i in range(4)] + [served["d", f"u-{i}"] for i in range(2)] == [2, 1, 1, 2, 1, 1]
    assert [served["e", f"u-{i}"] for i in range(2)] == [2, 1]


def test_sixty_four_nodes_in_racks_hold_groups_of_sixteen_with_drafts_in_their_rack() -> None:
    placement = place(described([nodes(64, nodes_per_rack=8)], [target(24, 16)], [drafts(devices=2)]))
    assert not placement.unplaced
    assert {group.spread for group in placement.groups} == {Distance.RACK}
    assert distances(placement) == {Distance.RACK: 24}


@pytest.mark.parametrize("nodes_per_rack", [None, 8])
@pytest.mark.parametrize(
    ("wanted", "near", "num_unplaced"),
    [
        ((256, 4, 1.0), 256, 0),
        ((400, 4, 1.0), 112, 0),
        ((512, 3, 0.5), 512, 0),
        ((600, 4, 1.0), 0, 88 + 600),
        ((128, 16, 1.0), 0, 128),
    ],
)
def test_256_nodes_are_placed_quickly(wanted: tuple[int, int, float], near: int, num_unplaced: int, nodes_per_rack: int | None) -> None:
    replicas, devices, of_device = wanted
    cluster = described([nodes(256, nodes_per_rack=nodes_per_rack)], [target(replicas, devices)], [drafts(devices=of_device)])
    start = time.perf_counter()
    placement = place(cluster)
    assert time.perf_counter() - start < LONGEST_S
    assert (distances(placement)[Distance.NODE], len(placement.unplaced)) == (near, num_unplaced)
    assert_sound(cluster, placement)


def test_256_nodes_of_four_kinds_with_more_wanted_than_there_is() -> None:
    cluster = [nodes(64, name=f"n{i}", device_kind=f"kind{i}", nodes_per_rack=8, zone=f"z{i % 2}") for i in range(4)]
    targets = [target(70 + i, 8 >> i, name=f"t{i}", device_kind=f"kind{i}") for i in range(3)]
    wanted = described(cluster, targets, [drafts(devices=0.5), drafts(name="e", count=600, device_kind="kind3")])
    start = time.perf_counter()
    placement = place(wanted)
    assert time.perf_counter() - start < 2 * LONGEST_S
    assert Counter(group.name.split("-")[0] for group in placement.groups) == {"t0": 64, "t1": 71, "t2": 72}
    assert_sound(wanted, placement)


# --- where one way of packing is not enough


def crowded() -> ClusterConfig:
    """All on one node, the group would take the place of a draft that fits nowhere else; spread over the first two it does not."""
    cluster = [
        nodes(2, name="a", num_devices=6, memory_gib=24, zone="x", rack="p"),
        nodes(name="b", device_kind="small", zone="y", rack="q"),
        nodes(name="c", num_devices=7, device_kind="small", memory_gib=24, zone="x", rack="q"),
        nodes(name="e", num_devices=1, device_kind="small", memory_gib=24, zone="x", rack="p"),
    ]
    return described(cluster, [target(1, 8, memory_gib=20)], [drafts(devices=3, memory_gib=30), drafts(name="light", devices=3)])


def test_what_fewer_nodes_held_is_kept_where_planning_afresh_would_leave_something_out() -> None:
    placement = place(crowded())
    assert not placement.unplaced and where(placement)["t-0"] == ["a-0", "a-1"]


def test_drafts_move_nearer_when_nodes_that_were_added_later_have_room() -> None:
    assert {draft.name: draft.distance for draft in place(crowded()).drafts} == {"d-0": Distance.CLUSTER, "light-0": Distance.ZONE}


def test_drafts_that_come_first_are_not_left_out_so_that_others_are_nearer() -> None:
    # n2 has two devices: drafts of both kinds that serve the group in its zone would take them before the other a's turn
    cluster = [
        nodes(name="n0", num_devices=4, zone="y"),
        nodes(2, name="n1", num_devices=3, zone="x"),
        nodes(name="n2", num_devices=2, device_kind="small", zone="x"),
        nodes(name="n3", num_devices=7, memory_gib=24, zone="y"),
    ]
    placement = place(described(cluster, [target(2)], [drafts(name=name, memory_gib=30, device_kind="small") for name in "ab"]))
    assert {draft.name for draft in placement.drafts} == {"a-0", "a-1"}


# --- what every placement keeps to


def assert_sound(wanted: ClusterConfig, placement: Placement) -> None:
    held = Held(wanted, placement)
    for (name, device), share in held.share.items():
        node = held.nodes[name]
        assert share <= 1 + 1e-6 and held.memory_gib[name, device] <= node.memory_gib + 1e-6
    told = Counter(own.name for own in (*placement.groups, *placement.drafts, *placement.unplaced))
    assert told == Counter(own.name for own in (*wanted.groups, *wanted.all_drafts))
    assert all(own.reason for own in placement.unplaced)
    for spare in placement.spare:
        node = held.nodes[spare.node]
        taken = [held.share[spare.node, device] for device in range(node.num_devices)]
        assert spare.num_empty == taken.count(0) and spare.devices == pytest.approx(node.num_devices - sum(taken), abs=1e-6)


def assert_together(wanted: ClusterConfig, placement: Placement) -> None:
    """No group over a link slower than it allows, the same number of devices on each node, all of one kind."""
    wants = {own.name: own.wants for own in wanted.groups}
    by_name = {node.name: node for node in expanded(wanted.nodes)}
    for group in placement.groups:
        own, parts = wants[group.name], [by_name[part.node] for part in group.parts]
        assert len({len(part.devices) for part in group.parts}) == 1 == len({node.device_kind for node in parts})
        assert len({node.name for node in parts}) == len(parts)
        assert sum(len(part.devices) for part in group.parts) == own.devices
        links = [wanted.network.link(a.distance(b)) for a in parts for b in parts]
        assert all(link is None or link.gb_per_s >= own.min_gb_per_s for link in links)
        assert len(group.parts[0].devices) == 1 or all(node.interconnect_gb_per_s >= own.min_gb_per_s for node in parts)


@given(clusters())
def test_no_device_gives_more_than_it_has_and_everything_is_told(wanted: ClusterConfig) -> None:
    assert_sound(wanted, place(wanted))


@given(clusters())
def test_no_group_is_spread_over_a_slow_link(wanted: ClusterConfig) -> None:
    assert_together(wanted, place(wanted))


@given(clusters())
def test_drafts_do_not_share_with_targets_that_leave_nothing(wanted: ClusterConfig) -> None:
    held = Held(wanted, place(wanted))
    for device, own in held.targets.items():
        assert own.share_for_drafts or held.num_things[device] == 1


@given(clusters())
def test_no_draft_could_be_nearer_and_none_that_waits_could_be_anywhere(wanted: ClusterConfig) -> None:
    placement = place(wanted)
    held = Held(wanted, placement)
    homes = {group.name: held.nodes[group.parts[0].node] for group in placement.groups}
    placed = {draft.name: draft for draft in placement.drafts}
    for draft in wanted.all_drafts:
        if draft.serves in homes:
            distance = placed[draft.name].distance if draft.name in placed else len(Distance)
            nearer = [node for node in held.nodes.values() if homes[draft.serves].distance(node) < distance]
            assert not any(held.has_room(node, draft.wants) for node in nearer), draft
        if draft.name in placed:
            assert placed[draft.name].distance == homes[draft.serves].distance(held.nodes[placed[draft.name].part.node])


@given(clusters())
def test_the_same_description_gives_the_same_placement(wanted: ClusterConfig) -> None:
    again = ClusterConfig.model_validate(wanted.model_dump())
    assert place(again) == place(wanted)


@given(clusters(), clusters(max_nodes=3))
def test_one_more_entry_of_nodes_never_places_less(wanted: ClusterConfig, other: ClusterConfig) -> None:
    more = wanted.model_copy(update={"nodes": (*wanted.nodes, other.nodes[0].model_copy(update={"name": "more"}))})
    assert value(more, place(more))[0] >= value(wanted, place(wanted))[0]


@given(st.integers(1, 12), st.integers(1, 16), st.sampled_from([1, 2, 4, 8]), st.sampled_from([0.25, 0.5, 1.0]))
def test_one_more_node_never_places_less_where_all_are_alike(count: int, replicas: int, devices: int, of_device: float) -> None:
    fewer, more = (described([nodes(n)], [target(replicas, devices)], [drafts(devices=of_device)]) for n in (count, count + 1))
    assert value(more, place(more))[0] >= value(fewer, place(fewer))[0]


# --- against the best there is


@given(tiny_clusters())
def test_on_tiny_clusters_as_much_is_placed_as_possible(wanted: ClusterConfig) -> None:
    assert value(wanted, place(wanted))[0] == best_of_all(wanted)[0]


@given(tiny_clusters(is_uniform=True))
def test_on_tiny_uniform_clusters_that_hold_everything_nothing_could_be_nearer(wanted: ClusterConfig) -> None:
    placement = place(wanted)
    assume(not placement.unplaced)
    assert value(wanted, placement) == best_of_all(wanted)


# --- the command


def written(folder: Path, content: Any) -> Path:
    (folder / "c.yaml").write_text(yaml.safe_dump(content))
    return folder / "c.yaml"


def content(**changed: Any) -> dict[str, Any]:
    return {"nodes": [nodes(2)], "network": {"rack": {"gb_per_s": 50}}, "targets": [target()], "drafts": [drafts()]} | changed


def test_the_shipped_example_has_a_place_for_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--cluster", str(CONFIGS / "clusters" / "two-racks.yaml")]) == 0
    told = capsys.readouterr().out
    assert "28 of 28 placed" in told and "h100-0: 0 1 2 3 4 5 6 7; h100-1: 0 1 2 3 4 5 6 7" in told
    assert "h100-11 ... h100-15" in told and "not placed" not in told


def test_what_has_no_place_is_told_and_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--cluster", str(written(tmp_path, content(targets=[target(6, 4)])))]) == 2
    told = capsys.readouterr().out
    assert "t-4 ... t-5" in told and "no 4 devices are free together; free in all: 0" in told and "4 of 12 placed" in told


def test_options_that_say_nothing_about_a_cluster_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--cluster", str(written(tmp_path, content())), "--draft-step-ms", "2"]) == 2
    assert "--draft-step-ms: not with --cluster" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"nodes": []}, "nodes = []: Value error, at least one is needed"),
        ({"nodes": [nodes(count=0)]}, "nodes.0.count = 0: Input should be greater than or equal to 1"),
        ({"nodes": [nodes(gpus=8)]}, "nodes.0.gpus: unknown key"),
        ({"nodes": [nodes(2), nodes(name="n-1")]}, "the name 'n-1' is there twice"),
        ({"network": {}}, "network = {}: Value error, `rack` is missing, and there are nodes that it joins"),
        ({"nodes": [nodes(2, nodes_per_rack=1)]}, "Value error, `zone` is missing, and there are nodes that it joins"),
        ({"targets": [target(), target()]}, "the name 't' is there twice"),
        ({"targets": [target(memory_gib=0)]}, "targets.0.memory_gib = 0: Input should be greater than 0"),
        ({"drafts": [drafts(devices=1.5)]}, "drafts.0.devices = 1.5: Value error, more than one device must be whole devices"),
        ({"drafts": [drafts(count=1, per_target=1)]}, "Value error, either count is needed, or per_target"),
        ({"drafts": [drafts(target="x")]}, "d serves 'x', which is no target"),
    ],
)
def test_a_mistake_in_a_described_cluster_is_one_line(
    changed: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--cluster", str(written(tmp_path, content(**changed)))]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1

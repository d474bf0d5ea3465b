"""What tree and store do, one case at a time. Any history of such cases: test_properties.py."""

from __future__ import annotations

import gc

import pytest

from ssd_core.lookup import Guess
from ssd_core.store import SpeculationStore
from ssd_core.tree import Node, SpeculationTree
from ssd_core.types import Growth, child_id, sequence_id

VOCAB = 8


def test_garbage_and_foreign_growth_is_counted_and_dropped() -> None:
    store = SpeculationStore(VOCAB)
    store.open("a", (1, 2))
    store.open("b", (4,))
    root = sequence_id((1, 2))
    bad = [(root, VOCAB, 0.5), (root, -1, 0.5), (root, 3, float("nan")), (root, 3, 1.5), (root, 3, -0.1)]
    for parent, token, probability in bad:
        store.ingest(Growth("a", 2, (parent,), (token,), (probability,)))
    store.ingest(Growth("b", 1, (root,), (3,), (0.5,)))  # a's node under b's name
    store.ingest(Growth("gone", 1, (root,), (3,), (0.5,)))
    assert store.counters.garbage == len(bad) and store.counters.late == 2 and store.counters.ingested == 0
    assert len(store["a"].tree) == len(store["b"].tree) == 1


def test_advance_keeps_what_hangs_below_the_new_root_and_drops_the_rest() -> None:
    tree = SpeculationTree((9,))
    a, b = tree.add(tree.root, 1, 0.8), tree.add(tree.root, 2, 0.1)
    c, d = tree.add(a, 3, 0.7), tree.add(a, 4, 0.2)
    tree.add(b, 5, 0.9)
    below_c = tree.add(c, 6, 0.5)
    assert [n.token for n in tree.best_first(10)] == [1, 3, 6, 4, 2, 5]
    assert tree.reach(below_c) == pytest.approx(0.8 * 0.7 * 0.5)
    path = tree.advance((1, 3))
    assert path[1:] == [a, c] and tree.root is c
    assert set(tree.nodes) == {c.id, below_c.id} and tree.reach(below_c) == pytest.approx(0.5)
    assert d.id not in tree.nodes
    tree.check_integrity()


def test_what_the_root_leaves_behind_is_freed_without_the_collector() -> None:
    def num_nodes() -> int:
        return sum(isinstance(thing, Node) for thing in gc.get_objects())

    def grow(tree: SpeculationTree) -> None:
        for _ in range(3):
            for node in [node for node in tree.nodes.values() if not node.children]:
                tree.add(node, 1, 0.6)
                tree.add(node, 2, 0.3)

    gc.collect()
    gc.disable()
    try:
        others, tree = num_nodes(), SpeculationTree((9,))
        for _ in range(4):
            grow(tree)
            tree.advance((1, 2))
            tree.let_go()
            assert num_nodes() == others + len(tree)
    finally:
        gc.enable()


def test_what_hangs_below_a_guess_moves_with_it_once_the_draft_proposes_it() -> None:
    tree = SpeculationTree((1, 2))
    first, second = tree.guess(tree.root, Guess([3, 4], match_length=2), [0.5, 0.5])
    assert tree.reach(second) == pytest.approx(0.25) and first.is_guess and second.is_guess
    tree.confirm(first, 0.9)
    assert tree.reach(first) == pytest.approx(0.9) and tree.reach(second) == pytest.approx(0.45)
    assert not first.is_guess and second.is_guess
    tree.check_integrity()


def test_a_guess_that_is_sure_reaches_as_far_as_its_parent_and_no_further() -> None:
    for percent in range(1, 100):  # 0.3 * 0.7 / 0.7 and the like: a third of them would be rounded up
        tree = SpeculationTree((1, 2))
        parent = tree.add(tree.root, 3, percent / 100)
        (guess,) = tree.guess(parent, Guess([4], match_length=2), [0.7])
        tree.confirm(guess, 1.0)
        assert tree.reach(guess) == pytest.approx(tree.reach(parent))
        tree.check_integrity()


def test_a_guess_is_a_hit_only_when_the_draft_has_proposed_it_too() -> None:
    store = SpeculationStore(VOCAB)
    tree = store.open("a", (1, 2)).tree
    tree.guess(tree.root, Guess([3, 4, 5], match_length=2), [0.5] * 3)
    store.advance("a", (3,))
    assert not store.look_up("a"), "only our own guess hangs below it"
    store.ingest(Growth("a", 2, (tree.root.id,), (4,), (0.8,)))
    assert store.counters.ingested == 1 and tree.reach(tree.root.children[4]) == pytest.approx(0.8)
    store.ingest(Growth("a", 2, (tree.root.children[4].id,), (5,), (0.7,)))
    store.advance("a", (4,))
    assert store.look_up("a")


def test_what_was_grown_where_the_target_did_not_go_is_late_and_the_rest_hangs_below_the_outcome() -> None:
    store = SpeculationStore(VOCAB)
    tree = store.open("a", (1, 2)).tree
    taken, other = sequence_id((1, 2, 3)), sequence_id((1, 2, 4))
    store.advance("a", (3,))
    store.ingest(Growth("a", 2, (sequence_id((1, 2)), taken, other), (3, 5, 6), (0.9, 0.8, 0.7)))
    assert store.look_up("a") and store.counters.late == 2 and store.counters.ingested == 1
    assert tree.reach(tree.root.children[5]) == pytest.approx(0.8)
    store.check_integrity()


def test_an_outcome_that_nobody_guessed_makes_a_fresh_root() -> None:
    tree = SpeculationTree((9,))
    tree.add(tree.root, 1, 0.8)
    tree.advance((1, 7, 7))
    assert len(tree) == 1 and tree.root.id == sequence_id((9, 1, 7, 7)) and tree.length == 4
    tree.check_integrity()


def test_node_ids_name_whole_sequences() -> None:
    ids = {sequence_id(s) for s in [(1,), (2,), (1, 2), (2, 1), (1, 2, 3), (0,), (0, 0), (0, 0, 0)]}
    assert len(ids) == 8
    assert child_id(sequence_id((1, 2)), 3) == sequence_id((1, 2, 3))


def test_an_acknowledgement_from_the_future_is_not_believed() -> None:
    store = SpeculationStore(VOCAB)
    store.open("a", (1, 2))
    store.ingest(Growth("a", 50, (), (), ()))
    assert store["a"].acknowledged_length == 2


def test_a_late_word_of_exhaustion_does_not_unsay_a_newer_one() -> None:
    store = SpeculationStore(vocab_size=100)
    session = store.open("a", [1, 2])
    store.advance("a", [3])
    for length in (3, 2):
        store.ingest(Growth("a", length, (), (), (), is_exhausted=True))
    assert session.is_exhausted

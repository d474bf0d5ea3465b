from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_core.engine.base import TRUNK_END, Part
from ssd_core.engine.kv import CellPool
from ssd_core.errors import CapacityError

NUM_CELLS = 40


def chain(session_id: str, length: int) -> Part:
    return Part(session_id, [0] * length, range(TRUNK_END, length - 1))


def test_a_reservation_is_taken_at_once_and_given_back_whole() -> None:
    pool = CellPool(NUM_CELLS)
    pool.open("a", 30)
    assert pool.num_free_cells == 10
    with pytest.raises(CapacityError, match="session b: needs 11"):
        pool.open("b", 11)
    pool.append([chain("a", 5)], NUM_CELLS)
    pool["a"].advance([0, 1], [2])
    pool.close("a")
    pool.close("a")
    assert pool.num_free_cells == NUM_CELLS
    pool.check_integrity()


def test_advancing_renumbers_and_returns_the_dropped_cells_to_the_session() -> None:
    pool = CellPool(NUM_CELLS)
    pool.open("a", 6)
    pool.append([Part("a", [0] * 6, [TRUNK_END, 0, 0, TRUNK_END, 2, 4])], NUM_CELLS)
    session, before = pool["a"], list(pool["a"].tree)
    session.advance([0], [2, 4, 5])
    assert list(session.trunk) == before[:1]
    assert list(session.tree) == [before[2], before[4], before[5]]
    assert (session.parents, session.depths) == ([TRUNK_END, 0, 1], [0, 1, 2])
    assert sorted(session.free) == sorted([before[1], before[3]])
    pool.check_integrity()


@pytest.mark.parametrize(
    ("path", "survivors"),
    [([1], []), ([0, 2], []), ([0], [4]), ([0], [1, 1]), ([0], [0]), ([0], [3])],
    ids=["starts deep", "not a chain", "orphan", "twice", "on the path", "sibling of the path"],
)
def test_an_advance_that_is_no_path_or_keeps_orphans_is_refused_and_changes_nothing(path: list[int], survivors: list[int]) -> None:
    pool = CellPool(NUM_CELLS)
    pool.open("a", 6)
    pool.append([Part("a", [0] * 5, [TRUNK_END, 0, 1, TRUNK_END, 2])], NUM_CELLS)
    with pytest.raises(AssertionError):
        pool["a"].advance(path, survivors)
    assert len(pool["a"].tree) == 5
    pool.check_integrity()


@settings(max_examples=60)
@given(st.data())
def test_whatever_sessions_do_no_cell_is_lost_or_held_twice(data: st.DataObject) -> None:
    """Beside the pool runs a model of it: for each session the labels of its tokens, in the order the engine promises."""
    pool, labels = CellPool(NUM_CELLS), {}
    token_of_cell: dict[int, int] = {}
    trunks: dict[str, list[int]] = {}
    trees: dict[str, list[tuple[int, int]]] = {}  # label, parent's label (or -1)
    for step in range(data.draw(st.integers(1, 25))):
        session_id = data.draw(st.sampled_from("abc"))
        if session_id not in trunks:
            reservation = data.draw(st.integers(1, 20))
            if reservation > pool.num_free_cells:
                with pytest.raises(CapacityError):
                    pool.open(session_id, reservation)
                continue
            pool.open(session_id, reservation)
            labels[session_id], trunks[session_id], trees[session_id] = reservation, [], []
            continue
        action = data.draw(st.sampled_from(["append", "append", "advance", "advance", "close"]))
        session, tree = pool[session_id], trees[session_id]
        if action == "append":
            size = data.draw(st.integers(1, 6))
            parents = [data.draw(st.integers(TRUNK_END, len(tree) + i - 1)) for i in range(size)]
            part = Part(session_id, [0] * size, parents)
            if len(trunks[session_id]) + len(tree) + size > labels[session_id]:
                with pytest.raises(CapacityError):
                    pool.append([part], 10**6)
            else:
                pool.append([part], 10**6)
                for i, parent in enumerate(parents):
                    tree.append((100 * step + i, -1 if parent == TRUNK_END else tree[parent][0]))
                    token_of_cell[session.tree[len(tree) - 1]] = 100 * step + i
        elif action == "advance":
            path: list[int] = []
            while children := [i for i, p in enumerate(session.parents) if p == (path[-1] if path else TRUNK_END)]:
                chosen = data.draw(st.sampled_from([None, *children]))
                if chosen is None:
                    break
                path.append(chosen)
            kept = {path[-1] if path else TRUNK_END}
            survivors = []
            for i, parent in enumerate(session.parents):
                if i not in path and parent in kept and data.draw(st.booleans()):
                    kept.add(i)
                    survivors.append(i)
            trunks[session_id] += [tree[i][0] for i in path]
            end = tree[path[-1]][0] if path else -1
            trees[session_id] = [(tree[i][0], -1 if tree[i][1] == end else tree[i][1]) for i in survivors]
            session.advance(path, survivors)
        else:
            pool.close(session_id)
            del trunks[session_id], trees[session_id]
        pool.check_integrity()
        for name, trunk in trunks.items():
            held = pool[name]
            assert [token_of_cell[cell] for cell in held.trunk] == trunk
            assert [token_of_cell[cell] for cell in held.tree] == [label for label, _ in trees[name]]
            assert [-1 if p == TRUNK_END else trees[name][p][0] for p in held.parents] == [parent for _, parent in trees[name]]
            assert len(held.free) + len(held.tree) + len(held.trunk) == labels[name]


def test_at_95_percent_use_whatever_is_free_can_be_used() -> None:
    """Sessions of all lengths come and go; a request for all that is free is never refused, however scattered it lies."""
    randomness = random.Random(3)
    pool = CellPool(1000)
    sizes: dict[str, int] = {}
    for number in range(500):
        while pool.num_free_cells > 50:
            name = f"{number}-{len(sizes)}"
            sizes[name] = min(pool.num_free_cells, randomness.randrange(1, 80))
            pool.open(name, sizes[name])
            pool.append([chain(name, sizes[name])], 1000)
        rest = pool.num_free_cells
        if rest:
            pool.open("rest", rest)
            with pytest.raises(CapacityError):
                pool.open("more", 1)
            pool.append([chain("rest", rest)], 1000)
            pool.close("rest")
        for name in randomness.sample(sorted(sizes), 3):
            pool.close(name)
            del sizes[name]
        assert pool.num_free_cells == 1000 - sum(sizes.values())
    pool.check_integrity()

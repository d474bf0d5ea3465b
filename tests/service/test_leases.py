"""deployments/leases.py"""

from __future__ import annotations

import random

from deployments.leases import Leases, PoolPlan


def leases_of(*drafts: str, wanted: int | None = None) -> Leases:
    leases = Leases(len(drafts) if wanted is None else wanted)
    for draft in drafts:
        leases.add(draft)
    return leases


def test_sessions_spread_by_load() -> None:
    leases = leases_of("a", "b", "c")
    for i in range(9):
        leases.lease("t", f"s{i}")
    assert [leases.load(draft) for draft in ("a", "b", "c")] == [3, 3, 3]


def test_among_equals_a_draft_that_serves_the_target_already_is_taken() -> None:
    leases = leases_of("a", "b")
    leases.lease("t", "s0")
    leases.lease("u", "s1")
    assert leases.lease("u", "s2") == "b"


def test_a_session_keeps_its_lease() -> None:
    leases = leases_of("a", "b")
    home = leases.lease("t", "s")
    assert [leases.lease("t", "s") for _ in range(3)] == [home] * 3
    assert leases.num_sessions == 1


def test_without_a_draft_there_is_no_lease() -> None:
    assert leases_of(wanted=1).lease("t", "s") is None


def test_a_dead_draft_gives_its_sessions_back_and_is_replaced() -> None:
    leases = leases_of("a", "b")
    for i in range(4):
        leases.lease("t", f"s{i}")
    lost = leases.remove("a")
    assert len(lost) == 2 and leases.plan() == PoolPlan(start=1)
    assert leases.plan(num_starting=1) == PoolPlan()
    assert {leases.lease("t", session_id) for session_id in lost} == {"b"}


def test_shrinking_drains_the_least_loaded_and_stops_it_when_empty() -> None:
    leases = leases_of("a", "b")
    leases.lease("t", "s0")
    leases.lease("t", "s1")
    leases.release("s1")
    leases.wanted = 1
    assert leases.plan() == PoolPlan(stop=("b",))
    leases.remove("b")
    assert leases.plan() == PoolPlan()


def test_a_draining_draft_gets_no_new_session_and_its_own_move_on_request() -> None:
    leases = leases_of("a", "b")
    leases.lease("t", "s0")
    leases.lease("t", "s1")
    leases.wanted = 1
    assert leases.plan() == PoolPlan()
    draining = {"s0": "a", "s1": "b"}["s0"]
    assert leases.lease("t", "s2") == "b"
    assert leases.lease("t", "s0") == "b" and leases.plan() == PoolPlan(stop=(draining,))


def test_a_drain_is_taken_back_before_a_draft_is_started() -> None:
    leases = leases_of("a", "b")
    leases.lease("t", "s0")
    leases.lease("t", "s1")
    leases.wanted = 1
    leases.plan()
    leases.wanted = 3
    assert leases.plan() == PoolPlan(start=1)


def test_what_a_target_does_not_name_any_more_is_released() -> None:
    leases = leases_of("a")
    for session in ("s0", "s1"):
        leases.lease("t", session)
    leases.lease("u", "s2")
    leases.keep_only("t", ["s1"])
    assert leases.num_sessions == 2
    assert leases.release_target("t") == ("s1",)
    assert leases.num_sessions == 1


def test_nothing_leaks_in_a_long_random_life() -> None:
    dice = random.Random(3)
    leases = leases_of("a", "b", "c")
    for step in range(3000):
        match dice.randrange(7):
            case 0 | 1 | 2:
                leases.lease(f"t{dice.randrange(3)}", f"s{dice.randrange(40)}")
            case 3 | 4:
                leases.release(f"s{dice.randrange(40)}")
            case 5:
                leases.wanted = dice.randrange(5)
            case 6 if leases.drafts:
                leases.remove(dice.choice(leases.drafts))
        plan = leases.plan()
        for i in range(plan.start):
            leases.add(f"d{step}-{i}")
        for draft in plan.stop:
            leases.remove(draft)
        leases.check_integrity()
    for i in range(40):
        leases.release(f"s{i}")
    assert leases.num_sessions == 0

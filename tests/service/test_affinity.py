"""deployments/affinity.py."""

from __future__ import annotations

from collections import Counter
from math import inf

from deployments.affinity import SLACK_TOKENS, ReplicaLoad, ranked


def idle(*names: str) -> dict[str, ReplicaLoad]:
    return {name: ReplicaLoad(0, 0) for name in names}


def test_a_session_stays_on_its_replica() -> None:
    assert len({ranked("alice", f"r{i}", idle("a", "b", "c"))[0] for i in range(20)}) == 1


def test_sessions_spread_over_the_replicas() -> None:
    homes = Counter(ranked(f"user-{i}", "r", idle("a", "b", "c"))[0] for i in range(600))
    assert min(homes.values()) > 150


def test_a_replica_that_leaves_moves_only_its_own_sessions() -> None:
    before = {f"user-{i}": ranked(f"user-{i}", "r", idle("a", "b", "c"))[0] for i in range(100)}
    after = {user: ranked(user, "r", idle("a", "b"))[0] for user in before}
    assert all(after[user] == home for user, home in before.items() if home != "c")


def test_a_session_leaves_a_replica_that_is_clearly_busier() -> None:
    home, other = ranked("alice", "r", idle("a", "b"))
    slightly = {home: ReplicaLoad(SLACK_TOKENS, 0), other: ReplicaLoad(0, 0)}
    clearly = {home: ReplicaLoad(SLACK_TOKENS + 1, 0), other: ReplicaLoad(0, 0)}
    assert ranked("alice", "r", slightly)[0] == home
    assert ranked("alice", "r", clearly) == [other, home]


def test_without_a_session_the_idlest_is_taken() -> None:
    loads = {"a": ReplicaLoad(100, 0), "b": ReplicaLoad(0, 1), "c": ReplicaLoad(0, 3)}
    assert ranked("", "r", loads) == ["b", "a", "c"]


def test_without_a_session_equals_share_the_requests() -> None:
    firsts = Counter(ranked("", f"r{i}", idle("a", "b"))[0] for i in range(400))
    assert min(firsts.values()) > 120


def test_no_replica_is_no_choice() -> None:
    assert ranked("alice", "r", {}) == []


def test_a_dead_replica_is_the_last_choice() -> None:
    """Its load is reported as infinite: it is idle, and would take every request."""
    home, other = ranked("alice", "r", idle("a", "b"))
    assert ranked("alice", "r", {home: ReplicaLoad(inf, 0), other: ReplicaLoad(10**9, 9)}) == [other, home]
    assert ranked("", "r", {home: ReplicaLoad(inf, 0), other: ReplicaLoad(10**9, 9)}) == [other, home]
    assert len(ranked("alice", "r", {home: ReplicaLoad(inf, 0), other: ReplicaLoad(inf, 0)})) == 2

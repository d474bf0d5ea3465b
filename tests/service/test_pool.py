"""deployments/pool.py without Ray: what it answers, not what it starts."""

from __future__ import annotations

from deployments.config import DraftConfig
from deployments.pool import SpeculatorPool


def pool_with(*drafts: str) -> SpeculatorPool:
    pool = SpeculatorPool(DraftConfig(num_actors=len(drafts)))
    pool._is_started = True  # these drafts are all it wants
    for draft in drafts:
        pool._leases.add(draft)
    return pool


async def test_a_session_that_ended_while_its_lease_was_asked_for_holds_none() -> None:
    pool = pool_with("d")
    grants = await pool.lease("t", ("s", "other"), ("s", "never heard of"))
    assert [grant.session_id for grant in grants] == ["s", "other"]
    assert (await pool.status()).num_sessions == 1 and pool._leases.load("d") == 1


async def test_what_is_given_back_with_a_lease_makes_room_for_the_next() -> None:
    pool = pool_with("d", "e")
    (first,) = await pool.lease("t", ("s",))
    (second,) = await pool.lease("t", ("u",), ("s",))
    (third,) = await pool.lease("t", ("v",))
    assert {first.draft, second.draft} == {"d", "e"} and third.draft == first.draft

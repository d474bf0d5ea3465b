"""Whatever becomes of messages and targets, a draft holds in the end what living targets name."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from deployments.codec import Order, SessionsHeld
from deployments.session_owners import TARGET_LOST_AFTER_S, SessionOwners
from ssd_core.config import SamplingParams, SpeculationConfig
from ssd_core.draft_loop import DraftLoop, SessionClose
from ssd_core.engine.fake import FakeEngine
from ssd_core.types import Outcome, SessionOpen

SPECULATION = SpeculationConfig(preset="sd")


def opening(session_id: str) -> SessionOpen:
    return SessionOpen(session_id, (1, 2, 3), 3, SamplingParams(max_tokens=20), SPECULATION)


def test_an_order_for_another_targets_session_is_refused_and_changes_no_owner() -> None:
    owners = SessionOwners()
    assert owners.admit("t", [opening("s")], 0.0) == [opening("s")]
    for order in (opening("s"), Outcome("s", 3, (4,), ()), SessionClose("s")):
        assert owners.admit("thief", [order], 0.0) == [] and owners.owner("s") == "t"
    assert owners.admit("thief", [SessionsHeld(())], 0.0) == []
    assert owners.admit("t", [Outcome("s", 3, (4,), ())], 0.0) == [Outcome("s", 3, (4,), ())]


def test_a_session_has_no_owner_after_its_end_and_may_belong_to_another_target_then() -> None:
    owners = SessionOwners()
    owners.admit("t", [opening("s"), SessionClose("s")], 0.0)
    assert owners.owner("s") is None
    owners.admit("u", [opening("s")], 0.0)
    assert owners.owner("s") == "u"


def test_what_a_target_does_not_name_ends_its_own_only() -> None:
    owners = SessionOwners()
    owners.admit("t", [opening("s"), opening("kept")], 0.0)
    owners.admit("u", [opening("other")], 0.0)
    assert owners.admit("t", [SessionsHeld(("kept",))], 1.0) == [SessionClose("s")]
    assert owners.admit("t", [SessionsHeld(("kept",))], 2.0) == []
    assert [owners.owner(s) for s in ("s", "kept", "other")] == [None, "t", "u"]


def test_a_target_that_is_not_heard_of_is_lost_and_its_sessions_end() -> None:
    owners = SessionOwners()
    owners.admit("t", [opening("s")], 0.0)
    owners.admit("u", [opening("other")], 5.0)
    assert owners.lost(TARGET_LOST_AFTER_S) == []
    assert owners.lost(TARGET_LOST_AFTER_S + 0.1) == ["t"]
    assert owners.forget("t") == [SessionClose("s")]
    assert owners.lost(TARGET_LOST_AFTER_S + 0.1) == [] and owners.owner("other") == "u"


# ---------------------------------------------------------------- a life of two targets and one draft


@dataclass
class World:
    """A draft's loop behind its owners, a clock, and what each target has."""

    now: float = 0.0
    engine: FakeEngine = field(default_factory=lambda: FakeEngine(num_cells=150))  # room for two or three
    owners: SessionOwners = field(default_factory=SessionOwners)
    held: dict[str, list[str]] = field(default_factory=lambda: {"t": [], "u": []})
    under_way: list[tuple[str, Order]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.loop = DraftLoop(self.engine)

    def send(self, target_id: str, order: Order) -> None:
        self.under_way.append((target_id, order))

    def deliver(self, number: int, *, keeps: bool) -> None:
        if not self.under_way:
            return
        number %= len(self.under_way)
        target_id, order = self.under_way[number] if keeps else self.under_way.pop(number)
        for message in self.owners.admit(target_id, [order], self.now):
            self.loop.receive(message)
        self.loop.step()
        self.engine.check_integrity()

    def beat(self, target_id: str) -> None:
        self.send(target_id, SessionsHeld(tuple(self.held[target_id])))

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for target_id in self.owners.lost(self.now):
            for close in self.owners.forget(target_id):
                self.loop.receive(close)

    def settle(self) -> None:
        """The draft's loop does all that is left to do."""
        while self.loop.step() is not None:
            pass


TARGETS = st.sampled_from(("t", "u"))
NUMBERS = st.integers(0, 30)
DEEDS = st.one_of(
    st.tuples(st.sampled_from(("open", "close", "beat")), TARGETS),
    st.tuples(st.sampled_from(("deliver", "repeat", "lose")), NUMBERS),
)


@given(st.lists(DEEDS, max_size=60), st.booleans())
def test_all_cells_come_back_whatever_is_lost_repeated_or_overtaken_and_whoever_dies(deeds: list, dies: bool) -> None:
    world, count = World(), 0
    for deed, what in deeds:
        if deed == "open":
            count += 1
            world.held[what].append(f"s{count}")
            world.send(what, opening(f"s{count}"))
        elif deed == "close" and world.held[what]:
            world.send(what, SessionClose(world.held[what].pop(0)))
        elif deed == "beat":
            world.beat(what)
        elif deed == "lose" and world.under_way:
            world.under_way.pop(what % len(world.under_way))
        elif deed in ("deliver", "repeat"):
            world.deliver(what, keeps=deed == "repeat")
    while world.under_way:
        world.deliver(-1, keeps=False)  # the newest first: closes before their openings

    alive = ["t"] if dies else ["t", "u"]
    for _ in range(int(TARGET_LOST_AFTER_S) + 1):
        world.pass_time(1.0)
        for target_id in alive:
            world.beat(target_id)
            world.deliver(0, keeps=False)
    world.settle()
    wanted = {session_id for target_id in alive for session_id in world.held[target_id]}
    assert set(world.loop._sessions) | set(world.loop._waiting) <= wanted
    for target_id in alive:  # those that are still wanted end, and every close is lost
        world.held[target_id].clear()
        world.beat(target_id)
        world.deliver(0, keeps=False)
    world.settle()
    assert len(world.loop) == 0 and world.loop.num_waiting == 0
    assert world.engine.num_free_cells == world.engine.num_cells


def test_a_session_dropped_by_a_beat_from_before_its_opening_is_unknown_and_its_target_told() -> None:
    world = World()
    world.send("t", opening("s"))
    world.deliver(0, keeps=False)
    for message in world.owners.admit("t", [SessionsHeld(())], world.now):
        world.loop.receive(message)
    world.settle()
    assert len(world.loop) == 0
    for message in world.owners.admit("t", [Outcome("s", 3, (4,), ())], world.now):
        world.loop.receive(message)
    report = world.loop.step()
    assert report is not None and report.unknown_sessions == ("s",)
    assert world.owners.owner("s") == "t", "by which it is told"

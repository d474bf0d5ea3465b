from __future__ import annotations

from ssd_core.engine.kv import SessionCells
from ssd_core.engine.pass_groups import grouped, taken
from ssd_core.engine.runner import Work


def test_short_parts_share_passes_and_a_long_one_is_alone() -> None:
    assert grouped([3, 9, 4, 1], 8) == [[0, 2, 3], [1]]
    assert grouped([5, 5, 3, 2], 8) == [[0], [1, 2], [3]]
    assert grouped([8], 8) == [[0]]


def test_what_is_taken_keeps_its_tokens_positions_and_rows() -> None:
    sessions = [SessionCells(name, []) for name in "abc"]
    work = Work(sessions, num_new=[2, 3, 1], tokens=[10, 11, 20, 21, 22, 30], positions=[0, 1, 5, 6, 7, 9], kept=[1, 2, 3, 4, 5])
    some, num_rows = taken(work, [0, 2])
    assert some == Work([sessions[0], sessions[2]], [2, 1], [10, 11, 30], [0, 1, 9], kept=[1, 2])
    assert num_rows == [1, 1]

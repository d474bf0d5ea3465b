from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from ssd_core.engine.base import Part
from ssd_core.engine.fake import FakeEngine
from ssd_core.engine.measure import measure_step_times
from tests.engine.models import new_engine


def test_times_do_not_decrease_and_follow_the_engine() -> None:
    engine = FakeEngine(delay_s=lambda num_nodes: 0.0005 * num_nodes)
    times = measure_step_times(engine, [4, 1, 16], context=50, repeats=3)
    assert times.nodes == (1, 4, 16)
    assert list(times.seconds) == sorted(times.seconds)
    assert times.at(16) >= 0.008
    assert times.context == 50


def test_everything_is_given_back_even_when_a_pass_fails() -> None:
    def fail_late(num_nodes: int) -> float:
        if num_nodes == 3:
            raise RuntimeError("device lost")
        return 0.0

    engine = FakeEngine(delay_s=fail_late)
    with pytest.raises(RuntimeError, match="device lost"):
        measure_step_times(engine, [1, 3], context=20, repeats=1)
    assert engine.num_free_cells == engine.num_cells
    engine.check_integrity()


def test_a_small_pool_is_measured_with_what_it_can_hold() -> None:
    engine = FakeEngine(num_cells=40)
    times = measure_step_times(engine, [1, 8, 64], context=280, repeats=1)
    assert times.nodes == (1, 8)
    assert times.context == 32


def test_more_nodes_than_one_session_has_are_of_several() -> None:
    widest: list[int] = []
    engine = FakeEngine(num_cells=200)
    evaluate = engine.evaluate

    def seen(parts: Sequence[Part]) -> torch.Tensor:
        widest.append(max(len(part.tokens) for part in parts))
        return evaluate(parts)

    engine.evaluate = seen  # type: ignore[method-assign]
    times = measure_step_times(engine, [4, 40, 100], context=30, repeats=1, nodes_of_one=16)
    assert times.nodes == (4, 40, 100)
    assert times.context == (200 - 100) // 7
    assert max(widest) == 16
    assert engine.num_free_cells == engine.num_cells


def test_a_torch_engine_can_be_measured() -> None:
    engine = new_engine("qwen3")
    assert len(measure_step_times(engine, [1, 2], context=10, repeats=2).seconds) == 2
    assert engine.num_free_cells == engine.num_cells

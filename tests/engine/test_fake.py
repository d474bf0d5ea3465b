from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from ssd_core.engine.base import TRUNK_END, Part
from ssd_core.engine.fake import FakeEngine
from ssd_core.errors import CapacityError


def test_equal_seeds_give_equal_logits_and_other_seeds_others() -> None:
    tokens = [1, 2, 3]
    assert (FakeEngine(seed=1).logits_after(tokens) == FakeEngine(seed=1).logits_after(tokens)).all()
    assert (FakeEngine(seed=1).logits_after(tokens) != FakeEngine(seed=2).logits_after(tokens)).any()


def test_a_node_is_judged_by_its_path_through_trunk_and_tree() -> None:
    engine = FakeEngine()
    engine.open("s", 16)
    engine.evaluate([Part("s", [1, 2, 3], [TRUNK_END, 0, 1])])
    engine.advance("s", [0, 1, 2])
    logits = engine.evaluate([Part("s", [4, 5, 6, 7], [TRUNK_END, 0, TRUNK_END, 2])])
    expected = [engine.logits_after(path) for path in ([1, 2, 3, 4], [1, 2, 3, 4, 5], [1, 2, 3, 6], [1, 2, 3, 6, 7])]
    np.testing.assert_allclose(logits, np.array(expected), rtol=1e-6)
    engine.advance("s", [2], [3])
    np.testing.assert_allclose(engine.evaluate([Part("s", [8], [0])])[0], engine.logits_after([6, 7, 8]), rtol=1e-6)


def test_a_wrong_parent_gives_other_logits() -> None:
    engine = FakeEngine()
    engine.open("s", 16)
    engine.evaluate([Part("s", [1, 2], [TRUNK_END, TRUNK_END])])
    right, wrong = engine.evaluate([Part("s", [3, 3], [0, 1])])
    assert not torch.equal(right, wrong)


def test_a_noisy_draft_agrees_with_its_target_often_but_not_always() -> None:
    target, draft = FakeEngine(seed=7), FakeEngine(seed=7, noise=0.5)
    contexts = np.random.default_rng(0).integers(0, 64, (500, 3)).tolist()
    agreement = np.mean([target.logits_after(c).argmax() == draft.logits_after(c).argmax() for c in contexts])
    assert 0.5 < agreement < 0.75


def test_it_keeps_account_of_its_cells_as_a_real_engine_does() -> None:
    engine = FakeEngine(num_cells=8, max_model_len=6)
    engine.open("s", 7)
    with pytest.raises(CapacityError, match="exceed its reservation"):
        engine.evaluate([Part("s", [0] * 8, range(TRUNK_END, 7))])
    with pytest.raises(CapacityError, match="max_model_len"):
        engine.evaluate([Part("s", [0] * 7, range(TRUNK_END, 6))])
    assert engine.num_free_cells == 1
    engine.close("s")
    assert engine.num_free_cells == 8
    engine.check_integrity()


def test_chosen_sessions_yield_nan_and_only_they() -> None:
    engine = FakeEngine(yields_nan=lambda session_id: session_id == "sick")
    engine.open("sick", 4)
    engine.open("well", 4)
    logits = engine.evaluate([Part("sick", [1], [TRUNK_END]), Part("well", [1], [TRUNK_END])])
    assert logits.isnan().all(-1).tolist() == [True, False]


def test_a_pass_takes_as_long_as_the_simulation_asks() -> None:
    engine = FakeEngine(delay_s=lambda num_nodes: 0.001 * num_nodes)
    engine.open("s", 16)
    began = time.perf_counter()
    engine.evaluate([Part("s", [0] * 10, range(TRUNK_END, 9))])
    assert time.perf_counter() - began >= 0.01

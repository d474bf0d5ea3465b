"""The contestants of the attention bench answer one question alike. FlexAttention is not compiled here; ours is, if there is a GPU."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from torch.nn.attention.flex_attention import flex_attention

from ssd_core.engine.base import TRUNK_END
from tests.bench.attention import MAX_DIFFERENCE, Row, line
from tests.bench.contestants import Case, ancestors, ask, difference, flex, flex_options, in_float32, new_runner, sdpa, tree_parents

pytestmark = pytest.mark.usefixtures("quick_interpreter")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def test_a_node_sees_its_ancestors_and_itself() -> None:
    parents = tree_parents(6)
    assert parents == [TRUNK_END, TRUNK_END, 0, 0, 1, 1]
    assert [row.nonzero().flatten().tolist() for row in ancestors([*parents, 4])] == [[0], [1], [0, 2], [0, 3], [1, 4], [1, 5], [1, 4, 6]]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("case", [Case(150, 2, 5), Case(40, 1, 1)])
def test_all_contestants_agree_and_a_wrong_mask_would_not(case: Case) -> None:
    torch.manual_seed(0)
    runner = new_runner("0.6B", 400, 200, DEVICE, torch.float16)
    for _ in range(2):  # another question finds the pool's cells and the runner's sessions given back
        question, ours = ask(runner, case)
        exact = in_float32(question)
        flexes = [flex(question, flex_attention, options) for options in flex_options(question)]
        for attend in (ours, sdpa(question), *flexes):
            assert difference(attend(), exact) < MAX_DIFFERENCE / 4
    stranger = question._replace(seen=~question.seen)
    for attend in (sdpa(stranger), flex(stranger, flex_attention, {})):
        assert difference(attend(), exact) > 2 * MAX_DIFFERENCE


def test_a_row_says_who_could_not() -> None:
    told = line(Row(512, 8, 16, 20.0, None, 400.0, 4.0, 0.004, "flex: OutOfResources"))
    assert told.split() == ["512", "8", "16", "20.0", "-", "400.0", "4.0", "5.00x", "-", "0.0040", "flex:", "OutOfResources"]

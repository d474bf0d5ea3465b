from __future__ import annotations

import pytest

from cluster.bench.contestant import Contestant, contestant
from cluster.bench.workload import Workload, blocks, held_out_prompts, rotated
from ssd_core.errors import ConfigError


def test_presets_alternate_and_each_comes_first_in_turn() -> None:
    workload = Workload(prompts=("a", "b", "c"), presets=("ar", "sd", "ssd"))
    order = [block.preset for block in blocks(workload)]
    assert order == ["ar", "sd", "ssd", "sd", "ssd", "ar", "ssd", "ar", "sd"]


def test_every_request_is_asked_of_every_preset_the_same_way() -> None:
    workload = Workload(prompts=("a", "b"), presets=("ar", "sd"), temperatures=(0.0, 0.8), repeats=2)
    asked = {preset: {(b.repeat, case) for b in blocks(workload) if b.preset == preset for case in b.cases} for preset in workload.presets}
    assert asked["ar"] == asked["sd"]
    assert sum(len(block.cases) for block in blocks(workload)) == workload.num_requests == 16


def test_at_higher_concurrency_a_block_is_all_prompts() -> None:
    workload = Workload(prompts=("a", "b", "c"), presets=("ar", "sd"), concurrency=2)
    assert [(block.preset, len(block.cases)) for block in blocks(workload)] == [("ar", 3), ("sd", 3)]


def test_seeds_belong_to_prompts() -> None:
    workload = Workload(prompts=("a", "b"), repeats=2)
    assert {(case.prompt, case.seed) for block in blocks(workload) for case in block.cases} == {("a", 0), ("b", 1)}


def test_rotation_wraps() -> None:
    assert rotated(("a", "b"), 3) == ("b", "a")


def test_held_out_prompts_are_distinct_texts() -> None:
    prompts = held_out_prompts(8)
    assert len(set(prompts)) == 8
    assert all(isinstance(prompt, str) and prompt for prompt in prompts)


def test_more_prompts_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match="--prompts = 1000000"):
        held_out_prompts(1_000_000)


def test_kinds_of_text_share_no_prompt_and_prose_reads_like_prose() -> None:
    prose, code = held_out_prompts(48, "prose"), held_out_prompts(48, "code")
    assert not set(prose) & set(code)

    def brackets(prompts: tuple[str, ...]) -> int:
        return sum(prompt[-400:].count(sign) for prompt in prompts for sign in "()[]{}=")

    assert brackets(prose) < brackets(code) / 3


def test_a_contestant_is_a_preset_perhaps_with_settings() -> None:
    assert contestant("ssd-tree") == Contestant("ssd-tree")
    fixed = contestant("ssd-tree:self_tuning=false:tree_nodes=4:backup=ngram")
    assert fixed == Contestant("ssd-tree", None, {"self_tuning": False, "tree_nodes": 4, "backup": "ngram"})
    assert contestant("sd:lookahead=3") == Contestant("sd", 3)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sdd", "'sdd' is none of"),
        ("sd:lookahead", "'lookahead' is not field=value"),
        ("sd:lookahead=99", "lookahead"),
        ("ssd-tree:nodes=4", "nodes"),
        ("tree:verification=rejection", "chains only"),
    ],
)
def test_a_contestant_that_cannot_be_is_refused_by_name(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        contestant(name)

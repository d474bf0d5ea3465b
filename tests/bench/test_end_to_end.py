"""What of `end_to_end` needs no service: its scenes, prompts and configuration."""

from __future__ import annotations

import pytest

from cluster.config import RootConfig
from ssd_core.engine.loader import load_tokenizer
from tests.bench.end_to_end import OUTPUT_ROOM, TIMELINE_TOKENS, WIDTH, max_model_len, parse, prompts_of, scenes, service_config


def configured(*argv: str) -> RootConfig:
    return service_config(parse(argv))


def test_scenes_with_more_context_than_may_be_in_flight_are_left_out() -> None:
    words = "--context 64 128 --batch 1 4 --temperature 0 1 --max-tokens-in-flight 256 --prompts 3"
    made = list(scenes(parse(words.split())))
    assert [(scene.context, scene.batch, scene.temperature) for scene in made] == [
        (64, 1, 0.0), (64, 1, 1.0), (64, 4, 0.0), (64, 4, 1.0), (128, 1, 0.0), (128, 1, 1.0),
    ]  # fmt: skip
    assert [len(scene.prompts) for scene in made] == [3, 3, 8, 8, 3, 3]


def test_scenes_that_vary_one_at_a_time_share_the_first() -> None:
    words = "--one-at-a-time --context 64 128 --batch 1 4 --temperature 0 1"
    made = [(scene.context, scene.batch, scene.temperature) for scene in scenes(parse(words.split()))]
    assert made == [(64, 1, 0.0), (128, 1, 0.0), (64, 4, 0.0), (64, 1, 1.0)]


@pytest.mark.parametrize("context", [32, 512, 2048])
def test_prompts_differ_and_are_about_as_long_as_the_context(context: int) -> None:
    prompts = prompts_of(context, 8)
    tokenizer = load_tokenizer("embedded:target").tokenizer
    assert len(set(prompts)) == 8
    for prompt in prompts:
        assert len(tokenizer.encode(prompt, add_special_tokens=False).ids) == pytest.approx(context, rel=0.02, abs=2)


def test_a_prompt_ends_alike_in_every_context() -> None:
    for short, long in zip(prompts_of(32, 4), prompts_of(512, 4), strict=True):
        assert long.endswith(short[-40:])


def test_the_longest_sequence_is_the_longest_context_with_its_longest_answer() -> None:
    assert max_model_len(parse(["--context", "512", "64", "--max-tokens", "1000"])) == 512 + 1000 + OUTPUT_ROOM
    assert max_model_len(parse(["--context", "64", "--max-tokens", "8"])) == 64 + TIMELINE_TOKENS + OUTPUT_ROOM


@pytest.mark.parametrize(("words", "num_gpus"), [("--gpus 2", 1.0), ("--gpus 1", 0.5), ("--device cpu", 0.0)])
def test_target_and_draft_have_a_gpu_each_or_share_one_or_need_none(words: str, num_gpus: float) -> None:
    service = configured(*words.split()).service
    assert service.target.num_gpus == service.draft.num_gpus == num_gpus


def test_the_service_is_as_large_as_the_scenes_need() -> None:
    words = "--batch 2 16 4 --context 100 --kv-gib 2 --draft-kv-gib 0.5 --max-step-nodes 48"
    service = configured(*words.split()).service
    target, draft = service.target.engine, service.draft.engine
    assert service.target.max_sessions == 16 and service.draft.max_step_nodes == 48
    assert (target.kv_budget_bytes, draft.kv_budget_bytes) == (2 * 2**30, 2**29)
    assert target.max_model_len == draft.max_model_len == max_model_len(parse(words.split()))


def test_shapes_name_the_inflated_pair_or_the_small_one() -> None:
    large, small = configured().service, configured("--shape", "none", "--draft-shape", "none").service
    assert (large.target.engine.model, large.draft.engine.model) == ("embedded:target@32B", "embedded:draft@0.6B")
    assert (small.target.engine.model, small.draft.engine.model) == ("embedded:target", "embedded:draft")


def test_speculation_is_as_wide_as_a_gpu_wants_it_unless_told_otherwise() -> None:
    speculation = configured("--speculation", '{"branching": 3}').service.speculation
    assert speculation.model_dump(include=set(WIDTH)) == WIDTH | {"branching": 3}

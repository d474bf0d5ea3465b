"""The real pair in one process: exact in every preset, and equal to transformers' own generate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import ssd_core
from ssd_core.config import PRESETS
from ssd_core.engine.loader import resolve
from ssd_core.errors import InvalidRequestError
from ssd_core.generate import Pair, generate
from ssd_core.types import FinishReason, GenerationRequest, SpeculationConfig

PROMPTS = json.loads((Path(ssd_core.__file__).parent / "pretrained" / "prompts.json").read_text())


@pytest.fixture(scope="module")
def pair() -> Pair:
    torch.set_num_threads(1)
    return Pair.load()


def run_together(pair: Pair, preset: str, sampling: list, prompts: list[str]) -> list[tuple[int, ...]]:
    """All prompts at once in one loop."""
    tokens: dict[str, list[int]] = {}
    for i, (prompt, params) in enumerate(zip(prompts, sampling, strict=True)):
        ids = tuple(pair.tokenizer.encode(prompt).ids)
        tokens[f"{preset}-{i}"] = []
        request = GenerationRequest(f"{preset}-{i}", ids, params, SpeculationConfig(preset=preset))
        pair.loop.add(request, lambda e: tokens[e.session_id].extend(e.tokens))
    while not pair.loop.is_idle:
        if not pair.loop.step():
            pair.loop.wait(0.01)
    return [tuple(t) for t in tokens.values()]


@pytest.mark.parametrize(
    "fields",
    [{}, {"temperature": 0.7}, {"temperature": 1.0, "top_p": 0.9, "frequency_penalty": 0.2, "repetition_penalty": 1.1}],
    ids=["T=0", "T=0.7", "T=1 with top-p and penalties"],
)
@pytest.mark.parametrize("concurrency", [1, 8])
def test_every_preset_gives_identical_tokens_on_the_real_pair(pair: Pair, fields: dict, concurrency: int) -> None:
    from ssd_core.config import SamplingParams

    prompts = PROMPTS[:concurrency]
    sampling = [SamplingParams(max_tokens=48 if concurrency == 1 else 24, seed=i, ignore_eos=True, **fields) for i in range(concurrency)]
    before = pair.loop.stats().accepted
    plain = run_together(pair, "ar", sampling, prompts)
    for preset in PRESETS[1:]:
        assert run_together(pair, preset, sampling, prompts) == plain, preset
    assert pair.loop.stats().accepted > before


def test_greedy_output_is_that_of_transformers_generate(pair: Pair) -> None:
    model = AutoModelForCausalLM.from_pretrained(resolve("embedded:target"), dtype=torch.float32)
    for prompt in PROMPTS[7:11]:
        ids = torch.tensor([pair.tokenizer.encode(prompt).ids])
        theirs = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=48, do_sample=False)[0, ids.shape[1] :].tolist()
        ours = pair.generate(prompt, preset="ssd-tree", max_tokens=48)
        assert list(ours.tokens) == theirs
        assert ours.stats.num_accepted > 0


def test_streamed_chunks_join_to_the_completion(pair: Pair) -> None:
    chunks = list(pair.stream(PROMPTS[0], max_tokens=30, ignore_eos=True))
    whole = pair.generate(PROMPTS[0], max_tokens=30, ignore_eos=True, preset="ar")
    assert len(chunks) < 30, "a round may give several tokens"
    assert "".join(c.text for c in chunks) == whole.text == pair.tokenizer.decode(list(whole.tokens))
    assert [c.finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 1) and chunks[-1].finish_reason is FinishReason.LENGTH


def test_a_stop_string_ends_text_and_tokens_alike_in_every_preset(pair: Pair) -> None:
    plain = pair.generate(PROMPTS[0], max_tokens=40, ignore_eos=True, preset="ar")
    stop = plain.text[25:29]
    for preset in PRESETS:
        stopped = pair.generate(PROMPTS[0], max_tokens=40, ignore_eos=True, preset=preset, stop=(stop,))
        assert stopped.finish_reason is FinishReason.STOP
        assert stopped.text == plain.text[: plain.text.index(stop)]
        assert stopped.tokens == plain.tokens[: len(stopped.tokens)]
        kept = pair.generate(PROMPTS[0], max_tokens=40, ignore_eos=True, preset=preset, stop=(stop,), include_stop_str_in_output=True)
        assert kept.text == plain.text[: plain.text.index(stop) + len(stop)]


def test_leaving_a_stream_gives_everything_back(pair: Pair) -> None:
    stream = pair.stream(PROMPTS[0], max_tokens=100)
    next(stream)
    stream.close()
    stats = pair.loop.stats()
    assert stats.running == 0 and stats.kv_cells_free == stats.kv_cells and stats.store_sessions == 0


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("temperature", {"temperature": -1.0}),
        ("temperature", {"temperature": float("nan")}),
        ("max_tokens", {"max_tokens": 0}),
        ("max_tokens", {"max_tokens": 10**6}),
        ("top_p", {"top_p": 0.0}),
        ("tempreture", {"tempreture": 1.0}),
    ],
)
def test_bad_arguments_name_the_field(pair: Pair, field: str, arguments: dict) -> None:
    with pytest.raises(InvalidRequestError, match=field) as caught:
        pair.generate(PROMPTS[0], **arguments)
    assert caught.value.field == field


def test_an_empty_prompt_is_refused(pair: Pair) -> None:
    with pytest.raises(InvalidRequestError, match="prompt"):
        generate("", pair=pair)

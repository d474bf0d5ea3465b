"""What of `vllm_process` needs no vLLM: the specification, the queue, the speeds."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from tests.bench.vllm_process import Answer, Block, Spec, answer_all

RUN = {"name": "one", "batch": 2, "temperature": 0.0, "max_tokens": 4, "prompts": [[1, 2, 3], [4]], "repeats": 1}
SPEC = {
    "mode": "sd",
    "model": "the-target",
    "draft": "the-draft",
    "num_speculative_tokens": 3,
    "dtype": "float32",
    "max_model_len": 7,
    "gpu_memory_utilization": None,
    "kv_cache_memory_bytes": None,
    "enforce_eager": True,
    "max_num_seqs": 2,
    "multiprocess": False,
    "workload": [RUN],
}


@dataclass
class FakeEngine:
    """A step takes a second and gives every request two tokens, in its first step one. A request's parameters are how many it wants in
    all; its tokens are its prompt, over and over."""

    now: float = 0.0
    order: list[str] = field(default_factory=list)
    most_in_flight: int = 0
    _to_come: dict[str, list[list[int]]] = field(default_factory=dict)

    def clock(self) -> float:
        return self.now

    def add_request(self, request_id: str, prompt: Any, params: Any) -> None:
        self.order.append(request_id)
        self._to_come[request_id] = [[prompt], *([prompt] * min(2, params - i) for i in range(1, params, 2))]
        self.most_in_flight = max(self.most_in_flight, len(self._to_come))

    def step(self) -> list[Any]:
        assert self._to_come, "would wait for ever"
        self.now += 1.0
        outputs = [
            SimpleNamespace(request_id=request_id, outputs=[SimpleNamespace(token_ids=steps.pop(0))], finished=not steps)
            for request_id, steps in self._to_come.items()
        ]
        self._to_come = {request_id: steps for request_id, steps in self._to_come.items() if steps}
        return outputs


def specified(**changes: Any) -> Spec:
    return Spec.model_validate_json(json.dumps(SPEC | changes))


def test_a_specification_is_read() -> None:
    spec = specified()
    assert spec.workload[0].prompts == ((1, 2, 3), (4,))
    assert spec.draft_sampling == "greedy" and spec.async_scheduling is None


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"mode": "eagle"}, "mode"),
        ({"num_speculative_tokens": 0}, "num_speculative_tokens"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization"),
        ({"max_num_sequences": 4}, "max_num_sequences"),
        ({"workload": [RUN | {"batch": 0}]}, "workload.0.batch"),
        ({"workload": [RUN, RUN | {"prompts": []}]}, "workload.1.prompts"),
        ({"workload": [RUN | {"seed": 3}]}, "workload.0.seed"),
        ({"draft": None}, "draft"),
        ({"max_num_seqs": 1}, "max_num_seqs"),
        ({"max_model_len": 6}, "max_model_len"),
    ],
)
def test_a_mistake_is_told_by_its_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError, match=rf"(?m)^{field}$|, {field} = "):
        specified(**changes)


def test_each_mode_speculates_in_its_own_way() -> None:
    assert specified(mode="ar").speculative_config is None
    assert specified(mode="ngram").speculative_config == {
        "method": "ngram",
        "prompt_lookup_min": 2,
        "prompt_lookup_max": 4,
        "num_speculative_tokens": 3,
    }
    assert specified(draft_sampling="probabilistic").speculative_config == {
        "method": "draft_model",
        "model": "the-draft",
        "draft_sample_method": "probabilistic",
        "num_speculative_tokens": 3,
    }


@pytest.mark.parametrize("batch", [1, 2, 3, 9])
def test_no_more_than_the_batch_are_in_flight_and_everybody_is_answered(batch: int) -> None:
    engine = FakeEngine()
    lengths = [3, 6, 2, 5, 2]
    block = answer_all(engine, range(5), lengths, batch, engine.clock)
    assert engine.most_in_flight == min(batch, 5)
    assert engine.order == ["0", "1", "2", "3", "4"]
    assert [answer.token_ids for answer in block.answers] == [(i,) * length for i, length in enumerate(lengths)]


def test_as_one_ends_the_next_is_begun() -> None:
    engine = FakeEngine()
    block = answer_all(engine, range(3), [2, 6, 4], 2, engine.clock)
    # The first ends after two steps, the second after four; the third, begun after two, takes three.
    assert [(answer.first_token_s, answer.wall_s, answer.num_rounds) for answer in block.answers] == [(1, 2, 2), (1, 4, 4), (1, 3, 3)]
    assert block.wall_s == 5


def test_the_prompts_step_counts_for_the_whole_speed_only() -> None:
    block = Block(5.0, (Answer(1.0, 3.0, 3, (1, 2, 3, 4)), Answer(2.0, 5.0, 2, (1, 2, 3, 4))))
    assert block.tokens_per_s == 8 / 5
    assert block.decode_tokens_per_s == 6 / 5
    assert block.tokens_per_round == 6 / 3

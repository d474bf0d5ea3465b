"""vLLM on the prompts that our service is measured on, in a process of its own: `python -m tests.bench.vllm_process SPEC.json RESULT.json`.

One engine in one mode: plain decoding (`ar`), a draft model's chain (`sd`), or a chain looked up in the text so far (`ngram`). Its client
is the engine's own loop: token ids in and out, no HTTP and no text. For vLLM 0.26 and 0.32. On a CPU, speculate at temperature 0 only:
both versions' CPU backend leaves the temperature of speculated tokens uninitialised.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import Field, model_validator

from cluster.bench.measure import Clock, decode_tokens_per_s
from ssd_core.config import Config

if TYPE_CHECKING:
    from vllm import LLM, SamplingParams

WARM_UP_TOKENS = 16
"""Of each answer before a run is measured: its prompt and a few rounds, so that what is compiled on first use is there."""
COUNTERS = ("num_drafts", "num_draft_tokens", "num_accepted_tokens")


class Run(Config):
    """Prompts answered `repeats` times at one temperature, `batch` at a time. Token ids; a prompt's index is its seed."""

    name: str
    batch: int = Field(ge=1)
    temperature: float = Field(ge=0.0)
    max_tokens: int = Field(ge=2)
    """Of each answer, which has no other end. The second and later ones tell the decode speed."""
    prompts: tuple[tuple[int, ...], ...] = Field(min_length=1)
    repeats: int = Field(ge=1)


class Spec(Config):
    mode: Literal["ar", "sd", "ngram"]
    model: str
    """Folder of a Hugging Face checkpoint; its tokenizer is not read."""
    draft: str | None = None
    """The same, for mode `sd`."""
    num_speculative_tokens: int = Field(ge=1)
    dtype: str
    max_model_len: int = Field(ge=1)
    """Longest prompt with its answer, in tokens."""
    gpu_memory_utilization: float | None = Field(default=None, gt=0.0, le=1.0)
    """Share of the GPU's memory for weights and KV. None: vLLM's own."""
    kv_cache_memory_bytes: int | None = Field(default=None, ge=1)
    """KV of target and draft together. None: what the share above leaves."""
    enforce_eager: bool = False
    """Nothing compiled, no CUDA graphs."""
    max_num_seqs: int = Field(ge=1)
    """Largest batch; graphs are captured up to it."""
    multiprocess: bool = True
    """The engine's core in a process beside the client's, as vLLM has it."""
    async_scheduling: bool | None = None
    """A step is scheduled while the one before runs. None: vLLM's choice, which in 0.26 is no for `sd`, though it can. `ngram` cannot."""
    draft_sampling: Literal["greedy", "probabilistic"] = "greedy"
    """How `sd` drafts at a temperature: the likeliest token, as vLLM does unless told otherwise, or a sample."""
    workload: tuple[Run, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _parts_fit(self) -> Spec:
        if self.mode == "sd" and self.draft is None:
            raise ValueError("draft = None: mode 'sd' needs one")
        for run in self.workload:
            if run.batch > self.max_num_seqs:
                raise ValueError(f"max_num_seqs = {self.max_num_seqs}: less than batch = {run.batch} of {run.name!r}")
            if (longest := max(map(len, run.prompts)) + run.max_tokens) > self.max_model_len:
                raise ValueError(f"max_model_len = {self.max_model_len}: {run.name!r} needs {longest}")
        return self

    @property
    def speculative_config(self) -> dict[str, Any] | None:
        chain = {"num_speculative_tokens": self.num_speculative_tokens}
        if self.mode == "sd":
            return {"method": "draft_model", "model": self.draft, "draft_sample_method": self.draft_sampling, **chain}
        return {"method": "ngram", "prompt_lookup_min": 2, "prompt_lookup_max": 4, **chain} if self.mode == "ngram" else None


class Engine(Protocol):
    """What of vLLM's LLMEngine is used. A step gives each request its new tokens."""

    def add_request(self, request_id: str, prompt: Any, params: Any) -> object: ...
    def step(self) -> Iterable[Any]: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """Seconds since the engine was given the request."""

    first_token_s: float
    wall_s: float
    num_rounds: int
    """Steps that gave it tokens, the prompt's among them."""
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """All prompts of a run, once; the answers in their order. Speeds are those of cluster.bench.measure.BlockResult."""

    wall_s: float
    answers: tuple[Answer, ...]

    @property
    def num_tokens(self) -> int:
        return sum(len(answer.token_ids) for answer in self.answers)

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.wall_s

    @property
    def decode_tokens_per_s(self) -> float:
        return decode_tokens_per_s(self.answers)

    @property
    def tokens_per_round(self) -> float:
        """Without the prompt's step and its token. vLLM's counters would leave out the rounds that had no draft."""
        return (self.num_tokens - len(self.answers)) / sum(answer.num_rounds - 1 for answer in self.answers)


def answer_all(engine: Engine, prompts: Sequence[Any], params: Sequence[Any], batch: int, clock: Clock = time.perf_counter) -> Block:
    """Keeps `batch` requests in flight: as one ends, the next is given to the engine."""
    keys = [str(index) for index in range(len(prompts))]
    given: dict[str, float] = {}
    times: dict[str, list[float]] = {key: [] for key in keys}
    tokens: dict[str, list[int]] = {key: [] for key in keys}
    waiting = deque(zip(keys, prompts, params, strict=True))
    num_in_flight = 0
    began = clock()
    while waiting or num_in_flight:
        while waiting and num_in_flight < batch:
            key, *request = waiting.popleft()
            given[key] = clock()
            engine.add_request(key, *request)
            num_in_flight += 1
        outputs = engine.step()
        now = clock()
        for output in outputs:
            times[output.request_id].append(now)
            tokens[output.request_id] += output.outputs[0].token_ids
            num_in_flight -= output.finished
    answers = tuple(Answer(times[key][0] - given[key], times[key][-1] - given[key], len(times[key]), tuple(tokens[key])) for key in keys)
    return Block(clock() - began, answers)


def load(spec: Spec) -> LLM:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = str(int(spec.multiprocess))
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    from vllm import LLM

    optional = {"gpu_memory_utilization": spec.gpu_memory_utilization, "async_scheduling": spec.async_scheduling}
    return LLM(
        model=spec.model,
        skip_tokenizer_init=True,
        dtype=spec.dtype,
        max_model_len=spec.max_model_len,
        max_num_seqs=spec.max_num_seqs,
        enforce_eager=spec.enforce_eager,
        kv_cache_memory_bytes=spec.kv_cache_memory_bytes,
        enable_prefix_caching=False,  # a repeat reads its prompts again, as our service does
        speculative_config=spec.speculative_config,
        disable_log_stats=False,  # they are the counters
        **{name: value for name, value in optional.items() if value is not None},
    )


def measure(llm: LLM, run: Run) -> dict[str, Any]:
    """After a warm-up of the same prompts and batch. Medians over repeats, of the first token over requests; counters of all repeats."""
    prompts = [{"type": "token", "prompt_token_ids": list(prompt)} for prompt in run.prompts]  # as vLLM's own rendering makes them
    answer_all(llm.llm_engine, prompts, sampling(run, min(WARM_UP_TOKENS, run.max_tokens)), run.batch)
    before = counters(llm)
    blocks = [answer_all(llm.llm_engine, prompts, sampling(run, run.max_tokens), run.batch) for _ in range(run.repeats)]
    return {
        "name": run.name,
        "tokens_per_s": median(block.tokens_per_s for block in blocks),
        "decode_tokens_per_s": median(block.decode_tokens_per_s for block in blocks),
        "tokens_per_round": median(block.tokens_per_round for block in blocks),
        "first_token_s": median(answer.first_token_s for block in blocks for answer in block.answers),
        **{name: total - before[name] for name, total in counters(llm).items()},
        "blocks": [asdict(block) for block in blocks],
    }


def sampling(run: Run, max_tokens: int) -> list[SamplingParams]:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    common = {"temperature": run.temperature, "max_tokens": max_tokens, "ignore_eos": True, "detokenize": False}
    return [SamplingParams(seed=seed, output_kind=RequestOutputKind.DELTA, **common) for seed in range(len(run.prompts))]


def counters(llm: LLM) -> dict[str, int]:
    """Since the engine was loaded; 0 where nothing is drafted."""
    values = {metric.name: getattr(metric, "value", 0) for metric in llm.get_metrics()}
    return {name: values.get(f"vllm:spec_decode_{name}", 0) for name in COUNTERS}


def main() -> None:
    spec_path, result_path = map(Path, sys.argv[1:])
    spec = Spec.model_validate_json(spec_path.read_text())
    began = time.perf_counter()
    llm = load(spec)
    load_s = time.perf_counter() - began  # vLLM's import, weights, compilation and graphs
    import vllm

    runs: list[dict[str, Any]] = []
    result: dict[str, Any] = {"vllm": vllm.__version__, "mode": spec.mode, "load_s": load_s, "runs": runs}
    for run in spec.workload:
        runs.append(measure(llm, run))
        sys.stdout.write(f"{spec.mode}, {run.name}: {runs[-1]['tokens_per_s']:.1f} tokens/s\n")
        result_path.write_text(json.dumps(result))  # should a later run break, this one is not lost


if __name__ == "__main__":
    main()

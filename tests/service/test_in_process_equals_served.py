"""`Pair` and the service, which is here its parser, loop and assembler without Ray, give the same answers to the same prompts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deployments.config import DraftConfig, ServiceConfig, TargetConfig
from deployments.engines import load_engine, load_tokenizer
from deployments.messages import Chunk, ModelCard, Refusal, Snapshot
from deployments.preflight import check_service
from deployments.service import Service
from deployments.target_server import TargetServer
from ssd_core.config import PRESETS, EngineConfig
from ssd_core.draft_loop import DraftLoop
from ssd_core.errors import ConfigError, InvalidRequestError
from ssd_core.generate import Pair
from ssd_core.lockstep import LockstepLink
from ssd_core.types import Emission, GenerationRequest
from tests.engine.model_folders import BEGIN, TOKENIZER_SIZE, tokenizer_with_begin, write_model

PADDED = TOKENIZER_SIZE + 30
PROMPTS = ("def fibonacci(n):\n", "naïve ☃", [72, 101, 108])


class LocalLink(LockstepLink):
    """For a loop in a thread: it sleeps while there is nothing to grow, until it is woken."""

    def __init__(self, draft: DraftLoop) -> None:
        super().__init__(draft)
        self._woken = threading.Event()

    def wait(self, timeout_s: float) -> None:
        super().wait(timeout_s)
        if not self._reports:
            self._woken.wait(timeout_s)
            self._woken.clear()

    def wake(self) -> None:
        self._woken.set()


class LocalTarget:
    """The ingress's way to a TargetServer of its own process."""

    def __init__(self, server: TargetServer) -> None:
        self._server = server

    def generate(self, request: GenerationRequest, session_key: str = "") -> AsyncGenerator[Emission | Refusal, None]:
        return self._server.generate(request)

    async def complete(self, request: GenerationRequest, session_key: str = "") -> Emission | Refusal:
        return await self._server.complete(request)

    async def check_alive(self) -> None:
        self._server.check_alive()

    async def card(self) -> ModelCard:
        return self._server.card

    async def snapshots(self, callers_own: Snapshot) -> tuple[Snapshot, ...]:
        return (callers_own,)


def config_of(target: str, draft: str) -> ServiceConfig:
    return ServiceConfig(
        target=TargetConfig(engine=EngineConfig(model=target, kv_budget_bytes=2**24, step_times_nodes=(1, 8))),
        draft=DraftConfig(engine=EngineConfig(model=draft, kv_budget_bytes=2**24)),
    )


@asynccontextmanager
async def served(config: ServiceConfig) -> AsyncIterator[Service]:
    check_service(config)

    def link() -> LocalLink:
        model = config.target.engine.model
        return LocalLink(DraftLoop(load_engine(config.draft.engine), eos_token_ids=load_tokenizer(model).eos_token_ids))

    server = TargetServer(config, link)
    try:
        service = Service(config, LocalTarget(server))
        await service.connect()
        yield service
    finally:
        await asyncio.to_thread(server.stop)


async def answer(service: Service, prompt: Any, **fields: Any) -> Chunk:
    (chunk,) = await service.run(service.parser.sampled(prompt, {"speculation": {"self_tuning": False}, **fields}))
    return chunk


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """By kind, a target and a draft. The same seed makes a draft that agrees, where its shape is the same."""
    folder = tmp_path_factory.mktemp("models")
    exact, other = write_model(folder / "exact"), write_model(folder / "other", seed=1)
    padded, padded_more = write_model(folder / "padded", vocab_size=PADDED), write_model(folder / "more", vocab_size=PADDED + 64, seed=2)
    return {
        "begin": (exact, exact),
        "begin, another draft": (exact, other),
        "padded target": (padded, exact),
        "padded draft": (exact, padded),
        "both padded": (padded, padded_more),
        "embedded": ("embedded:target", "embedded:draft"),
    }


KINDS = ("begin", "begin, another draft", "padded target", "padded draft", "both padded", pytest.param("embedded", marks=pytest.mark.pair))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_pair_answers_as_the_service_does(pairs: dict[str, tuple[str, str]], kind: str) -> None:
    config = config_of(*pairs[kind])
    pair = Pair.load(config.target.engine, config.draft.engine)
    async with served(config) as service:
        for prompt in PROMPTS:
            plain = pair.generate(prompt, preset="ar", max_tokens=24, temperature=0.8, seed=3)
            for preset in PRESETS:
                fields: dict[str, Any] = {"preset": preset, "max_tokens": 24, "temperature": 0.8, "seed": 3}
                ours, theirs = pair.generate(prompt, **fields), await answer(service, prompt, **fields)
                assert ours.tokens == theirs.token_ids == plain.tokens, (prompt, preset)
                assert ours.text == theirs.text and ours.finish_reason == theirs.finish_reason
                assert theirs.stats is not None and ours.stats.num_prompt_tokens == theirs.stats.num_prompt_tokens


def test_a_texts_beginning_counts_as_a_prompt_token(pairs: dict[str, tuple[str, str]]) -> None:
    target, draft = (EngineConfig(model=model, kv_budget_bytes=2**24, step_times_nodes=(1, 8)) for model in pairs["begin"])
    pair = Pair.load(target, draft)
    begin = tokenizer_with_begin().token_to_id(BEGIN)
    spoken, spelt = (pair.generate(prompt, max_tokens=8) for prompt in ("ab", [begin, ord("a") - 33, ord("b") - 33]))
    assert spoken.stats.num_prompt_tokens == 3
    assert spoken.tokens == spelt.tokens


@pytest.mark.parametrize("preset", PRESETS)
def test_tokens_that_the_draft_lacks_cost_no_token(pairs: dict[str, tuple[str, str]], preset: Any) -> None:
    """The prompt holds one, the bias has the answer hold them."""
    target, draft = (EngineConfig(model=model, kv_budget_bytes=2**24, step_times_nodes=(1, 8)) for model in pairs["padded target"])
    pair = Pair.load(target, draft)
    unknown = PADDED - 1
    for prompt, bias in (([5, unknown, 6], {}), ([5, 6], {unknown: 50.0, 7: 49.0})):
        arguments: dict[str, Any] = {"max_tokens": 20, "logit_bias": bias, "temperature": 1.0, "ignore_eos": True}
        found, plain = (pair.generate(prompt, preset=name, **arguments) for name in (preset, "ar"))
        assert found.tokens == plain.tokens and len(plain.tokens) == 20
        assert not bias or unknown in plain.tokens
    stats = pair.loop.stats()
    assert stats.running == 0 and stats.kv_cells_free == stats.kv_cells


@pytest.mark.parametrize("field", ["stop_token_ids", "logit_bias"])
async def test_ids_beyond_the_vocabulary_are_refused_alike(pairs: dict[str, tuple[str, str]], field: str) -> None:
    config = config_of(*pairs["begin"])
    value: Any = [TOKENIZER_SIZE] if field == "stop_token_ids" else {TOKENIZER_SIZE: 1.0}
    with pytest.raises(InvalidRequestError, match=field):
        Pair.load(config.target.engine, config.draft.engine).generate("a", **{field: value})
    async with served(config) as service:
        with pytest.raises(Exception, match=field):
            await answer(service, "a", **{field: value})


def test_a_draft_of_other_tokens_is_refused_alike(tmp_path: Path) -> None:
    tokenizer = tokenizer_with_begin()
    tokenizer.add_tokens(["another"])
    target, draft = write_model(tmp_path / "target"), write_model(tmp_path / "draft", tokenizer=tokenizer)
    config = config_of(target, draft)
    with pytest.raises(ConfigError, match="different vocabularies: 259 and 258 tokens, 258 alike"):
        check_service(config)
    with pytest.raises(ConfigError, match="different vocabularies: 259 and 258 tokens, 258 alike"):
        Pair.load(config.target.engine, config.draft.engine)

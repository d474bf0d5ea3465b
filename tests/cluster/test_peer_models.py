"""The peer with the embedded pair, in its process: transformers' own tokens, and ours."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import ssd_core
from cluster.bench.peer import Drafting, Fork, PeerRequest, Setting
from cluster.bench.peer_check import NEAR_TIE_ROUNDINGS
from cluster.bench.peer_choice import DRAFTINGS
from cluster.bench.peer_process import PeerError, PeerProcess
from ssd_core.config import EngineConfig
from ssd_core.engine.loader import resolve
from ssd_core.errors import ConfigError
from ssd_core.generate import Pair

pytestmark = pytest.mark.pair

PROMPTS = json.loads((Path(ssd_core.__file__).parent / "pretrained" / "prompts.json").read_text())[:3]
NUM_TOKENS = 32
TARGET, DRAFT = EngineConfig(), EngineConfig(model="embedded:draft")


@pytest.fixture(scope="module")
def peer() -> Iterator[PeerProcess]:
    with PeerProcess(TARGET, DRAFT) as process:
        yield process
    assert not process.is_alive


@pytest.fixture(scope="module")
def pair() -> Pair:
    torch.set_num_threads(1)
    return Pair.load()


def greedy(prompt: str, setting: Setting) -> PeerRequest:
    return PeerRequest(prompt, NUM_TOKENS, 0.0, 0, setting)


def test_greedy_answers_are_those_of_transformers_and_of_our_plain_decoding(peer: PeerProcess, pair: Pair) -> None:
    model = AutoModelForCausalLM.from_pretrained(resolve(TARGET.model), dtype=torch.float32)
    for prompt in PROMPTS:
        ids = torch.tensor([pair.tokenizer.encode(prompt).ids])
        theirs = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NUM_TOKENS, do_sample=False, eos_token_id=[])
        ours = pair.generate(prompt, preset="ar", max_tokens=NUM_TOKENS, ignore_eos=True)
        assert theirs[0, ids.shape[1] :].tolist() == list(ours.tokens)
        for setting in (Setting(1), *(Setting(1, drafting) for drafting in DRAFTINGS)):
            answer = peer.generate(greedy(prompt, setting))
            assert answer.token_ids == ours.tokens, setting
            assert answer.text == ours.text


def test_the_assistant_saves_passes_of_the_target(peer: PeerProcess) -> None:
    plain, assisted = (peer.generate(greedy(PROMPTS[0], setting)) for setting in (Setting(1), Setting(1, Drafting())))
    assert plain.num_rounds == NUM_TOKENS
    assert assisted.num_rounds < NUM_TOKENS / 2
    assert 0 < plain.first_token_s < 10


@pytest.mark.parametrize("drafting", [None, Drafting()], ids=["plain", "assisted"])
def test_sampling_follows_the_seed(peer: PeerProcess, drafting: Drafting | None) -> None:
    answers = [peer.generate(PeerRequest(PROMPTS[0], NUM_TOKENS, 1.0, seed, Setting(1, drafting))).token_ids for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]
    assert len(answers[0]) == NUM_TOKENS


def test_the_gap_of_two_tokens_is_that_of_their_logits(peer: PeerProcess, pair: Pair) -> None:
    chosen, unlikely = (pair.tokenizer.encode(text).ids[0] for text in ("def", "~"))
    fork = Fork(PROMPTS[0], (), frozenset((chosen, unlikely)))
    assert peer.gap_roundings(fork) > 100 * NEAR_TIE_ROUNDINGS
    assert peer.gap_roundings(Fork(PROMPTS[0], (chosen,), frozenset((chosen,)))) == 0


def test_a_model_that_cannot_be_loaded_is_a_mistake_in_the_configuration() -> None:
    with pytest.raises(ConfigError, match="embedded:nothing"), PeerProcess(EngineConfig(model="embedded:nothing"), DRAFT):
        pass


def test_a_process_that_ends_is_an_error_and_not_a_wait() -> None:
    with PeerProcess(TARGET, DRAFT) as process:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(PeerError, match="exit code -9"):
            process.generate(greedy(PROMPTS[0], Setting(1)))
    assert not process.is_alive

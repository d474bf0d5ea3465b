"""Rejection sampling through both loops: what comes out has the target's distribution, whatever the draft."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import chisquare

import ssd_core.acceptance
from ssd_core.config import SamplingParams, SpeculationConfig
from ssd_core.engine.fake import FakeEngine
from ssd_core.types import GenerationRequest
from tests.core.driver import drive

VOCAB = 12
NUM_SESSIONS = 400
BATCH = 50
PROMPT = (1, 2, 3)
TEMPERATURE = 1.3


@dataclass
class Sampled:
    tokens: list[tuple[int, ...]]
    num_submitted: int = 0
    num_accepted: int = 0


def run(preset: str, *, max_tokens: int = 5, num_sessions: int = NUM_SESSIONS, **speculation: object) -> Sampled:
    """Sessions that differ in nothing but their seed. Their first token comes with the prompt, others from speculation."""
    config = SpeculationConfig(preset=preset, **{"verification": "rejection", "lookahead": 3, **speculation})
    sampled = Sampled([])
    for first in range(0, num_sessions, BATCH):
        samplings = (
            SamplingParams(max_tokens=max_tokens, temperature=TEMPERATURE, seed=seed, ignore_eos=True)
            for seed in range(first, min(first + BATCH, num_sessions))
        )
        wanted = [GenerationRequest(f"s{sampling.seed}", PROMPT, sampling, config) for sampling in samplings]
        result = drive(wanted, target=FakeEngine(VOCAB, seed=3), draft=FakeEngine(VOCAB, seed=3, noise=0.7, num_cells=10**5))
        sampled.tokens += [tuple(result.tokens[request.session_id]) for request in wanted]
        assert result.stats is not None
        sampled.num_submitted += result.stats.draft_tokens
        sampled.num_accepted += result.stats.accepted
    return sampled


def expected(num_tokens: int) -> dict[tuple[int, ...], float]:
    """Probability of every sequence of `num_tokens` after the prompt."""
    target = FakeEngine(VOCAB, seed=3)
    sequences: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(num_tokens):
        grown: dict[tuple[int, ...], float] = {}
        for sequence, probability in sequences.items():
            weights = np.exp(target.logits_after((*PROMPT, *sequence)) / TEMPERATURE)
            for token, share in enumerate(weights / weights.sum()):
                grown[*sequence, token] = probability * float(share)
        sequences = grown
    return sequences


def p_value(sequences: list[tuple[int, ...]], num_tokens: int) -> float:
    """Chi-square of the first tokens against the target's distribution; rare sequences are one class."""
    counts = Counter(sequence[:num_tokens] for sequence in sequences)
    total = len(sequences)
    common = {sequence: share * total for sequence, share in expected(num_tokens).items() if share * total >= 5}
    observed = [counts[sequence] for sequence in common]
    return float(chisquare([*observed, total - sum(observed)], [*common.values(), total - sum(common.values())]).pvalue)


@pytest.mark.parametrize(
    ("preset", "speculation"),
    [("ar", {}), ("sd", {}), ("saguaro", {"saguaro_c": 0.3})],
    ids=str,
)
def test_tokens_follow_the_targets_distribution(preset: str, speculation: dict) -> None:
    result = run(preset, **speculation)
    assert p_value(result.tokens, 2) > 1e-3 and p_value(result.tokens, 3) > 1e-3
    assert preset == "ar" or 0 < result.num_accepted < result.num_submitted


def test_the_same_test_objects_when_every_likely_token_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssd_core.acceptance, "is_accepted", lambda p, q, position, seed: p > 0.5 * q)
    assert p_value(run("sd", num_sessions=2 * NUM_SESSIONS).tokens, 2) < 1e-6


def test_a_request_repeats_its_tokens_where_target_and_draft_take_turns() -> None:
    """Where they work at the same time, what is drawn hangs on who was quicker."""
    assert run("sd", max_tokens=20, num_sessions=3).tokens == run("sd", max_tokens=20, num_sessions=3).tokens


def test_greedy_sessions_give_the_tokens_of_plain_decoding() -> None:
    def greedy(preset: str) -> dict[str, list[int]]:
        config = SpeculationConfig(preset=preset, verification="rejection")
        wanted = [GenerationRequest("a", PROMPT, SamplingParams(max_tokens=40, ignore_eos=True), config)]
        return drive(wanted).tokens

    assert greedy("sd") == greedy("ssd") == greedy("saguaro") == greedy("ar")


@pytest.mark.parametrize("preset", ["tree", "ssd-tree"])
def test_trees_are_refused_by_name(preset: str) -> None:
    with pytest.raises(ValidationError, match=f"preset = '{preset}'.*chains only"):
        SpeculationConfig(preset=preset, verification="rejection")

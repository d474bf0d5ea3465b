"""The token rule samples from the target's distribution, and its noise is Philox."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from ssd_core.config import SamplingParams
from ssd_core.noise import NoiseCache, gumbel, gumbel_by_torch, philox
from ssd_core.sampling import CHUNK, Rows, TokenRule, likeliest, likeliest_by_chunks, mask_tail, on_host, on_host_in_one, scores

# Known answers of Philox-4x64-10, from the Random123 distribution: counter, key, result.
KNOWN_ANSWERS = [
    ((0,) * 4, (0, 0), (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B)),
    ((2**64 - 1,) * 4, (2**64 - 1,) * 2, (0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0)),
    (
        (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89),
        (0x452821E638D01377, 0xBE5466CF34E90C6C),
        (0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6),
    ),
]
CPU = torch.device("cpu")
LOGITS = torch.tensor([2.0, 1.5, 1.0, 0.2, 0.0, -0.5, -1.0, -3.0])
NUM_DRAWS = 20_000


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_its_known_answers(counter: tuple, key: tuple, expected: tuple) -> None:
    words = philox(tuple(torch.from_numpy(np.array([c], np.uint64).view(np.int64)) for c in counter), key)
    assert tuple(int(word) % 2**64 for word in words) == expected


@pytest.mark.parametrize("vocab_size", [8, 50, 4096])
@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
def test_noise_is_the_same_by_numpy_and_by_torch(seed: int, vocab_size: int) -> None:
    positions = [0, 1, 33, 100_000]
    assert torch.equal(gumbel(seed, positions, vocab_size, CPU), gumbel_by_torch(seed, torch.tensor(positions), vocab_size))


@pytest.mark.parametrize("vocab_size", [50, 4096])
@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_noise_is_the_same_by_triton(seed: int, vocab_size: int) -> None:
    """To a rounding: a GPU's logarithm is its own."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from ssd_core.noise_kernel import gumbel_by_triton

    positions = [0, 1, 33, 100_000]
    device = "cuda" if torch.cuda.is_available() else "cpu"  # there in Triton's interpreter
    noise = gumbel_by_triton(seed, torch.tensor(positions, device=device), vocab_size).cpu()
    torch.testing.assert_close(noise, gumbel(seed, positions, vocab_size, CPU), rtol=1.2e-7, atol=0)


def test_noise_depends_on_seed_position_and_token_alone() -> None:
    whole = gumbel(7, range(40), 50, CPU)
    assert torch.equal(gumbel(7, [33], 50, CPU)[0], whole[33])
    assert torch.equal(gumbel(7, range(40), 20, CPU), whole[:, :20])
    assert all(torch.equal(NoiseCache(7, 50, CPU).row(position), whole[position]) for position in (33, 5))
    assert not torch.equal(gumbel(8, range(40), 50, CPU), whole)
    assert whole.flatten().unique().numel() == whole.numel()


def test_the_cache_forgets_what_is_committed() -> None:
    cache = NoiseCache(7, 50, CPU)
    for position in range(64):
        cache.row(position)
    cache.forget_before(40)
    assert sorted(cache._blocks) == list(range(40, 64))
    assert torch.equal(cache.row(3), gumbel(7, [3], 50, CPU)[0])


def draws(rule: TokenRule, num_draws: int = NUM_DRAWS) -> torch.Tensor:
    """Tokens chosen at `num_draws` positions from the same logits."""
    rows = LOGITS.repeat(num_draws, 1)
    return scores([Rows(rule, range(num_draws), [()] * num_draws)], rows).argmax(-1)


def p_value(tokens: torch.Tensor, probabilities: torch.Tensor) -> float:
    counts = torch.bincount(tokens, minlength=len(probabilities)).double()
    possible = probabilities > 0
    assert counts[~possible].sum() == 0, "a token without probability was drawn"
    expected = probabilities[possible].double()
    return float(chisquare(counts[possible].numpy(), (expected / expected.sum() * counts.sum()).numpy()).pvalue)


def rule_of(**fields: object) -> TokenRule:
    return TokenRule(SamplingParams(**fields), (0,), 1, len(LOGITS), ())


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 1.0},
        {"temperature": 0.5},
        {"temperature": 1.7, "top_k": 4},
        {"temperature": 1.0, "top_p": 0.8},
        {"temperature": 1.0, "min_p": 0.2},
    ],
    ids=str,
)
def test_sampled_tokens_follow_the_target_distribution(fields: dict) -> None:
    expected = rule_of(seed=11, **fields).probabilities(LOGITS[None], [0], [()])[0]
    assert p_value(draws(rule_of(seed=11, **fields)), expected) > 1e-3


def test_the_frequency_test_fails_when_the_rule_is_broken() -> None:
    """Without the temperature on the noise, and with noise that two positions share, the same test must object."""
    tempered = (LOGITS / 0.5).softmax(-1)
    noise = gumbel(11, range(NUM_DRAWS), len(LOGITS), CPU)
    assert p_value((LOGITS + 0.5 * noise).argmax(-1), tempered) > 1e-3
    assert p_value((LOGITS + noise).argmax(-1), tempered) < 1e-6
    assert p_value((LOGITS + 0.5 * noise.abs()).argmax(-1), tempered) < 1e-6
    repeated = noise[: NUM_DRAWS // 40].repeat_interleave(40, 0)
    assert p_value((LOGITS + 0.5 * repeated).argmax(-1), tempered) < 1e-3


def test_seeds_and_positions_are_independent() -> None:
    by_seed = torch.stack([(LOGITS + gumbel(seed, range(4), len(LOGITS), CPU)).argmax(-1) for seed in range(2500)])
    joint = torch.bincount(by_seed[:, 0] * 8 + by_seed[:, 1], minlength=64).double()
    p = LOGITS.softmax(-1).double()
    expected = torch.outer(p, p).flatten()
    keep = expected * 2500 > 5
    assert chisquare(joint[keep].numpy(), (expected[keep] / expected[keep].sum() * joint[keep].sum()).numpy()).pvalue > 1e-3


def test_masks_keep_what_they_should() -> None:
    row = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    kept = lambda **f: mask_tail(row, 1.0, SamplingParams(temperature=1.0, **f)).isfinite()[0].tolist()  # noqa: E731
    assert kept(top_p=0.5) == [True, True, False, False]
    assert kept(top_p=0.05) == [True, False, False, False]
    assert kept(top_k=3) == [True, True, True, False]
    assert kept(min_p=0.5) == [True, True, True, False]
    assert kept(top_k=3, top_p=0.7) == [True, True, False, False], "top_p is taken of what top_k left: .44, .33, .22"


def test_penalties_count_the_speculated_path_as_generated() -> None:
    fields = {"repetition_penalty": 2.0, "presence_penalty": 0.5, "frequency_penalty": 0.25}
    sampling = SamplingParams(**fields)
    fresh = TokenRule(sampling, (0, 1), 1, len(LOGITS), ())  # prompt 0, generated 1
    speculated = scores([Rows(fresh, [4], [(2, 2)])], LOGITS[None])[0]
    fresh.commit((2, 2), 4)
    committed = scores([Rows(fresh, [4], [()])], LOGITS[None])[0]
    assert torch.equal(speculated, committed)
    expected = LOGITS.clone()
    expected[0] /= 2.0  # prompt: repetition alone
    expected[1] = expected[1] / 2.0 - 0.5 - 0.25
    expected[2] = expected[2] / 2.0 - 0.5 - 2 * 0.25
    assert torch.allclose(committed, expected)


def test_bias_and_min_tokens() -> None:
    rule = TokenRule(SamplingParams(logit_bias={3: 10.0}, min_tokens=2, stop_token_ids=(1,)), (0,), 1, len(LOGITS), (0,))
    rows = scores([Rows(rule, [1, 2, 3], [(), (4,), (4, 5)])], LOGITS.repeat(3, 1))
    assert rows[:2, [0, 1]].isneginf().all() and rows[2].isfinite().all()
    assert rows.argmax(-1).tolist() == [3, 3, 3]


@pytest.mark.parametrize(
    "others", [{}, {"temperature": 0.7}, {"temperature": 1.0, "top_p": 0.8}, {"temperature": 1.3, "presence_penalty": 1.0}]
)
def test_a_sessions_scores_do_not_hang_on_who_else_is_in_the_batch(others: dict) -> None:
    logits = torch.randn(5, 64, generator=torch.Generator().manual_seed(3)) * 3
    plain, greedy, other = (
        TokenRule(SamplingParams(**sampling), (0,), 1, 64, ()) for sampling in ({"temperature": 0.8, "seed": 5}, {}, others)
    )
    own = Rows(plain, [7, 8], [(), (1,)])
    alone = scores([own], logits[1:3])
    batch = scores([Rows(greedy, [3], [()]), own, Rows(other, [9, 10], [(), (2,)])], logits)
    assert torch.equal(batch[1:3], alone) and torch.equal(batch[0], logits[0])
    assert torch.equal(batch[3:], scores([Rows(other, [9, 10], [(), (2,)])], logits[3:]))


def test_temperature_near_zero_is_greedy() -> None:
    assert (draws(rule_of(temperature=1e-6), 500) == 0).all()


@pytest.mark.parametrize("kind", ["spread", "all in one chunk", "mostly forbidden"])
def test_the_likeliest_of_all_are_among_the_likeliest_chunks(kind: str) -> None:
    rows = torch.randn(5, 20 * CHUNK, generator=torch.Generator().manual_seed(0))
    if kind == "all in one chunk":
        rows[:, 3 * CHUNK : 3 * CHUNK + 12] += 10.0
    if kind == "mostly forbidden":
        rows[:, 7:] = float("-inf")
    values, tokens = likeliest_by_chunks(rows, 12)
    assert torch.equal(values, rows.topk(12).values) and torch.equal(rows.gather(1, tokens), values)


def test_scores_and_tokens_come_to_the_host_in_one_copy_unchanged() -> None:
    best, tokens = likeliest(torch.tensor([[0.1, -2.5, float("-inf"), 7.0], [float("nan"), 1.0, 0.0, 3e38]]), 3)
    values, indices = on_host_in_one(best, tokens)
    expected, expected_indices = on_host(best, tokens)
    assert values.tobytes() == expected.tobytes() and indices == expected_indices

from __future__ import annotations

import copy
import random
from collections.abc import Sequence

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from ssd_core.engine import attention
from ssd_core.engine.base import TRUNK_END, Part
from ssd_core.engine.torch_engine import TorchEngine
from ssd_core.errors import CapacityError, ConfigError
from tests.engine.models import CONFIGS, VOCAB_SIZE, new_engine, stock_logits, stock_model

architectures = pytest.mark.parametrize("name", CONFIGS)
PROMPT = [5, 17, 3, 88, 42, 9, 61, 30, 2, 77, 14]
TREE_TOKENS = [11, 12, 13, 14, 15, 16, 17]
TREE_PARENTS = [TRUNK_END, 0, 0, TRUNK_END, 1, 3, 4]


def new_stock(name: str) -> PreTrainedModel:
    return copy.deepcopy(stock_model(name))


def prefill(engine: TorchEngine, session_id: str, tokens: Sequence[int], num_cells: int = 64) -> None:
    engine.open(session_id, num_cells)
    engine.evaluate([Part(session_id, tokens, range(TRUNK_END, len(tokens) - 1), logits_from=len(tokens))])
    engine.advance(session_id, range(len(tokens)))


def path_tokens(node: int, tokens: Sequence[int], parents: Sequence[int]) -> list[int]:
    return [] if node == TRUNK_END else [*path_tokens(parents[node], tokens, parents), tokens[node]]


def assert_stock(name: str, logits: torch.Tensor, sequences: Sequence[Sequence[int]]) -> None:
    expected = torch.stack([stock_logits(name, sequence) for sequence in sequences])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@architectures
def test_a_chain_gives_the_models_own_logits(name: str) -> None:
    engine = new_engine(name)
    engine.open("s", 32)
    logits = engine.evaluate([Part("s", PROMPT, range(TRUNK_END, len(PROMPT) - 1))])
    assert_stock(name, logits, [PROMPT[: i + 1] for i in range(len(PROMPT))])


@architectures
def test_a_tree_grown_in_steps_gives_the_models_own_logits_on_every_path(name: str) -> None:
    engine = new_engine(name)
    prefill(engine, "s", PROMPT)
    steps = [slice(0, 4), slice(4, 5), slice(5, 7)]
    logits = torch.cat([engine.evaluate([Part("s", TREE_TOKENS[step], TREE_PARENTS[step])]) for step in steps])
    assert_stock(name, logits, [PROMPT + path_tokens(node, TREE_TOKENS, TREE_PARENTS) for node in range(7)])


@architectures
def test_survivors_keep_their_place_after_an_advance_without_recomputation(name: str) -> None:
    engine = new_engine(name)
    prefill(engine, "s", PROMPT)
    engine.evaluate([Part("s", TREE_TOKENS, TREE_PARENTS)])
    engine.advance("s", [0], [1, 2, 4])
    assert engine.trunk_length("s") == len(PROMPT) + 1
    logits = engine.evaluate([Part("s", [50, 51, 52], [2, 1, TRUNK_END])])
    trunk = [*PROMPT, 11]
    assert_stock(name, logits, [[*trunk, 12, 15, 50], [*trunk, 13, 51], [*trunk, 52]])


@pytest.mark.parametrize("padded_pairs", [0, 400, 10**9], ids=["each alone", "in groups", "all together"])
@architectures
def test_a_batch_of_uneven_sessions_equals_one_by_one(name: str, padded_pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "MAX_PADDED_PAIRS", padded_pairs)
    randomness = random.Random(0)
    engine = new_engine(name)
    prompts = {f"s{i}": [randomness.randrange(VOCAB_SIZE) for _ in range(length)] for i, length in enumerate((1, 3, 4, 11, 12, 20, 25, 2))}
    for session_id, prompt in prompts.items():
        prefill(engine, session_id, prompt, num_cells=90)
        engine.evaluate([Part(session_id, [1, 2], [TRUNK_END, TRUNK_END])])
    long = [randomness.randrange(VOCAB_SIZE) for _ in range(60)]
    parts = [
        Part("s3", [7], [1]),
        Part("s4", long, range(1, 61)),
        *(Part(f"s{i}", TREE_TOKENS[: i + 1], [TRUNK_END, 0, 1, 2, 2, 4, 4, 8][: i + 1], logits_from=i // 2) for i in (0, 1, 2, 5, 6, 7)),
    ]
    parts[-1] = Part("s7", TREE_TOKENS, range(TRUNK_END, 6), logits_from=7)
    logits = engine.evaluate(parts)
    sequences = []
    for part in parts:
        tokens, parents = [1, 2, *part.tokens], [TRUNK_END, TRUNK_END, *part.parents]
        first = 2 + part.logits_from
        sequences += [prompts[part.session_id] + path_tokens(node, tokens, parents) for node in range(first, len(tokens))]
    assert_stock(name, logits, sequences)


def test_sessions_attend_in_groups_that_waste_little_on_padding() -> None:
    num_new, num_columns = [1, 200, 4, 13, 1, 2, 4, 3, 1], [300, 200, 290, 310, 320, 300, 300, 300, 4000]
    groups = attention.alike(num_new, num_columns)
    assert sorted(i for group in groups for i in group) == list(range(9)) and len(groups) < 9
    for group in groups:
        pairs = len(group) * max(num_new[i] for i in group) * max(num_columns[i] for i in group)
        assert pairs - sum(num_new[i] * num_columns[i] for i in group) <= attention.MAX_PADDED_PAIRS
    assert [1] in groups and [3] in groups, "a prompt and a large tree pad nobody"
    assert attention.alike([1] * 8, [300] * 8) == [list(range(8))]


@architectures
def test_greedy_decoding_equals_generate_token_for_token(name: str) -> None:
    engine = new_engine(name)
    engine.open("s", 64)
    tokens = list(PROMPT)
    new, parents = tokens, range(TRUNK_END, len(PROMPT) - 1)
    while len(tokens) < len(PROMPT) + 24:
        logits = engine.evaluate([Part("s", new, parents, logits_from=len(new) - 1)])
        engine.advance("s", range(len(new)))
        new, parents = [int(logits[0].argmax())], range(TRUNK_END, 0)
        tokens += new
    stock = stock_model(name)
    expected = stock.generate(
        torch.tensor([PROMPT]), attention_mask=torch.ones(1, len(PROMPT)), max_new_tokens=24, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    assert tokens == expected[0].tolist()


def test_a_pass_that_wants_no_logits_gives_none() -> None:
    engine = new_engine("qwen3")
    engine.open("s", 8)
    assert engine.evaluate([Part("s", [1, 2], [TRUNK_END, 0], logits_from=2)]).shape == (0, VOCAB_SIZE)


def test_exceeding_a_reservation_leaves_every_session_of_the_pass_untouched() -> None:
    engine = new_engine("qwen3")
    prefill(engine, "a", PROMPT, num_cells=40)
    prefill(engine, "b", PROMPT, num_cells=len(PROMPT) + 1)
    with pytest.raises(CapacityError, match="session b"):
        engine.evaluate([Part("a", [1], [TRUNK_END]), Part("b", [1, 2], [TRUNK_END, 0])])
    engine.check_integrity()
    assert_stock("qwen3", engine.evaluate([Part("a", [4], [TRUNK_END]), Part("b", [4], [TRUNK_END])]), [[*PROMPT, 4]] * 2)


def test_positions_beyond_max_model_len_are_refused_but_wide_trees_are_not() -> None:
    engine = TorchEngine(new_stock("gpt2"), 2**20, max_model_len=len(PROMPT) + 5)
    prefill(engine, "s", [*PROMPT, 1, 2, 3])
    engine.evaluate([Part("s", [1, 2, 3, 4], [TRUNK_END, TRUNK_END, 0, 1])])
    with pytest.raises(CapacityError, match="max_model_len"):
        engine.evaluate([Part("s", [5], [3])])


def test_a_session_with_nan_in_its_cells_does_not_touch_its_neighbours() -> None:
    engine = new_engine("llama")
    prefill(engine, "sick", PROMPT)
    prefill(engine, "well", PROMPT[:4])
    engine._runner._pools[0][engine._cells["sick"].trunk[0]] = torch.nan
    logits = engine.evaluate([Part("sick", [1, 2], [TRUNK_END, 0]), Part("well", [4], [TRUNK_END])])
    assert logits[:2].isnan().all()
    assert_stock("llama", logits[2:], [[*PROMPT[:4], 4]])
    engine.close("sick")
    prefill(engine, "heir", PROMPT)
    assert_stock("llama", engine.evaluate([Part("heir", [4], [TRUNK_END])]), [[*PROMPT, 4]])


def test_a_budget_without_room_for_a_session_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"^kv_budget_bytes: 4096"):
        new_engine("qwen3", kv_budget_bytes=4096)


def test_a_longer_sequence_than_the_model_was_made_for_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^max_model_len: 999"):
        TorchEngine(new_stock("llama"), 2**20, max_model_len=999)


def test_a_model_whose_attention_hides_something_is_refused() -> None:
    """Its layers call the interface, but what they add to the scores is lost there; the comparison of logits finds it."""
    model = new_stock("llama")
    attention = model.model.layers[1].self_attn
    own = attention.forward

    def with_a_secret(*args: object, **kwargs: object) -> object:
        out, weights = own(*args, **kwargs)
        return (out, weights) if "ssd_pass" in kwargs else (out * 1.5, weights)

    attention.forward = with_a_secret
    with pytest.raises(ConfigError, match="gives other logits"):
        TorchEngine(model, 2**20)


def test_a_model_is_not_shared_by_two_engines() -> None:
    engine = new_engine("llama")
    with pytest.raises(ConfigError, match="another engine"):
        TorchEngine(engine._model, 2**20)


def test_flops_count_multiplied_weights_and_the_tied_output_layer() -> None:
    tied, untied = new_engine("qwen3"), new_engine("llama")
    matrices = 2 * (48 * 48 * 2 + 48 * 24 * 2 + 48 * 64 * 3)
    assert tied.flops_per_token == untied.flops_per_token == 2 * (matrices + VOCAB_SIZE * 48)


def test_linear_layers_are_replaced_on_a_cpu_and_the_embedding_is_not() -> None:
    model = new_stock("qwen3")
    TorchEngine(model, 2**20)
    assert not [name for name, module in model.named_modules() if type(module) is nn.Linear]
    assert isinstance(model.get_input_embeddings(), nn.Embedding)

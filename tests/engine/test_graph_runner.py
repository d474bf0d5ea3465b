"""The fast path gives the plain path's logits. Without a GPU its kernels run in Triton's interpreter."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, PreTrainedModel, Qwen3Config

pytest.importorskip("triton", reason="Triton is not installed")

from ssd_core.engine import graph_inputs, graph_runner, products, torch_engine
from ssd_core.engine.base import TRUNK_END, Part
from ssd_core.engine.eager_runner import EagerRunner
from ssd_core.engine.graph_runner import GraphRunner
from ssd_core.engine.torch_engine import TorchEngine
from ssd_core.errors import CapacityError

pytestmark = pytest.mark.usefixtures("quick_interpreter")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
VOCAB = 80
SHAPE = {
    "vocab_size": VOCAB, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "intermediate_size": 96, "max_position_embeddings": 512, "initializer_range": 0.1,
}  # fmt: skip
CONFIGS: dict[str, PreTrainedConfig] = {
    "qwen3": Qwen3Config(**SHAPE, tie_word_embeddings=True),
    "llama": LlamaConfig(**SHAPE | {"num_hidden_layers": 1}, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}),
}
families = pytest.mark.parametrize("name", CONFIGS)


def new_model(name: str, dtype: torch.dtype = torch.float16) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[name]), dtype=dtype).eval().to(DEVICE)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def engines(name: str, monkeypatch: pytest.MonkeyPatch, *, check_itself: bool = False) -> tuple[TorchEngine, TorchEngine]:
    """The same model on the fast path and on the plain one. The check at its start is less than what the tests compare."""
    model = new_model(name)
    monkeypatch.setattr(torch_engine, "has_fast_path", lambda device: False)
    plain = TorchEngine(copy.deepcopy(model), 2**19)
    monkeypatch.setattr(torch_engine, "has_fast_path", lambda device: True)
    monkeypatch.setattr(products, "PROGRAMS", 8)  # the interpreter runs them one after the other
    if not check_itself:
        monkeypatch.setattr(TorchEngine, "_verify", lambda self, expected: None)
    fast = TorchEngine(model, 2**19)
    assert isinstance(fast._runner, GraphRunner) and isinstance(plain._runner, EagerRunner)
    return fast, plain


def assert_alike(fast: torch.Tensor, plain: torch.Tensor) -> None:
    assert fast.shape == plain.shape
    assert torch.linalg.vector_norm(fast - plain) <= 5e-3 * torch.linalg.vector_norm(plain)


def run(engine: TorchEngine, parts: list[Part]) -> torch.Tensor:
    return engine.evaluate(parts).clone()


@families
def test_whatever_sessions_do_the_logits_are_the_plain_paths(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts in chunks, trees grown in steps over several sessions, advances, survivors, sessions that end and others that come."""
    randomness = random.Random(9)  # sessions end and come, nodes survive, in the first six rounds
    fast, plain = engines(name, monkeypatch)
    nodes: dict[str, int] = {}
    for round_number in range(9 if DEVICE == "cuda" else 6):  # the interpreter takes its time
        if len(nodes) < 3:
            session = f"s{round_number}"
            nodes[session] = 0
            for engine in (fast, plain):
                engine.open(session, 120)
            prompt = [randomness.randrange(VOCAB) for _ in range(randomness.choice([1, 3, 11, 20]))]
            part = Part(session, prompt, range(TRUNK_END, len(prompt) - 1), logits_from=len(prompt) - 1)
            assert_alike(run(fast, [part]), run(plain, [part]))
            for engine in (fast, plain):
                engine.advance(session, range(len(prompt)))
        parts = []
        for session in list(nodes):
            count = randomness.randrange(1, 6)
            held = nodes[session]
            parents = [randomness.randrange(TRUNK_END, held + i) for i in range(count)]
            parts.append(Part(session, [randomness.randrange(VOCAB) for _ in range(count)], parents, randomness.choice([0, 0, count])))
            nodes[session] += count
        assert_alike(run(fast, parts), run(plain, parts))
        for session in list(nodes):
            if nodes[session] > 8:
                parents = plain._cells[session].parents
                children = [node for node, parent in enumerate(parents) if parent == TRUNK_END]
                path = [randomness.choice(children)]
                survivors = [node for node, parent in enumerate(parents) if parent == path[0]]
                for engine in (fast, plain):
                    engine.advance(session, path, survivors)
                nodes[session] = len(survivors)
            elif randomness.random() < 0.1:
                del nodes[session]
                for engine in (fast, plain):
                    engine.close(session)
        fast.check_integrity()


def test_a_long_trunk_is_shared_out_and_a_wide_tree_takes_several_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four whole shares: a lone one, a span, and one that is begun in the trunk and ends in the tree."""
    monkeypatch.setattr(graph_inputs, "MAX_ROWS", 16)
    monkeypatch.setattr(graph_inputs, "LONE_SHARES", 1)
    monkeypatch.setattr(graph_inputs, "SPAN", 2)
    for module in (graph_inputs, graph_runner):
        monkeypatch.setattr(module, "SHARE", 16)
    fast, plain = engines("qwen3", monkeypatch)
    prompt = [(7 * i + 3) % VOCAB for i in range(76)]
    tree = [Part("a", [1 + i for i in range(20)], [i // 2 - 1 for i in range(20)])]
    for engine in (fast, plain):
        engine.open("a", 120)
        engine.evaluate([Part("a", prompt, range(TRUNK_END, 75), logits_from=76)])
        engine.advance("a", range(76))
    assert_alike(run(fast, tree), run(plain, tree))


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU: the interpreter's sums hang on the size of a product")
def test_a_nodes_logits_are_the_same_whoever_else_is_in_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, _ = engines("qwen3", monkeypatch)
    for session, length in (("a", 9), ("b", 20)):
        fast.open(session, 64)
        fast.evaluate([Part(session, range(3, 3 + length), range(TRUNK_END, length - 1), logits_from=length)])
        fast.advance(session, range(length))
    alone = run(fast, [Part("a", [5], [TRUNK_END])])
    fast.advance("a", [], [])
    chain = run(fast, [Part("b", range(12), range(TRUNK_END, 11)), Part("a", range(5, 14), range(TRUNK_END, 8))])
    assert torch.equal(chain[12], alone[0])


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU: the interpreter's sums hang on the size of a product")
def test_nor_do_they_hang_on_a_long_prompt_that_is_read_in_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, _ = engines("qwen3", monkeypatch)
    fast.open("a", 64)
    fast.evaluate([Part("a", range(3, 12), range(TRUNK_END, 8), logits_from=9)])
    fast.advance("a", range(9))
    node = Part("a", [5], [TRUNK_END])
    prompt = Part("b", [i % VOCAB for i in range(300)], range(TRUNK_END, 299), logits_from=299)
    logits = []
    for parts in ([node], [prompt], [prompt, node]):
        fast.open("b", 320)
        logits.append(run(fast, parts))
        fast.advance("a", [], [])
        fast.close("b")
    alone, read, both = logits
    assert torch.equal(both, torch.cat([read, alone]))


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU: the interpreter's sums hang on the size of a product")
def test_a_nodes_logits_are_the_same_in_a_tree_and_in_the_trunk() -> None:
    """So speculation gives plain decoding's tokens to the last bit: here over the end of a share, with siblings, grown in two steps."""
    sizes = {**SHAPE, "hidden_size": 256, "num_attention_heads": 8, "head_dim": 128, "intermediate_size": 512}
    model = AutoModelForCausalLM.from_config(Qwen3Config(**sizes), dtype=torch.bfloat16).eval().to(DEVICE)
    engine = TorchEngine(model, 2**24)
    prompt, text = [(7 * i + 3) % VOCAB for i in range(250)], [(11 * i + 5) % VOCAB for i in range(16)]
    for session in ("plain", "tree"):
        engine.open(session, 320)
        engine.evaluate([Part(session, prompt, range(TRUNK_END, 249), logits_from=250)])
        engine.advance(session, range(250))
    plain = []
    for token in text:
        plain.append(run(engine, [Part("plain", [token], [TRUNK_END])])[0])
        engine.advance("plain", [0])
    # text[i] at 2 i, a sibling of it at 2 i + 1
    tokens = [token for right in text for token in (right, (right + 1) % VOCAB)]
    parents = [TRUNK_END if i < 2 else i - 2 - i % 2 for i in range(32)]
    tree = torch.cat([run(engine, [Part("tree", tokens[:20], parents[:20])]), run(engine, [Part("tree", tokens[20:], parents[20:])])])
    assert torch.equal(tree[::2], torch.stack(plain))


def test_large_passes_go_through_the_library_apart_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt's beginning, its next piece beside another session's nodes, and a large tree."""
    for module in (products, graph_inputs):
        monkeypatch.setattr(module, "MAX_STREAMED", 16)
    monkeypatch.setattr(graph_inputs, "NODES_PER_SHARE", 16)
    monkeypatch.setattr(graph_inputs, "LEAST_GRAIN", 16)
    for module in (graph_inputs, graph_runner):
        monkeypatch.setattr(module, "SHARE", 16)
    fast, plain = engines("llama", monkeypatch)
    chunk = Part("a", range(20), range(TRUNK_END, 19))
    for engine in (fast, plain):
        engine.open("a", 64)
        engine.open("b", 24)
    assert_alike(run(fast, [chunk]), run(plain, [chunk]))
    for engine in (fast, plain):
        engine.advance("a", range(20))
    few = Part("b", [3, 4], [TRUNK_END, 0], logits_from=1)
    assert_alike(run(fast, [chunk, few]), run(plain, [chunk, few]))
    tree = Part("b", range(20), [i // 2 - 1 for i in range(20)])
    for engine in (fast, plain):
        engine.advance("b", [0, 1])
    assert_alike(run(fast, [tree]), run(plain, [tree]))


def test_more_sessions_than_it_has_slots_for_are_refused_and_hold_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_runner, "NUM_SLOTS", 2)
    fast, _ = engines("qwen3", monkeypatch, check_itself=True)
    fast.open("a", 8)
    fast.open("b", 8)
    free = fast.num_free_cells
    with pytest.raises(CapacityError, match="2 sessions"):
        fast.open("c", 8)
    assert fast.num_free_cells == free
    fast.close("a")
    fast.open("c", 8)


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@families
def test_in_bfloat16_a_graph_replays_with_new_inputs(name: str) -> None:
    model = new_model(name, torch.bfloat16)
    expected = copy.deepcopy(model)
    engine = TorchEngine(model, 2**20)
    assert isinstance(engine._runner, GraphRunner)
    for i in range(4):
        prompt = [(5 * j + i) % VOCAB for j in range(40)]
        engine.open("a", 64)
        logits = engine.evaluate([Part("a", prompt, range(TRUNK_END, 39))]).clone()
        engine.close("a")
        own = expected(torch.tensor([prompt], device=DEVICE), use_cache=False).logits[0].float()
        assert torch.linalg.vector_norm(logits - own) / torch.linalg.vector_norm(own) < 2e-2


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_no_graph_is_captured_that_was_not_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, _ = engines("qwen3", monkeypatch)
    runner = fast._runner
    assert isinstance(runner, GraphRunner)
    runner.prepare(most_tokens=200)
    prepared = set(runner._graphs)
    for session, length in (("a", 5), ("b", 100), ("c", 300)):
        fast.open(session, length + 80)
        for begin in range(0, length, 200):
            piece = [i % VOCAB for i in range(begin, min(begin + 200, length))]
            fast.evaluate([Part(session, piece, range(TRUNK_END, len(piece) - 1), logits_from=len(piece) - 1)])
            fast.advance(session, range(len(piece)))
        fast.evaluate([Part(session, range(7), range(TRUNK_END, 6))])
        fast.advance(session, range(3))
    fast.evaluate([Part(session, range(40), [TRUNK_END] * 40) for session in "abc"])
    assert set(runner._graphs) == prepared

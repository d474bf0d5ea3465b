"""The engine on torch: a transformers model over our own KV pool. Serves as target and as draft.

Shapes: N new nodes of a pass, R rows of logits, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from ssd_core.config import EngineConfig
from ssd_core.engine.attention import ATTENTION_NAME, ShapeProbe, register_attention
from ssd_core.engine.base import TRUNK_END, Engine, Part
from ssd_core.engine.eager_runner import EagerRunner, Forward
from ssd_core.engine.kv import CellPool
from ssd_core.engine.lean import LeanForward, can_be_lean
from ssd_core.engine.library_check import ensure_right_products
from ssd_core.engine.linear import optimize_for_cpu
from ssd_core.engine.plain import PlainForward
from ssd_core.engine.preflight import check_max_model_len
from ssd_core.engine.runner import Runner, Work
from ssd_core.engine.weights import load_model
from ssd_core.errors import CapacityError, ConfigError
from ssd_core.fast_path import has_fast_path

MIN_CELLS = 32
"""A pool with fewer holds not even one short session: a prompt, a round's nodes and a few tokens of output."""
CHECK_TOKENS = 16
MAX_RELATIVE_ERROR = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Of the logits against the model's own, as a ratio of Euclidean norms: far above rounding, far below any mistake."""
SUPPORTED_LAYERS = {"full_attention", "sliding_attention"}


class TorchEngine(Engine):
    """See Engine. Takes `model` over: its attention is replaced, and on a CPU its linear layers and norms, or all of its forward.

    Used by one thread at a time."""

    def __init__(self, model: PreTrainedModel, kv_budget_bytes: int, max_model_len: int | None = None) -> None:
        """ConfigError for models that cannot run on tree attention, found by comparing with their own forward."""
        if model.config._attn_implementation == ATTENTION_NAME:
            raise ConfigError("model: it belongs to another engine already")
        text_config = model.config.get_text_config()
        self._model = model.eval()
        self._device, self._dtype = model.device, model.dtype
        self._vocab_size: int = text_config.vocab_size
        self._flops_per_token = _flops_per_token(model)
        if self._device.type == "cuda":
            ensure_right_products(model)  # before the model says what its logits are
        expected = self._own_logits()
        register_attention()
        model.set_attn_implementation(ATTENTION_NAME)
        probe = _probe(model)
        _check_layers(model, probe)
        self._shapes = [probe.shapes[layer] for layer in range(len(probe.shapes))]
        cell_bytes = sum(shape.size for shape in self._shapes) * self._dtype.itemsize
        num_cells = kv_budget_bytes // cell_bytes
        if num_cells < MIN_CELLS:
            raise ConfigError(
                f"kv_budget_bytes: {kv_budget_bytes} holds {num_cells} tokens of this model at {cell_bytes} bytes each; "
                f"give it at least {MIN_CELLS * cell_bytes}"
            )
        self._max_model_len = _max_model_len(max_model_len, getattr(text_config, "max_position_embeddings", None), num_cells)
        self._cells = CellPool(num_cells)
        self._runner = self._new_runner(min(self._max_model_len, num_cells))
        self._verify(expected)

    @classmethod
    def load(cls, config: EngineConfig) -> TorchEngine:
        torch.set_num_threads(config.num_threads)
        engine = cls(load_model(config), config.kv_budget_bytes, config.max_model_len)
        engine._runner.prepare(config.prefill_chunk_tokens)
        return engine

    def __repr__(self) -> str:
        return f"TorchEngine({type(self._model).__name__}, {self._dtype}, {self._device}, {self._cells})"

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def max_model_len(self) -> int:
        return self._max_model_len

    @property
    def num_cells(self) -> int:
        return self._cells.num_cells

    @property
    def num_free_cells(self) -> int:
        return self._cells.num_free_cells

    @property
    def flops_per_token(self) -> float:
        return self._flops_per_token

    @property
    def device(self) -> torch.device:
        return self._device

    def open(self, session_id: str, num_cells: int) -> None:
        self._cells.open(session_id, num_cells)
        try:
            self._runner.open(session_id)
        except CapacityError:
            self._cells.close(session_id)
            raise

    def evaluate(self, parts: Sequence[Part]) -> torch.Tensor:
        sessions = self._cells.append(parts, self._max_model_len)
        num_new = [len(part.tokens) for part in parts]
        tokens = [token for part in parts for token in part.tokens]
        positions = [len(s.trunk) + depth for s, n in zip(sessions, num_new, strict=True) for depth in s.depths[-n:]]
        kept: list[int] = []
        first = 0
        for part, n in zip(parts, num_new, strict=True):
            kept.extend(range(first + part.logits_from, first + n))
            first += n
        return self._runner.run(Work(sessions, num_new, tokens, positions, kept))

    def advance(self, session_id: str, path: Sequence[int], survivors: Sequence[int] = ()) -> None:
        self._cells[session_id].advance(path, survivors)

    def trunk_length(self, session_id: str) -> int:
        return len(self._cells[session_id].trunk)

    def close(self, session_id: str) -> None:
        if session_id in self._cells:
            self._cells.close(session_id)
            self._runner.close(session_id)

    def check_integrity(self) -> None:
        self._cells.check_integrity()

    def _new_runner(self, max_position: int) -> Runner:
        """The fastest for this model on this device."""
        num_rows = self._cells.num_cells + 1  # a row more, which is nobody's
        pools = [torch.zeros(num_rows, s.size, dtype=self._dtype, device=self._device) for s in self._shapes]  # [cells + 1, W]
        if has_fast_path(self._device):
            from ssd_core.engine.graph_runner import GraphRunner, can_be_graphed

            if can_be_graphed(self._model):
                return GraphRunner(self._model, pools, max_position)
        return EagerRunner(_new_forward(self._model, max_position), pools, self._shapes)

    @torch.inference_mode()
    def _own_logits(self) -> torch.Tensor:
        """What the model computes for the check tokens before anything of it is replaced, [CHECK_TOKENS, V]."""
        tokens = torch.tensor([_check_tokens(self._vocab_size)], device=self._device)
        logits: torch.Tensor = self._model(input_ids=tokens, use_cache=False).logits[0].float()
        return logits

    def _verify(self, expected: torch.Tensor) -> None:
        """Evaluate the check tokens as prompt, tree with a wrong branch, and the rest; ConfigError unless the logits are the model's."""
        tokens = _check_tokens(self._vocab_size)
        session = "check"
        self.open(session, CHECK_TOKENS + 1)
        logits = [self.evaluate([Part(session, tokens[:6], range(TRUNK_END, 5))]).clone()]
        self.advance(session, range(6))
        branched = self.evaluate([Part(session, [tokens[6], tokens[0], tokens[7]], [TRUNK_END, TRUNK_END, 0])])
        logits.append(branched[[0, 2]])
        self.advance(session, [0], [2])
        logits.append(self.evaluate([Part(session, tokens[8:], range(CHECK_TOKENS - 8))]))
        self.close(session)
        difference = torch.linalg.vector_norm(torch.cat(logits) - expected) / torch.linalg.vector_norm(expected)
        limit = MAX_RELATIVE_ERROR[self._dtype]
        if not difference.item() <= limit:
            raise ConfigError(
                f"model: {type(self._model).__name__} gives other logits through tree attention than by itself "
                f"(relative difference {difference.item():.2g}, limit {limit}); its attention cannot be replaced"
            )


def _check_tokens(vocab_size: int) -> list[int]:
    """Tokens without meaning: a fixed walk over the vocabulary."""
    return [(i * 7919 + 17) % vocab_size for i in range(CHECK_TOKENS)]


def _probe(model: PreTrainedModel) -> ShapeProbe:
    probe = ShapeProbe()
    try:
        PlainForward(model)(torch.tensor([[0, 1], [0, 1]], device=model.device), [0, 1], probe)
    except TypeError as error:  # no keyword arguments, or none that reach the attention
        raise ConfigError(f"model: {type(model).__name__} does not use transformers' attention interface: {error}") from error
    return probe


def _new_forward(model: PreTrainedModel, max_position: int) -> Forward:
    if can_be_lean(model):
        return LeanForward(model, max_position)
    if model.device.type == "cpu":
        optimize_for_cpu(model)
    return PlainForward(model)


def _check_layers(model: PreTrainedModel, probe: ShapeProbe) -> None:
    """Every layer must have called our attention, and layers with a window must have said so."""
    text_config = model.config.get_text_config()
    num_layers = text_config.num_hidden_layers
    kinds = getattr(text_config, "layer_types", None) or ["full_attention"] * num_layers
    name = type(model).__name__
    if unknown := set(kinds) - SUPPORTED_LAYERS:
        raise ConfigError(f"model: {name} has layers of type {', '.join(sorted(unknown))}, which tree attention cannot replace")
    if missing := set(range(num_layers)) - set(probe.shapes):
        raise ConfigError(f"model: {name}: layers {sorted(missing)} do not use transformers' attention interface")
    if deaf := [i for i, kind in enumerate(kinds) if kind == "sliding_attention" and probe.windows[i] is None]:
        raise ConfigError(f"model: {name}: layers {deaf} have a sliding window but do not pass it to their attention function")


def _max_model_len(wanted: int | None, longest: int | None, num_cells: int) -> int:
    check_max_model_len(wanted, longest)
    return wanted or longest or num_cells


def _flops_per_token(model: PreTrainedModel) -> float:
    """Two per weight of every matrix; embedding tables count only as output layer; of a layer's experts, those that are chosen."""
    config = model.config.get_text_config()
    experts: int = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None) or 1
    share = getattr(config, "num_experts_per_tok", experts) / experts
    tables = {module.weight.data_ptr() for module in model.modules() if isinstance(module, nn.Embedding)}
    multiplied = sum(
        weight.numel() * (share if ".experts." in name else 1.0)
        for name, weight in model.named_parameters()
        if weight.ndim >= 2 and weight.data_ptr() not in tables
    )
    head = model.get_output_embeddings()
    if head is not None and head.weight.data_ptr() in tables:  # tied
        multiplied += head.weight.numel()
    return 2.0 * multiplied

"""Engines and tokenizers by name: real models, and `fake:` ones that need no files, for tests and rehearsals.

`fake:target` and `fake:draft` speak bytes (256 tokens and an end of text). The draft agrees with the target often, not always.
A third part is the length of a pass in milliseconds: `fake:target:5`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from ssd_core.config import EngineConfig
from ssd_core.errors import ConfigError

if TYPE_CHECKING:
    from ssd_core.engine.base import Engine
    from ssd_core.engine.loader import LoadedTokenizer

FAKE = "fake:"
_NOISE = {"target": 0.0, "draft": 0.3}
_BYTES_PER_FAKE_CELL = 4096
NUM_BYTES = 256
_END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True, slots=True)
class _Fake:
    noise: float
    pass_s: float

    @classmethod
    def parse(cls, model: str) -> _Fake:
        name, _, milliseconds = model.removeprefix(FAKE).partition(":")
        try:
            return cls(_NOISE[name], float(milliseconds or 0) / 1000)
        except (KeyError, ValueError):
            raise ConfigError(f"model: {model!r} is not of the form fake:target[:MS] or fake:draft[:MS]") from None


def load_engine(config: EngineConfig) -> Engine:
    if config.model.startswith(FAKE):
        from ssd_core.engine.fake import FakeEngine

        fake = _Fake.parse(config.model)
        return FakeEngine(
            NUM_BYTES + 1,
            seed=7,
            noise=fake.noise,
            num_cells=config.kv_budget_bytes // _BYTES_PER_FAKE_CELL,
            max_model_len=config.max_model_len or 2048,
            delay_s=(lambda num_nodes: fake.pass_s) if fake.pass_s else None,
        )
    import torch

    from ssd_core.engine.torch_engine import TorchEngine

    torch.set_num_threads(config.num_threads)
    return TorchEngine.load(config)


def load_tokenizer(model: str) -> LoadedTokenizer:
    from ssd_core.engine import loader

    if model.startswith(FAKE):
        _Fake.parse(model)
        tokenizer = byte_tokenizer()
        template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
        return loader.LoadedTokenizer(tokenizer, (NUM_BYTES,), template, {"eos_token": _END_OF_TEXT})
    return loader.load_tokenizer(model)


def byte_tokenizer() -> Tokenizer:
    """One token per byte; token 256 ends the text."""
    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({character: i for i, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens([_END_OF_TEXT])  # its id is NUM_BYTES
    return tokenizer


def check_engine(config: EngineConfig, downloads: bool = True) -> LoadedTokenizer:
    """The model's tokenizer, if its files tell that it can be loaded; no weights are read. Raises ConfigError."""
    if config.model.startswith(FAKE):
        return load_tokenizer(config.model)
    from ssd_core.engine.preflight import check_model

    return check_model(config, downloads)


def spin_up(engine: Engine) -> float:
    """Seconds of a first pass of one token: what is built on first use is built before the first request."""
    from ssd_core.engine.base import TRUNK_END, Part

    began = time.perf_counter()
    engine.open("spin-up", 8)
    try:
        engine.evaluate([Part("spin-up", [0], [TRUNK_END])])
    finally:
        engine.close("spin-up")
    return time.perf_counter() - began

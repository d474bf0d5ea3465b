"""Folders of small random models as users have them: configuration, weights, a tokenizer that may put a token before each text."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM

from deployments.engines import NUM_BYTES, byte_tokenizer
from tests.engine.models import SHAPE

BEGIN = "<s>"
TOKENIZER_SIZE = NUM_BYTES + 2
"""Bytes, the end of a text and its beginning."""


def tokenizer_with_begin() -> Tokenizer:
    """The byte tokenizer, with BEGIN before every text."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens([BEGIN])
    tokenizer.post_processor = TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))])
    return tokenizer


def write_model(folder: Path, *, vocab_size: int = TOKENIZER_SIZE, seed: int = 0, tokenizer: Tokenizer | None = None) -> str:
    """A Llama with random weights; `vocab_size`: rows of its embedding. Returns the folder as a configuration names it."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**{**SHAPE, "vocab_size": vocab_size}, eos_token_id=NUM_BYTES)).eval()
    model.save_pretrained(folder)
    (tokenizer or tokenizer_with_begin()).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    return str(folder)

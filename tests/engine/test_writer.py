"""ssd_core/training/writer.py writes what the model itself would."""

from __future__ import annotations

import torch
from transformers import Qwen3ForCausalLM

from ssd_core.training.writer import Writer
from tests.engine.models import VOCAB_SIZE, stock_model

NEW = 12


def test_greedy_texts_equal_generate_and_come_with_the_states_they_were_drawn_from() -> None:
    model = stock_model("qwen3")
    assert isinstance(model, Qwen3ForCausalLM)
    prompts = torch.randint(VOCAB_SIZE, (3, 9), generator=torch.Generator().manual_seed(1))
    ids, states = Writer(model).continue_texts(prompts, NEW, torch.zeros(3))
    expected = model.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert torch.equal(ids, expected)
    assert torch.equal(model.lm_head(states).argmax(-1), ids[:, -NEW:])


def test_a_temperature_belongs_to_its_text() -> None:
    torch.manual_seed(0)
    prompt = torch.tensor([[1, 2, 3]]).expand(4, -1)
    ids, _ = Writer(stock_model("qwen3")).continue_texts(prompt, NEW, torch.tensor([0.0, 0.0, 5.0, 5.0]))
    assert torch.equal(ids[0], ids[1]) and not torch.equal(ids[2], ids[3])

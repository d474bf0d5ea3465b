from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models

from ssd_core.config import EngineConfig
from ssd_core.engine.base import TRUNK_END, Part
from ssd_core.engine.loader import load_tokenizer, resolve
from ssd_core.engine.torch_engine import TorchEngine
from ssd_core.engine.weights import load_model
from ssd_core.errors import ConfigError
from tests.engine.models import stock_logits, stock_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    stock_model("llama").save_pretrained(path)
    Tokenizer(models.WordLevel({"a": 0, "<end>": 5, "<turn>": 6}, unk_token="a")).save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": {"content": "<turn>"}, "pad_token": None, "chat_template": "{{ messages }}"})
    )
    (path / "special_tokens_map.json").write_text(json.dumps({"bos_token": "a", "eos_token": "<end>"}))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 7]}))
    return path


def test_a_folder_is_loaded_into_an_engine_with_the_models_logits(folder: Path) -> None:
    engine = TorchEngine.load(EngineConfig(model=str(folder), kv_budget_bytes=2**20))
    engine.open("s", 4)
    logits = engine.evaluate([Part("s", [3, 4], [TRUNK_END, 0], logits_from=1)])
    torch.testing.assert_close(logits[0], stock_logits("llama", [3, 4]), rtol=1e-4, atol=1e-4)


def test_generation_config_and_tokenizer_both_say_what_ends_a_sequence(folder: Path) -> None:
    loaded = load_tokenizer(str(folder))
    assert loaded.eos_token_ids == (5, 7, 6)
    assert loaded.chat_template == "{{ messages }}"
    assert loaded.tokenizer.token_to_id("<end>") == 5


def test_special_tokens_have_their_names_for_chat_templates(folder: Path) -> None:
    assert load_tokenizer(str(folder)).special_tokens == {"bos_token": "a", "eos_token": "<turn>"}


def test_what_cannot_be_found_is_named() -> None:
    with pytest.raises(ConfigError, match="model: 'embedded:nothing' is not embedded; there are embedded:target, embedded:draft"):
        resolve("embedded:nothing")
    with pytest.raises(ConfigError, match=r"model: the folder '\./nowhere' does not exist"):
        resolve("./nowhere")


def test_weights_in_other_formats_than_safetensors_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match="safetensors"):
        load_model(EngineConfig(model=str(tmp_path)))


def test_an_absent_device_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="device: 'warp'"):
        load_model(EngineConfig(model=str(folder), device="warp"))

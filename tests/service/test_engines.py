"""deployments/engines.py"""

from __future__ import annotations

import pytest

from deployments.engines import byte_tokenizer, load_engine, load_tokenizer
from ssd_core.config import EngineConfig
from ssd_core.errors import ConfigError


def test_the_byte_vocabulary_speaks_any_text() -> None:
    tokenizer = byte_tokenizer()
    text = "naïve ☃ \n\t\0 code = 1"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert len(tokenizer.encode(text).ids) == len(text.encode())


def test_a_fake_engine_has_its_tokenizers_vocabulary() -> None:
    engine = load_engine(EngineConfig(model="fake:target"))
    assert engine.vocab_size == load_tokenizer("fake:target").tokenizer.get_vocab_size()


@pytest.mark.parametrize("model", ["fake:", "fake:both", "fake:target:fast"])
def test_a_misspelt_fake_is_a_config_error(model: str) -> None:
    with pytest.raises(ConfigError, match="fake:target"):
        load_engine(EngineConfig(model=model))

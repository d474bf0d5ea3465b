"""deployments/preflight.py: what keeps a service from starting is found in its files, and named by its field."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deployments.app import build_app
from deployments.config import ServiceConfig
from deployments.engines import byte_tokenizer
from deployments.preflight import Findings, inspect_service
from ssd_core.engine.loader import check_same_tokens
from ssd_core.errors import ConfigError
from tests.engine.model_folders import write_model


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "target"
    write_model(folder)
    return folder


@pytest.fixture
def model(written: Path, tmp_path: Path) -> Path:
    """A whole model, to be broken."""
    return Path(shutil.copytree(written, tmp_path / "model"))


def config_of(target: str, draft: str | None = None, **fields: Any) -> ServiceConfig:
    drafts = {"num_actors": 0} if draft is None else {"engine": {"model": draft}}
    return ServiceConfig.model_validate({"target": {"engine": {"model": target}}, "draft": drafts} | fields)


def change_config(model: Path, **values: Any) -> None:
    content = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(content | values))


def cut_weights(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def index_weights(model: Path) -> None:
    content = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "the folder '{model}' does not exist"),
        (lambda model: (model / "config.json").unlink(), "no config.json in {model}"),
        (lambda model: (model / "config.json").write_text("{"), "config.json in {model} cannot be used"),
        (lambda model: change_config(model, model_type="llamo"), "config.json in {model} cannot be used"),
        (lambda model: change_config(model, model_type="vit"), "no causal language model of the architecture 'vit'"),
        (lambda model: (model / "model.safetensors").unlink(), "no *.safetensors in {model}"),
        (cut_weights, "model.safetensors holds no whole weights"),
        (index_weights, "model.safetensors.index.json names model-2.safetensors, not in {model}"),
        (lambda model: (model / "tokenizer.json").unlink(), "no tokenizer.json in {model}, nor one that converts to it"),
        (lambda model: (model / "tokenizer.json").write_text("{}"), "tokenizer.json is no tokenizer"),
        (lambda model: (model / "tokenizer_config.json").write_text("[]"), "tokenizer_config.json is not a JSON object"),
    ],
)
def test_a_broken_model_is_named_in_either_part(spoil: Callable[[Path], None], message: str, model: Path, written: Path) -> None:
    spoil(model)
    wanted = message.format(model=model)
    (as_target,) = inspect_service(config_of(str(model), str(written))).mistakes
    (as_draft,) = inspect_service(config_of(str(written), str(model))).mistakes
    assert as_target.startswith("target.engine.model: ") and as_draft.startswith("draft.engine.model: ")
    assert wanted in as_target and wanted in as_draft and str(model) in as_target
    with pytest.raises(ConfigError, match=r"^target\.engine\.model: "):
        build_app(config_of(str(model)))


def test_a_chat_template_that_does_not_compile_is_named_before_anything_starts(model: Path) -> None:
    (model / "chat_template.jinja").write_text("{{ messages }}\n{% if %}")
    (line,) = inspect_service(config_of(str(model))).mistakes
    assert line.startswith(f"target.engine.model: {str(model)!r}: its chat template does not compile: line 2: ")
    with pytest.raises(ConfigError, match="does not compile"):
        build_app(config_of(str(model)))
    assert not inspect_service(config_of("fake:target")).mistakes


def test_a_chat_template_is_taken_that_says_of_an_empty_chat_that_it_is_none(model: Path) -> None:
    (model / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    assert inspect_service(config_of(str(model))) == Findings()


def test_a_whole_model_is_no_mistake(written: Path) -> None:
    assert inspect_service(config_of(str(written), str(written))) == Findings()


def test_a_context_beyond_the_models_is_named(written: Path) -> None:
    config = ServiceConfig.model_validate(
        {"target": {"engine": {"model": str(written), "max_model_len": 4096}}, "draft": {"num_actors": 0}}
    )
    assert inspect_service(config).mistakes == ("target.engine.max_model_len: 4096 is more than the model was made for (256)",)


def test_an_inflated_shape_that_is_none_is_named() -> None:
    (line,) = inspect_service(config_of("embedded:target@huge")).mistakes
    assert line.startswith("target.engine.model: 'embedded:target@huge': shape: 'huge' is none of 8B, ")


def test_models_of_one_tokenizer_go_together() -> None:
    assert inspect_service(config_of("fake:target", "fake:draft:3")) == Findings()


def test_vocabularies_are_compared_token_by_token() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["another"])
    check_same_tokens("a", byte_tokenizer(), "b", byte_tokenizer())
    with pytest.raises(ConfigError, match=r"draft.engine.model.*258 and 257 tokens, 257 alike"):
        check_same_tokens("a", byte_tokenizer(), "b", tokenizer)


def test_a_draft_of_another_vocabulary_is_named(written: Path) -> None:
    (line,) = inspect_service(config_of("embedded:target", str(written))).mistakes
    assert line.startswith(f"draft.engine.model: '{written}' and target.engine.model 'embedded:target' have different vocabularies")


def test_a_draft_that_never_runs_need_not_exist(written: Path) -> None:
    config = ServiceConfig.model_validate(
        {"target": {"engine": {"model": str(written)}}, "draft": {"engine": {"model": "/nowhere"}, "num_actors": 0}}
    )
    assert inspect_service(config) == Findings()


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b" \n"])
def test_a_key_file_without_keys_is_named(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "keys").write_bytes(content)
    (line,) = inspect_service(config_of("fake:target", api_keys_file=tmp_path / "keys")).mistakes
    assert line.startswith(f"api_keys_file = '{tmp_path / 'keys'}': ")


def test_every_mistake_gets_its_line(tmp_path: Path) -> None:
    findings = inspect_service(config_of("/nowhere", "fake:both", api_keys_file=tmp_path / "keys"))
    assert [line.partition(":")[0].partition(" =")[0] for line in findings.mistakes] == [
        "target.engine.model", "draft.engine.model", "api_keys_file",
    ]  # fmt: skip


def test_what_only_the_hub_has_is_not_checked_unless_it_may_be_fetched() -> None:
    """The tests have no network: what may be fetched cannot be."""
    config = config_of("nobody/nothing")
    assert inspect_service(config, downloads=False).mistakes == ()
    assert inspect_service(config, downloads=False).unchecked[0].startswith("target.engine.model: 'nobody/nothing' is not in the cache")
    assert "nor can it be had from the hub" in inspect_service(config).mistakes[0]


def test_the_hubs_cache_is_looked_at_and_half_a_model_in_it_is_none(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "models--nobody--small"
    snapshot = home / "snapshots" / "abc"
    shutil.copytree(written, snapshot)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert inspect_service(config_of("nobody/small"), downloads=False) == Findings()
    (snapshot / "model.safetensors").unlink()
    assert "in part only" in inspect_service(config_of("nobody/small"), downloads=False).unchecked[0]


def test_the_shipped_pair_is_checked_without_torch() -> None:
    code = """
import sys, deployments.config as c, deployments.preflight as p
print(p.inspect_service(c.ServiceConfig()), 'torch' in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{Findings()} False"

"""Finds a model's files and loads its parts. Never runs code that comes with a model; weights are safetensors only.

Error messages begin with the field `model`; the caller puts the path of the configuration in front.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ssd_core.config import EngineConfig
from ssd_core.engine.inflate import inflate, shape_config
from ssd_core.errors import ConfigError

EMBEDDED = "embedded:"
PRETRAINED_FOLDER = Path(__file__).parent.parent / "pretrained"
EMBEDDED_NAMES = ("target", "draft")
INFLATED = "@"
"""`embedded:target@32B`: the embedded model inflated to a larger shape (inflate.py), made on its device at each start."""
FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]


@dataclass(frozen=True, slots=True)
class LoadedTokenizer:
    tokenizer: Tokenizer
    eos_token_ids: tuple[int, ...]
    """Any of these ends a sequence."""
    chat_template: str | None
    """Jinja source; None for a base model without one."""


def resolve(model: str) -> Path:
    """The folder of a model: embedded, a folder, or downloaded from the hub into its cache. Of an inflated model, the small one's."""
    if model.startswith(EMBEDDED):
        name = model.removeprefix(EMBEDDED).partition(INFLATED)[0]
        if name not in EMBEDDED_NAMES:
            raise ConfigError(f"model: {model!r} is not embedded; there are {', '.join(EMBEDDED + n for n in EMBEDDED_NAMES)}")
        folder = PRETRAINED_FOLDER / name
    elif Path(model).is_dir():
        folder = Path(model)
    elif model.startswith((".", "/", "~")):
        raise ConfigError(f"model: the folder {model!r} does not exist")
    else:
        try:
            folder = Path(snapshot_download(model, allow_patterns=FILES))
        except (OSError, ValueError) as error:  # network, unknown name, no permission; a malformed name is a ValueError
            raise ConfigError(f"model: {model!r} is neither a folder nor can it be had from the hub: {error}") from error
    if not (folder / "config.json").is_file():
        raise ConfigError(f"model: {model!r}: no config.json in {folder}")
    return folder


def load_model(config: EngineConfig) -> PreTrainedModel:
    """The model in eval mode on its device."""
    try:
        device = torch.device(config.device)
    except RuntimeError as error:
        raise ConfigError(f"device: {config.device!r} is not a torch device") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device: {config.device!r}, but torch finds no CUDA device here")
    model = _stored_model(config)
    if config.model.startswith(EMBEDDED) and INFLATED in config.model:
        shape = config.model.partition(INFLATED)[2]
        return inflate(model, shape_config(model.config, shape), config.device, model.dtype)
    model.to(device)  # type: ignore[arg-type]  # its decorator hides the signature
    return model


def _stored_model(config: EngineConfig) -> PreTrainedModel:
    """The model of the files, in memory."""
    folder = resolve(config.model)
    if not any(folder.glob("*.safetensors")):
        raise ConfigError(f"model: {config.model!r}: no *.safetensors in {folder}; other formats are not loaded")
    try:
        model_config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder,
            config=model_config,
            dtype=getattr(torch, config.dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:  # what transformers raises for files it cannot use
        raise ConfigError(f"model: {config.model!r} cannot be loaded as a causal language model: {error}") from error
    model.eval()
    return model


def load_tokenizer(model: str) -> LoadedTokenizer:
    """Tokenizer, end-of-sequence ids and chat template of a model."""
    folder = resolve(model)
    home = folder
    if not (home / "tokenizer.json").is_file() and (folder.parent / "tokenizer" / "tokenizer.json").is_file():
        home = folder.parent / "tokenizer"  # the embedded pair shares one
    if (home / "tokenizer.json").is_file():
        tokenizer = Tokenizer.from_file(str(home / "tokenizer.json"))
    else:
        tokenizer = _converted_tokenizer(model, home)
    settings = _read_json(home / "tokenizer_config.json")
    eos_token_ids = _eos_token_ids(folder, settings, tokenizer)
    if not eos_token_ids:
        raise ConfigError(f"model: {model!r}: no eos_token_id in generation_config.json, config.json or tokenizer_config.json")
    return LoadedTokenizer(tokenizer, eos_token_ids, _chat_template(home, settings))


def _converted_tokenizer(model: str, folder: Path) -> Tokenizer:
    """For models that ship another tokenizer format: transformers converts what it knows."""
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True).backend_tokenizer
    except (OSError, ValueError, ImportError, AttributeError) as error:  # AttributeError: a tokenizer without a fast form
        raise ConfigError(f"model: {model!r}: no tokenizer.json in {folder}, nor one that converts to it: {error}") from error


def _eos_token_ids(folder: Path, settings: dict[str, Any], tokenizer: Tokenizer) -> tuple[int, ...]:
    """The generation config's, else the model config's, and the tokenizer's own: chat models end turns with either."""
    config = _read_json(folder / "config.json")
    candidates = (
        _read_json(folder / "generation_config.json").get("eos_token_id"),
        config.get("eos_token_id"),
        config.get("text_config", {}).get("eos_token_id"),
    )
    found: int | list[int] = next((candidate for candidate in candidates if candidate is not None), [])
    ids = found if isinstance(found, list) else [found]
    token = settings.get("eos_token")
    own = tokenizer.token_to_id(token["content"] if isinstance(token, dict) else token) if token else None
    return tuple(dict.fromkeys(ids if own is None else [*ids, own]))


def _chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = next((entry["template"] for entry in template if entry["name"] == "default"), None)
    return template


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an absent file is an empty one."""
    if not path.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"model: {path} is not JSON: {error}") from error
    return content

"""What can be known of a model before its weights are loaded: its files are there, whole, and of a kind that loads.

Error messages begin with the field of EngineConfig; the caller puts the path of the configuration in front.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ssd_core.config import EngineConfig
from ssd_core.engine.loader import EMBEDDED, INFLATED, LoadedTokenizer, read_tokenizer, resolve
from ssd_core.errors import ConfigError

WEIGHTS_INDEX = "model.safetensors.index.json"
"""Names the files of weights that are spread over several."""


def check_model(config: EngineConfig, downloads: bool = True) -> LoadedTokenizer:
    """The model's tokenizer, if the model can be loaded as far as its files tell. Raises ConfigError.

    A model that is not embedded costs the import of transformers, which knows the architectures."""
    folder = resolve(config.model, downloads)
    check_weights(config.model, folder)
    if not config.model.startswith(EMBEDDED) or INFLATED in config.model:
        _check_architecture(config, folder)
    return read_tokenizer(config.model, folder)


def check_weights(model: str, folder: Path) -> None:
    """Raises ConfigError unless every file of weights is there and whole: only their heads are read."""
    stored = sorted(folder.glob("*.safetensors"))
    if not stored:
        raise ConfigError(f"model: {model!r}: no *.safetensors in {folder}; other formats are not loaded")
    missing = _indexed(folder) - {file.name for file in stored}
    if missing:
        raise ConfigError(f"model: {model!r}: {WEIGHTS_INDEX} names {', '.join(sorted(missing))}, not in {folder}")
    for file in stored:
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"model: {model!r}: {file} holds no whole weights: {error}") from error


def check_max_model_len(wanted: int | None, longest: int | None) -> None:
    """`longest`: what the model was made for; None: no limit. Raises ConfigError."""
    if wanted is not None and longest is not None and wanted > longest:
        raise ConfigError(f"max_model_len: {wanted} is more than the model was made for ({longest})")


def _indexed(folder: Path) -> set[str]:
    """Names of the files of weights that the index lists; none without an index."""
    index = folder / WEIGHTS_INDEX
    if not index.is_file():
        return set()
    try:
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"model: {index} is no index of weights: {error!r}") from error


def _check_architecture(config: EngineConfig, folder: Path) -> None:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from ssd_core.engine.inflate import shape_config

    try:
        stored = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # config.json holds anything, and transformers raises whatever comes of it
        raise ConfigError(f"model: {config.model!r}: config.json in {folder} cannot be used: {error}") from error
    if stored.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ConfigError(f"model: {config.model!r}: transformers knows no causal language model of the architecture {stored.model_type!r}")
    if INFLATED in config.model and config.model.startswith(EMBEDDED):
        try:
            stored = shape_config(stored, config.model.partition(INFLATED)[2])
        except ConfigError as error:
            raise ConfigError(f"model: {config.model!r}: {error}") from error
    check_max_model_len(config.max_model_len, getattr(stored.get_text_config(), "max_position_embeddings", None))

"""Loads a model's weights onto its device. Never runs code that comes with a model; safetensors only."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from ssd_core.config import EngineConfig
from ssd_core.engine.inflate import inflate, shape_config
from ssd_core.engine.loader import EMBEDDED, INFLATED, resolve
from ssd_core.engine.preflight import check_weights
from ssd_core.errors import ConfigError


def find_device(name: str) -> torch.device:
    """Raises ConfigError unless torch knows the device and has it here."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: {name!r} is not a torch device") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device: {name!r}, but torch finds no CUDA device here")
    return device


def load_model(config: EngineConfig) -> PreTrainedModel:
    """The model in eval mode on its device."""
    device = find_device(config.device)
    model = _stored_model(config)
    if config.model.startswith(EMBEDDED) and INFLATED in config.model:
        shape = config.model.partition(INFLATED)[2]
        return inflate(model, shape_config(model.config, shape), config.device, model.dtype)
    model.to(device)  # type: ignore[arg-type]  # its decorator hides the signature
    return model


def _stored_model(config: EngineConfig) -> PreTrainedModel:
    """The model of the files, in memory."""
    folder = resolve(config.model)
    check_weights(config.model, folder)
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

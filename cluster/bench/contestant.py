"""Who is measured: a preset, or one with some of its settings fixed, `ssd-tree:self_tuning=false:tree_nodes=4`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from ssd_core.config import PRESETS, SpeculationConfig
from ssd_core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Contestant:
    preset: str
    lookahead: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of SpeculationConfig; what is not named is the service's."""


def contestant(name: str) -> Contestant:
    """Of its name. Raises ConfigError, naming what is wrong with it."""
    preset, *parts = name.split(":")
    if preset not in PRESETS:
        raise ConfigError(f"{preset!r} is none of {', '.join(PRESETS)}")
    settings = {}
    for part in parts:
        field, is_set, value = part.partition("=")
        if not is_set:
            raise ConfigError(f"{name!r}: {part!r} is not field=value")
        settings[field] = _value(value)
    try:
        SpeculationConfig.model_validate({"preset": preset, **settings})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{name!r}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    return Contestant(preset, settings.pop("lookahead", None), settings)


def _value(text: str) -> Any:
    """A number or truth value as JSON writes it; anything else is a word."""
    try:
        return json.loads(text)
    except ValueError:
        return text

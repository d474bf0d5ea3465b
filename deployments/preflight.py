"""What can be known of a service before anything of it starts: its models' files, their vocabularies, its keys.

No weights are loaded. `ssd-serve validate`, `ssd-serve up` and `build_app` ask here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deployments.chat_template import ChatTemplate
from deployments.config import ServiceConfig
from deployments.engines import check_engine
from deployments.http_guard import known_keys
from ssd_core.config import EngineConfig
from ssd_core.engine.loader import LoadedTokenizer, NotCachedError, check_same_tokens
from ssd_core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Findings:
    """Lines that begin with a field of ServiceConfig."""

    mistakes: tuple[str, ...] = ()
    """What keeps the service from starting."""
    unchecked: tuple[str, ...] = ()
    """What nothing can be said of without a download."""


def inspect_service(config: ServiceConfig, *, downloads: bool = True) -> Findings:
    """`downloads`: whether models of the hub may be fetched into its cache for a look at them."""
    mistakes: list[str] = []
    unchecked: list[str] = []
    tokenizers: dict[str, LoadedTokenizer] = {}
    for part, engine in _engines(config):
        try:
            tokenizers[part] = check_engine(engine, downloads)
            if part == "target":
                _check_template(engine.model, tokenizers[part])
        except NotCachedError as error:
            unchecked.append(f"{part}.engine.{error}")
        except ConfigError as error:
            mistakes.append(f"{part}.engine.{error}")
    try:
        if len(tokenizers) == 2:
            target, draft = config.target.engine.model, config.draft.engine.model
            check_same_tokens(target, tokenizers["target"].tokenizer, draft, tokenizers["draft"].tokenizer)
    except ConfigError as error:
        mistakes.append(str(error))
    try:
        known_keys(config)
    except ConfigError as error:
        mistakes.append(str(error))
    return Findings(tuple(mistakes), tuple(unchecked))


def check_service(config: ServiceConfig) -> None:
    """Raises ConfigError with a line for each mistake."""
    mistakes = inspect_service(config).mistakes
    if mistakes:
        raise ConfigError("\n".join(mistakes))


def _check_template(model: str, loaded: LoadedTokenizer) -> None:
    if loaded.chat_template is None:
        return
    try:
        ChatTemplate(loaded.chat_template, loaded.special_tokens)
    except ConfigError as error:
        raise ConfigError(f"model: {model!r}: {error}") from error


def _engines(config: ServiceConfig) -> Iterator[tuple[str, EngineConfig]]:
    """A draft that never runs need not exist."""
    yield "target", config.target.engine
    if config.draft.has_pool:
        yield "draft", config.draft.engine

"""Finds a model's files and reads its tokenizer. Never runs code that comes with a model, and does without torch.

Error messages begin with the field `model`; the caller puts the path of the configuration in front.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from tokenizers import Tokenizer

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
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    """Texts of special tokens by the names that chat templates know them by (`bos_token`)."""


class NotCachedError(ConfigError):
    """A model of the hub that is not, or not whole, in its cache: nothing can be said of it without a download."""


def resolve(model: str, downloads: bool = True) -> Path:
    """The folder of a model: embedded, a folder, or from the hub through its cache. Of an inflated model, the small one's.

    `downloads`: False takes what the cache holds, and raises NotCachedError where that is not the whole model."""
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
            folder = Path(snapshot_download(model, allow_patterns=FILES, local_files_only=not downloads))
        except LocalEntryNotFoundError as error:
            if downloads:
                raise ConfigError(f"model: {model!r} is neither a folder nor can it be had from the hub: {error}") from error
            raise NotCachedError(f"model: {model!r} is not in the cache of the hub, and nothing is downloaded now") from error
        except (OSError, ValueError) as error:  # network, unknown name, no permission; a malformed name is a ValueError
            raise ConfigError(f"model: {model!r} is neither a folder nor can it be had from the hub: {error}") from error
    if not downloads and not _is_ours(model) and not _is_whole(folder):
        raise NotCachedError(f"model: {model!r} is in the cache of the hub in part only, and nothing is downloaded now")
    if not (folder / "config.json").is_file():
        raise ConfigError(f"model: {model!r}: no config.json in {folder}")
    return folder


def load_tokenizer(model: str) -> LoadedTokenizer:
    """Tokenizer, end-of-sequence ids and chat template of a model."""
    return read_tokenizer(model, resolve(model))


def read_tokenizer(model: str, folder: Path) -> LoadedTokenizer:
    """The tokenizer of the `model` whose files lie in `folder`."""
    home = folder
    if not (home / "tokenizer.json").is_file() and (folder.parent / "tokenizer" / "tokenizer.json").is_file():
        home = folder.parent / "tokenizer"  # the embedded pair shares one
    if (home / "tokenizer.json").is_file():
        tokenizer = _stored_tokenizer(model, home / "tokenizer.json")
    else:
        tokenizer = _converted_tokenizer(model, home)
    settings = _read_json(home / "tokenizer_config.json")
    eos_token_ids = _eos_token_ids(folder, settings, tokenizer)
    if not eos_token_ids:
        raise ConfigError(f"model: {model!r}: no eos_token_id in generation_config.json, config.json or tokenizer_config.json")
    special_tokens = _special_tokens(_read_json(home / "special_tokens_map.json") | settings)
    if end := tokenizer.id_to_token(eos_token_ids[0]):
        special_tokens.setdefault("eos_token", end)
    return LoadedTokenizer(tokenizer, eos_token_ids, _chat_template(home, settings), special_tokens)


def check_same_tokens(target: str, target_tokenizer: Tokenizer, draft: str, draft_tokenizer: Tokenizer) -> None:
    """Raises ConfigError unless both models' tokens mean the same.

    Sizes of embeddings may differ: many models pad theirs beyond the tokenizer's."""
    target_vocab, draft_vocab = target_tokenizer.get_vocab(), draft_tokenizer.get_vocab()
    if target_vocab == draft_vocab:
        return
    common = len(target_vocab.items() & draft_vocab.items())
    raise ConfigError(
        f"draft.engine.model: {draft!r} and target.engine.model {target!r} have different vocabularies: "
        f"{len(draft_vocab)} and {len(target_vocab)} tokens, {common} alike; a draft must use its target's tokenizer"
    )


def _is_ours(model: str) -> bool:
    return model.startswith(EMBEDDED) or Path(model).is_dir()


def _is_whole(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _stored_tokenizer(model: str, file: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises nothing more special
        raise ConfigError(f"model: {model!r}: {file} is no tokenizer: {error}") from error


def _converted_tokenizer(model: str, folder: Path) -> Tokenizer:
    """For models that ship another tokenizer format: transformers converts what it knows."""
    from transformers import AutoTokenizer  # takes seconds, and few models need it

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
    token = _special_tokens(settings).get("eos_token")
    own = tokenizer.token_to_id(token) if token else None
    return tuple(dict.fromkeys(ids if own is None else [*ids, own]))


def _special_tokens(settings: dict[str, Any]) -> dict[str, str]:
    """Those that have a name of their own. A token is written as its text, or as an object that has it."""
    texts = {
        name: token.get("content") if isinstance(token, dict) else token for name, token in settings.items() if name.endswith("_token")
    }
    return {name: text for name, text in texts.items() if isinstance(text, str)}


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
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"model: {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"model: {path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"model: {path} is not a JSON object")
    return content

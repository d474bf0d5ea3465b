"""YAML or JSON in, one line for each mistake out: the file, the field as it is written there, the value, what is wrong."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ssd_core.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)
Location = tuple[int | str, ...]

SECRET_FIELDS = ("api_keys",)
"""Their values are never repeated in a message."""
LONGEST_VALUE = 60


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice: YAML would let the last one win, silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable) or isinstance(key, tuple):
                raise yaml.constructor.ConstructorError(None, None, "a key is a list or a mapping", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is there twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_text(path: Path) -> str:
    """The text of a file. Raises ConfigError."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def read_yaml(path: Path) -> Mapping[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping. Raises ConfigError."""
    text = read_text(path)
    try:
        content = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{place}: not YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none, say
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a mapping is expected at the top, this is a {type(content).__name__}")
    return content


def read_json(path: Path, wanted: str = "a JSON object") -> dict[str, Any]:
    """The object in a JSON file. Raises ConfigError, which says what was `wanted` where it holds something else."""
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: not {wanted}")
    return content


def validated(model: type[Model], content: Mapping[str, Any], source: str) -> Model:
    """`content` as a `model`. Raises ConfigError with a line for each field that is wrong."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{source}: {_line(model, detail)}" for detail in error.errors(include_url=False))) from error


def _line(model: type[BaseModel], detail: ErrorDetails) -> str:
    location = detail["loc"]
    field = ".".join(str(part) for part in location) or "(top)"
    if detail["type"] == "extra_forbidden":
        return f"{field}: unknown key{_suggestion(model, location)}"
    if detail["type"] == "missing":
        return f"{field}: missing"
    return f"{field} = {_shown(location, detail['input'])}: {detail['msg']}"


def _shown(location: Location, value: Any) -> str:
    if any(part in SECRET_FIELDS for part in location):
        return "(not shown)"
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "..."


def _suggestion(model: type[BaseModel], location: Location) -> str:
    """`; did you mean X?` when a sibling of the unknown key is spelled nearly like it."""
    owner: Any = model
    for part in location[:-1]:
        field = owner.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return ""
        owner = field.annotation
    close = get_close_matches(str(location[-1]), owner.model_fields, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(owner.model_fields)}"

"""What was wrong with a JSON body, in JSON's own terms: the validator's errors as one sentence for a client. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_core import ErrorDetails

Path = tuple[str | int, ...]

KINDS = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "none_required": "null",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "dataclass_type": "an object",
}
"""By the validator's name of an error: what the value has to be. Several of one place are joined by "or"."""
RULES = {
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "string_unicode": "must be text that can be written as UTF-8",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "value_error": "{error}",
    "assertion_error": "{error}",
}
"""Likewise the rest, as sentences with the limits in them."""
OTHERWISE = "is not what this field takes"


def sentence(errors: Sequence[ErrorDetails], body: Any) -> tuple[Path, str]:
    """Where the first mistake is and what is wrong there. Of alternatives, the one that came furthest tells."""
    paths = [path_of(error["loc"], body) for error in errors]
    deepest = max((path for path in paths if path[: len(paths[0])] == paths[0]), key=len)
    there = [error for error, path in zip(errors, paths, strict=True) if path == deepest]
    kinds = list(dict.fromkeys(KINDS[error["type"]] for error in there if error["type"] in KINDS))
    if kinds:
        subject = "its name " if there[0]["loc"][-1] == "[key]" else ""
        return deepest, f"{subject}must be {' or '.join(kinds)}"
    rule = RULES.get(there[0]["type"])
    limits = {name: _plain(value) for name, value in there[0].get("ctx", {}).items()}
    words = rule.format(**limits) if rule else OTHERWISE
    return deepest, words.replace(" 1 items", " 1 item").replace(" 1 characters", " 1 character")


def _plain(value: Any) -> Any:
    """1.0 is written as 1."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def path_of(location: Sequence[str | int], body: Any) -> Path:
    """A location without the validator's own steps (names of alternatives): only what the body has."""
    path: list[str | int] = []
    here = body
    for step in location:
        is_item = isinstance(here, (list, tuple)) and isinstance(step, int) and step < len(here)
        if is_item or (isinstance(here, dict) and step in here):
            path.append(step)
            here = here[step]
    return tuple(path)


def written(path: Path) -> str:
    """`messages[1].content`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text

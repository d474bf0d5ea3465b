"""A JSON body: read, freed of its nulls, checked by a model. Pure; raises ApiError with the field named."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json, to_json

from deployments.http_errors import ApiError, of_validation

OPAQUE = frozenset({"chat_template_kwargs", "functions", "response_format", "tools"})
"""Fields in whose values a null has a meaning of its own, in a JSON schema for example."""


class Body(BaseModel):
    """Numbers are numbers: "5" and true are refused. What is not named is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Kind = TypeVar("Kind", bound=Body)


def json_object(data: bytes) -> dict[str, Any]:
    """A JSON object without the null fields of its objects, at every level: null means absent, as clients that
    dump their models write it. Of a name that stands in it twice, the last counts."""
    try:
        body = from_json(data)
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}", None, "invalid_json") from None
    if not isinstance(body, dict):
        raise ApiError(400, "the body is not a JSON object", None, "invalid_json")
    return {name: value if name in OPAQUE else _without_nulls(value) for name, value in body.items() if value is not None}


def validated_body(kind: type[Kind], body: dict[str, Any]) -> Kind:
    try:
        return kind.model_validate_json(to_json(body))
    except ValidationError as error:
        raise of_validation(error.errors(include_url=False), body) from None


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) if isinstance(item, (dict, list)) else item for item in value]
    return value

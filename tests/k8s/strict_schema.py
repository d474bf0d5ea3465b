"""A custom resource definition as a JSON schema in which nothing may stand that it does not name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""A definition has a megabyte."""
METADATA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"},
        "namespace": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "required": ["name"],
    "additionalProperties": False,
}
"""The API server checks it for every object, and definitions leave it out."""


@cache
def validator(folder: Path, kind: str, version: str) -> Draft202012Validator:
    """For objects of a kind, by the definition in a folder of them (ray.io_rayservices.yaml, ...)."""
    definition = yaml.load((folder / f"ray.io_{kind.lower()}s.yaml").read_text(), LOADER)
    assert definition["spec"]["names"]["kind"] == kind
    (served,) = (known for known in definition["spec"]["versions"] if known["name"] == version and known["served"])
    schema = strict(served["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = METADATA
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """With `additionalProperties: false` wherever properties are named and unknown ones not asked to be kept."""
    kept = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    if schema.get("x-kubernetes-int-or-string"):
        # Its pattern is for the string; for a number JSON schema skips it.
        return {key: value for key, value in kept.items() if key not in ("type", "anyOf")} | {"type": ["integer", "string"]}
    if "properties" in schema:
        kept["properties"] = {name: strict(part) for name, part in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            kept["additionalProperties"] = False
    elif isinstance(schema.get("additionalProperties"), dict):
        kept["additionalProperties"] = strict(schema["additionalProperties"])
    if "items" in schema:
        kept["items"] = strict(schema["items"])
    return kept


def problems(folder: Path, manifest: dict[str, Any]) -> Iterator[str]:
    """What the API server would refuse, or drop without a word."""
    _, _, version = manifest["apiVersion"].partition("/")
    for error in validator(folder, manifest["kind"], version).iter_errors(manifest):
        yield f"{error.json_path}: {error.message}"

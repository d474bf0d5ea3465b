"""The OpenAPI document says of bodies what the parser says, and of answers what is answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from jsonschema import Draft202012Validator
from pydantic import SecretStr

from deployments.config import ServiceConfig
from deployments.openapi import ERRORS
from tests.service.test_http import BAD, events, front

MESSAGES = [{"role": "user", "content": "a"}]
LIMITS_OF_THE_MODEL = {"prompt", "max_tokens", "stop_token_ids", "logit_bias", "seed", "min_tokens", "stop", "n"}
"""Fields that may be refused for their value beside others, or for the model's size: no schema says that."""
ROUTES_OF_FRAMEWORK = {"/docs", "/docs/oauth2-redirect", "/openapi.json", "/redoc"}


async def described(**config: Any) -> dict[str, Any]:
    async with await front(config=ServiceConfig(model_name="m", **config)) as client:
        headers = {"authorization": "Bearer one"}
        document: dict[str, Any] = (await client.get("/openapi.json", headers=headers)).json()
        return document


def validator(document: dict[str, Any], name: str) -> Draft202012Validator:
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    return Draft202012Validator(schema)


def body_of(document: dict[str, Any], path: str) -> Draft202012Validator:
    content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    return validator(document, content["schema"]["$ref"].rpartition("/")[2])


def parts(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from parts(item)


async def test_every_reference_leads_somewhere_and_every_schema_is_one() -> None:
    document = await described()
    for part in parts(document):
        reference = part.get("$ref")
        if isinstance(reference, str):
            assert reference.startswith("#/")
            found: Any = document
            for step in reference[2:].split("/"):
                found = found[step]
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    assert not any("allOf" in part or "$defs" in part for part in parts(document))


async def test_every_route_is_described_with_its_errors_and_parameters() -> None:
    async with await front() as client:
        document = (await client.get("/openapi.json")).json()
        routes = client._transport.app.routes  # type: ignore[attr-defined]
    paths = {route.path.replace(":path", "") for route in routes} - ROUTES_OF_FRAMEWORK
    assert paths == document["paths"].keys()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            named = {parameter["name"] for parameter in operation["parameters"]}
            assert {"x-request-id", "x-session-id"} <= named and ("model" in named) == path.endswith("{model}")
            for status, answer in operation["responses"].items():
                assert status == "200" or answer["content"]["application/json"]["schema"]["$ref"].endswith("/Error")
                assert ("retry-after" in answer["headers"]) == (status in ("429", "503"))


async def test_keys_are_described_where_there_are_some() -> None:
    without = await described()
    assert "securitySchemes" not in without["components"] and '"security"' not in json.dumps(without)
    document = await described(api_keys=(SecretStr("one"),))
    assert document["components"]["securitySchemes"] == {"apiKey": {"type": "http", "scheme": "bearer"}}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert ("security" in operation) == ("401" in operation["responses"]) == (path != "/health"), path


GOOD: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "a"}),
    ("/v1/completions", {"prompt": ["a", "b"], "n": 2, "stop": "x", "model": None, "seed": None}),
    ("/v1/completions", {"prompt": [1, 2], "stop": ["x", "y"], "logprobs": 2, "logit_bias": {"5": 1.5}}),
    ("/v1/completions", {"prompt": [[1], [2]], "preset": "sd", "lookahead": 3, "speculation": {"tree_nodes": 5}}),
    ("/v1/completions", {"prompt": "a", "stream": True, "stream_options": {"include_usage": True}}),
    ("/v1/chat/completions", {"messages": MESSAGES, "logprobs": True, "top_logprobs": 2}),
    ("/v1/chat/completions", {"messages": MESSAGES, "max_completion_tokens": 5, "temperature": 0, "user": "u"}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}),
    ("/tokenize", {"prompt": "a", "return_token_strs": True}),
    ("/detokenize", {"tokens": [1, 2]}),
]


@pytest.mark.parametrize(("path", "body"), GOOD, ids=lambda value: value if isinstance(value, str) else "")
async def test_what_is_served_is_valid(path: str, body: dict[str, Any]) -> None:
    async with await front() as client:
        document = (await client.get("/openapi.json")).json()
        body_of(document, path).validate(body)
        answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    content = document["paths"][path]["post"]["responses"]["200"]["content"]
    if not body.get("stream"):
        validator(document, content["application/json"]["schema"]["$ref"].rpartition("/")[2]).validate(answer.json())


@pytest.mark.parametrize(("body", "field"), BAD, ids=lambda value: value if isinstance(value, str) else "")
async def test_what_is_refused_for_its_kind_is_not_valid(body: dict[str, Any], field: str) -> None:
    document = await described()
    is_valid = body_of(document, "/v1/completions").is_valid(body)
    assert not is_valid or field in LIMITS_OF_THE_MODEL or field in ("logprobs", "speculation", "stream_options", "temperature", "preset")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"prompt": 5},
        {"prompt": None},
        {"prompt": "a", "what": 1},
        {"prompt": "a", "max_tokens": "5"},
        {"prompt": "a", "n": 0},
        {"prompt": "a", "stream": "yes"},
        {"prompt": "a", "stream_options": {"what": 1}},
    ],
    ids=str,
)
async def test_typical_mistakes_are_not_valid(body: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        body_of(await described(), "/v1/completions").validate(body)


async def test_answers_events_and_errors_are_valid() -> None:
    async with await front() as client:
        document = (await client.get("/openapi.json")).json()
        for path in ("/v1/models", "/v1/models/m", "/health", "/ready", "/version"):
            described_path = "/v1/models/{model}" if path == "/v1/models/m" else path
            schema = document["paths"][described_path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
            validator(document, schema["$ref"].rpartition("/")[2]).validate((await client.get(path)).json())
        options = {"stream": True, "stream_options": {"include_usage": True}}
        for path, body, name in (
            ("/v1/completions", {"prompt": "a"}, "Completion"),
            ("/v1/chat/completions", {"messages": MESSAGES}, "ChatCompletionChunk"),
        ):
            for one in events((await client.post(path, json=body | options)).text)[:-1]:
                validator(document, name).validate(one)
        refused = await client.post("/v1/completions", json={})
        validator(document, "Error").validate(refused.json())
        assert refused.status_code in ERRORS

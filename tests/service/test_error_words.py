"""What a client reads in an error: JSON's terms and the client's own names, whatever it sent."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any, get_args

import httpx
import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core.core_schema import ErrorType

from deployments import validation_words
from deployments.http_app import DetokenizeFields, TokenizeFields
from deployments.http_errors import of_validation
from deployments.inert_fields import CHAT, COMPLETION
from deployments.openai_requests import ChatFields, CompletionFields
from ssd_core.config import SamplingParams, SpeculationConfig
from tests.service.test_http import front

FOREIGN = re.compile(
    r"tuple|dict|(?-i:None)|pydantic|validation|should|input|instance|\bfloat|\bint\b|\bstr\b|\bbool|error|type=|\bmodel_",
    re.IGNORECASE,
)
"""Words of Python or of the validator."""
WRONG: list[Any] = [5, -5, 5.5, "x", "", True, [], {}, [None], {"a": None}, {"a": [1]}, [[1]], [{}], [5.5], 10**400, 1e400]
MESSAGES = [{"role": "user", "content": "a"}]
ROUTES: list[tuple[str, dict[str, Any], set[str]]] = [
    ("/v1/completions", {"prompt": "a"}, {*CompletionFields.model_fields, *SamplingParams.model_fields, *COMPLETION}),
    (
        "/v1/chat/completions",
        {"messages": MESSAGES},
        {*ChatFields.model_fields, *SamplingParams.model_fields, *CHAT, "max_completion_tokens", "top_logprobs"},
    ),
    ("/tokenize", {"prompt": "a"}, set(TokenizeFields.model_fields)),
    ("/detokenize", {"tokens": [1]}, set(DetokenizeFields.model_fields)),
]


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with await front() as client:
        yield client


@pytest.mark.parametrize(
    ("route", "body", "field"),
    [(route, body, field) for route, body, fields in ROUTES for field in sorted(fields)],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_wrong_type_is_told_in_jsons_terms(client: httpx.AsyncClient, route: str, body: dict[str, Any], field: str) -> None:
    num_refused = 0
    for wrong in WRONG:
        content = json_of({**body, field: wrong})
        answer = await client.post(route, content=content)
        if answer.status_code == 200:
            continue
        num_refused += 1
        error = answer.json()["error"]
        assert answer.status_code in (400, 404), answer.text
        if error["code"] == "context_length_exceeded":
            continue
        assert error["param"] == field and error["message"].startswith(field), (wrong, error)
        assert not FOREIGN.search(error["message"].removeprefix(field)), (wrong, error)
    assert num_refused >= 8


def json_of(body: dict[str, Any]) -> str:
    """With numbers that JSON can write and Python's encoder would not."""
    return json.dumps(body).replace("Infinity", "1e400")


SENTENCES = [
    ("/v1/chat/completions", {"messages": []}, "messages: must have at least 1 item"),
    ("/v1/chat/completions", {"messages": [*MESSAGES, {"role": "user", "content": 5}]}, "messages[1].content: must be a string or a list"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": ["a"]}]}, "messages[0].content[0]: must be an object"),
    ("/v1/chat/completions", {"messages": [{"content": "a"}]}, "messages[0].role: is required"),
    ("/v1/chat/completions", {"messages": [{**MESSAGES[0], "x": 1}]}, "messages[0].x: there is no such field"),
    ("/v1/chat/completions", {"messages": 5}, "messages: must be a list"),
    ("/v1/chat/completions", {"messages": MESSAGES, "max_completion_tokens": "5"}, "max_completion_tokens: must be a whole number"),
    ("/v1/completions", {}, "prompt: is required"),
    ("/v1/completions", {"prompt": "a", "max_tokens": 0}, "max_tokens: must be at least 1"),
    ("/v1/completions", {"prompt": "a", "top_p": 0}, "top_p: must be greater than 0"),
    ("/v1/completions", {"prompt": "a", "stream": "yes"}, "stream: must be true or false"),
    ("/v1/completions", {"prompt": "a", "stop": [1]}, "stop[0]: must be a string"),
    ("/v1/completions", {"prompt": "a", "logit_bias": {"x": 1}}, "logit_bias.x: its name must be a whole number"),
    ("/v1/completions", {"prompt": "a", "logit_bias": {"1": "x"}}, "logit_bias.1: must be a number"),
    ("/v1/completions", {"prompt": "a", "speculation": {"tree_nodes": 0}}, "speculation.tree_nodes: must be at least 1"),
    ("/v1/completions", {"prompt": "a", "speculation": {"x": 0}}, "speculation.x: there is no such field"),
    ("/v1/completions", {"prompt": "a", "stream": True, "stream_options": {"x": 1}}, "stream_options.x: there is no such field"),
    ("/detokenize", {"tokens": [1, "a"]}, "tokens[1]: must be a whole number"),
]


@pytest.mark.parametrize(("route", "body", "words"), SENTENCES, ids=lambda value: value if isinstance(value, str) else "")
async def test_the_first_mistake_is_one_sentence_with_its_place(
    client: httpx.AsyncClient, route: str, body: dict[str, Any], words: str
) -> None:
    error = (await client.post(route, json=body)).json()["error"]
    assert error["message"] == words and error["param"] == re.split(r"[\[.:]", words)[0]


@pytest.mark.parametrize("name", SpeculationConfig.model_fields)
async def test_settings_of_speculation_too(client: httpx.AsyncClient, name: str) -> None:
    for wrong in WRONG:
        answer = await client.post("/v1/completions", content=json_of({"prompt": "a", "speculation": {name: wrong}}))
        if answer.status_code != 200:
            error = answer.json()["error"]
            assert error["param"] == "speculation" and not FOREIGN.search(error["message"]), error


def test_the_tables_name_errors_that_the_validator_has() -> None:
    known = {*get_args(ErrorType)}
    assert {*validation_words.KINDS, *validation_words.RULES} <= known


def test_an_error_that_no_table_has_says_nothing_of_python() -> None:
    class Body(BaseModel):
        model_config = ConfigDict(strict=True)
        when: complex = Field()

    with pytest.raises(ValidationError) as raised:
        Body.model_validate_json('{"when": []}')
    info = of_validation(raised.value.errors(include_url=False), {"when": []}).info
    assert (info.message, info.param) == (f"when: {validation_words.OTHERWISE}", "when")


CONTEXT = 128
OVERFLOWS = [
    ("/v1/completions", {"prompt": "a" * CONTEXT}, "prompt", "your prompt resulted in 128 tokens. Please reduce the length of the prompt."),
    (
        "/v1/completions", {"prompt": "a", "max_tokens": CONTEXT}, "max_tokens",
        "you requested 129 tokens (1 in the prompt, 128 in the completion)."
        " Please reduce the length of the prompt or completion (max_tokens).",
    ),
    (
        "/v1/chat/completions", {"messages": MESSAGES, "max_completion_tokens": CONTEXT}, "max_completion_tokens",
        "you requested 130 tokens (2 in the messages, 128 in the completion)."
        " Please reduce the length of the messages or completion (max_completion_tokens).",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("route", "body", "param", "words"), OVERFLOWS, ids=lambda value: value if isinstance(value, str) else "")
async def test_an_overflow_is_told_in_openais_words(
    client: httpx.AsyncClient, route: str, body: dict[str, Any], param: str, words: str
) -> None:
    answer = await client.post(route, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": f"This model's maximum context length is {CONTEXT} tokens. However, {words}",
        "type": "invalid_request_error",
        "param": param,
        "code": "context_length_exceeded",
    }


async def test_a_text_too_long_to_be_tokenised_is_an_overflow_too(client: httpx.AsyncClient) -> None:
    error = (await client.post("/v1/completions", json={"prompt": "a" * 3000})).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["message"].startswith("This model's maximum context length is 128 tokens. However, your prompt")

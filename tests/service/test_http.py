"""The HTTP front over a fake target: every bad input is a 4xx that names its field, every answer has OpenAI's shape."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from pydantic import SecretStr

from deployments.config import ServiceConfig
from deployments.engines import load_tokenizer
from deployments.http_app import build_http_app
from deployments.http_errors import OverloadedError, TargetLostError
from deployments.messages import ModelCard, Refusal, RefusalKind
from deployments.metric_tables import INGRESS
from deployments.service import Service
from deployments.target_client import FakeTarget
from ssd_core.errors import ConfigError
from ssd_core.types import Emission, FinishReason, SessionStats, TokenLogprob
from tests.engine.tokenizers import ALL as TOKENIZERS

LOADED = load_tokenizer("fake:target")
CARD = ModelCard(LOADED.tokenizer.to_str(), LOADED.eos_token_ids, LOADED.chat_template, 257, 128)
STATS = SessionStats(2, 5, 3, 6, 2, 1, 2, (1, 1), 0.0, 0.25, 2)


def ids(text: str) -> tuple[int, ...]:
    return tuple(LOADED.tokenizer.encode(text).ids)


HELLO = (
    Emission("s", ids("H")),
    Emission("s", ids("é")[:1]),
    Emission("s", ids("é")[1:] + ids("l")),
    Emission("s", ids("o"), finish_reason=FinishReason.LENGTH, stats=STATS),
)


async def front(script: Any = HELLO, config: ServiceConfig | None = None, card: ModelCard = CARD) -> httpx.AsyncClient:
    service = Service(config or ServiceConfig(model_name="m", max_body_bytes=4096), FakeTarget(card, script))
    await service.connect()
    client = httpx.AsyncClient(transport=httpx.ASGITransport(build_http_app(service)), base_url="http://t")
    client.service = service  # type: ignore[attr-defined]
    return client


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with await front() as client:
        yield client


def target_of(client: httpx.AsyncClient) -> FakeTarget:
    return client.service.target  # type: ignore[attr-defined, no-any-return]


def events(text: str) -> list[Any]:
    lines = [line for line in text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


# ---------------------------------------------------------------- what is refused

BAD = [
    ({}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": [1, "a"]}, "prompt"),
    ({"prompt": [True]}, "prompt"),
    ({"prompt": {"text": "a"}}, "prompt"),
    ({"prompt": 5}, "prompt"),
    ({"prompt": [257]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [10**30]}, "prompt"),
    ({"prompt": "a" * 128}, "prompt"),
    ({"prompt": "a" * 3000}, "prompt"),
    ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
    ({"prompt": "a", "max_tokens": -1}, "max_tokens"),
    ({"prompt": "a", "max_tokens": 128}, "max_tokens"),
    ({"prompt": "a", "max_tokens": 10**12}, "max_tokens"),
    ({"prompt": "a", "max_tokens": "5"}, "max_tokens"),
    ({"prompt": "a", "max_tokens": 5.5}, "max_tokens"),
    ({"prompt": "a", "max_tokens": True}, "max_tokens"),
    ({"prompt": "a", "temperature": -0.1}, "temperature"),
    ({"prompt": "a", "temperature": "hot"}, "temperature"),
    ({"prompt": "a", "temperature": float("nan")}, "temperature"),
    ({"prompt": "a", "temperature": float("inf")}, "temperature"),
    ({"prompt": "a", "top_p": 0}, "top_p"),
    ({"prompt": "a", "top_p": 1.1}, "top_p"),
    ({"prompt": "a", "top_k": -2}, "top_k"),
    ({"prompt": "a", "min_p": 2}, "min_p"),
    ({"prompt": "a", "n": 0}, "n"),
    ({"prompt": "a", "n": 1000}, "n"),
    ({"prompt": "a", "n": 65}, "n"),
    ({"prompt": ["a"] * 65}, "prompt"),
    ({"prompt": "a", "seed": -2}, "seed"),
    ({"prompt": "a", "seed": 2**63}, "seed"),
    ({"prompt": "a", "seed": 2**63 - 1, "n": 2}, "seed"),
    ({"prompt": "a", "stop": ""}, "stop"),
    ({"prompt": "a", "stop": ["x"] * 17}, "stop"),
    ({"prompt": "a", "stop": [1]}, "stop"),
    ({"prompt": "a", "stop": "x" * 1001}, "stop"),
    ({"prompt": "a", "stop_token_ids": [257]}, "stop_token_ids"),
    ({"prompt": "a", "logit_bias": {"257": 1}}, "logit_bias"),
    ({"prompt": "a", "logit_bias": {"x": 1}}, "logit_bias"),
    ({"prompt": "a", "logit_bias": {"1": float("nan")}}, "logit_bias"),
    ({"prompt": "a", "logprobs": 21}, "logprobs"),
    ({"prompt": "a", "logprobs": True}, "logprobs"),
    ({"prompt": "a", "logprobs": 1, "echo": True}, "logprobs"),
    ({"prompt": "a", "min_tokens": 17}, "min_tokens"),
    ({"prompt": "a", "presence_penalty": 3}, "presence_penalty"),
    ({"prompt": "a", "repetition_penalty": 0}, "repetition_penalty"),
    ({"prompt": "a", "stream": "yes"}, "stream"),
    ({"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options"),
    ({"prompt": "a", "stream": True, "stream_options": {"what": 1}}, "stream_options"),
    ({"prompt": "a", "preset": "fast"}, "preset"),
    ({"prompt": "a", "preset": 1}, "preset"),
    ({"prompt": "a", "lookahead": 0}, "lookahead"),
    ({"prompt": "a", "speculation": {"tree_nodes": 0}}, "speculation"),
    ({"prompt": "a", "speculation": {"no_such_field": 1}}, "speculation"),
    ({"prompt": "a", "speculation": {"preset": "sd"}}, "speculation"),
    ({"prompt": "a", "speculation": {"verification": "rejection"}}, "speculation"),
    ({"prompt": "a", "speculation": [1]}, "speculation"),
    ({"prompt": "a", "lookahead": 33}, "lookahead"),
    ({"prompt": "a", "temprature": 1}, "temprature"),
    ({"prompt": "a", "model": 3}, "model"),
]


@pytest.mark.parametrize(("body", "field"), BAD, ids=lambda value: value if isinstance(value, str) else json.dumps(value)[:60])
async def test_a_bad_field_is_a_400_that_names_it(client: httpx.AsyncClient, body: dict[str, Any], field: str) -> None:
    answer = await client.post("/v1/completions", content=json.dumps(body))
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == field and error["type"] == "invalid_request_error"
    assert field in error["message"] and len(answer.content) < 1024
    assert not target_of(client).requests


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"1", b'"a"', b"\xff\xfe", b'{"prompt": "\xff"}', b'{"prompt": "\\ud800"}', b"[" * 2000, b'{"prompt": "a"} x'],
)
async def test_what_is_not_a_json_object_is_a_400(client: httpx.AsyncClient, content: bytes) -> None:
    for route in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"):
        answer = await client.post(route, content=content)
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_json", (route, answer.text)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "a"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": "a" * 200}]}, "messages"),
        ({"messages": [{"role": "user", "content": "a"}], "logprobs": 2}, "logprobs"),
        ({"messages": [{"role": "user", "content": "a"}], "top_logprobs": 2}, "top_logprobs"),
        ({"messages": [{"role": "user", "content": "a"}], "logprobs": True, "top_logprobs": 99}, "top_logprobs"),
        ({"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "max_completion_tokens": 1}, "max_completion_tokens"),
        ({"messages": [{"role": "user", "content": "a"}], "chat_template": "{{ 1 }}"}, "chat_template"),
    ],
)
async def test_a_bad_chat_is_a_400_that_names_the_field(client: httpx.AsyncClient, body: dict[str, Any], field: str) -> None:
    answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == field, answer.text


async def test_other_refusals_have_openais_shape_too(client: httpx.AsyncClient) -> None:
    answers = {
        404: [
            await client.get("/nope"),
            await client.get("/v1/models/x"),
            await client.post("/v1/completions", json={"prompt": "a", "model": "x"}),
        ],
        405: [await client.get("/v1/completions"), await client.delete("/v1/models")],
        413: [await client.post("/v1/completions", content=b"x" * 4097)],
    }
    for status, group in answers.items():
        for answer in group:
            assert answer.status_code == status and answer.json()["error"]["message"], answer.text


async def test_only_json_is_read(client: httpx.AsyncClient) -> None:
    for kind, status in (
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("application/vnd.api+json", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
    ):
        answer = await client.post("/v1/completions", content=b'{"prompt": "a"}', headers={"content-type": kind})
        assert answer.status_code == status, kind
        assert status == 200 or answer.json()["error"]["code"] == "unsupported_media_type"


async def test_browsers_may_call_only_from_the_origins_that_are_named() -> None:
    asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
    asked["access-control-request-headers"] = "authorization,content-type,x-request-id,x-session-id"
    keys = (SecretStr("one"),)
    config = ServiceConfig(model_name="m", api_keys=keys, cors_origins=("https://a.example",))
    async with await front(config=config) as client:
        answer = await client.options("/v1/chat/completions", headers=asked)
        assert answer.status_code == 200, "asked without a key"
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        refused = await client.post("/v1/completions", json={}, headers={"origin": "https://a.example"})
        assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == "https://a.example"
        other = await client.options("/v1/chat/completions", headers=asked | {"origin": "https://b.example"})
        assert other.status_code == 400 and "access-control-allow-origin" not in other.headers
    async with await front(config=ServiceConfig(model_name="m")) as client:
        assert (await client.options("/v1/chat/completions", headers=asked)).status_code == 405


@pytest.mark.parametrize("is_stream", [False, True])
async def test_each_metric_of_the_ingress_moves_with_a_request(is_stream: bool) -> None:
    seen: list[dict[str, float]] = []

    class Looking(FakeTarget):
        async def generate(self, request: Any, session_key: str = "") -> AsyncIterator[Any]:  # type: ignore[override]
            async for emission in super().generate(request, session_key):
                seen.append({sample.name: sample.value for sample in service.snapshot().samples})
                yield emission

    service = Service(ServiceConfig(model_name="m"), Looking(CARD, HELLO))
    await service.connect()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(build_http_app(service)), base_url="http://t") as client:
        await client.post("/v1/completions", json={"prompt": "a", "stream": is_stream})
    assert {sample["ssd_http_requests_running"] for sample in seen} == {1}
    after = {sample.name: sample.value for sample in service.snapshot().samples}
    assert after["ssd_http_requests_running"] == 0
    assert after["ssd_http_requests_total"] == 1 and after["ssd_stream_pieces_total"] == 4 * is_stream
    assert after.keys() == {metric.name for metric in INGRESS}


async def test_a_body_without_a_length_is_limited_too(client: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 100

    assert (await client.post("/v1/completions", content=endless())).status_code == 413


async def test_every_route_but_health_wants_a_key() -> None:
    config = ServiceConfig(model_name="m", api_keys=(SecretStr("one"), SecretStr("two")))
    async with await front(config=config) as client:
        routes = [("GET", p) for p in ("/v1/models", "/v1/models/m", "/ready", "/version", "/metrics", "/docs", "/openapi.json", "/nope")]
        routes += [("POST", p) for p in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize")]
        for method, path in routes:
            for header in ({}, {"authorization": "Bearer three"}, {"authorization": "Basic one"}, {"authorization": "Bearer é"}):
                raw = {key: value.encode() for key, value in header.items()}
                answer = await client.request(method, path, headers=raw)
                assert answer.status_code == 401 and answer.json()["error"]["type"] == "authentication_error", path
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/v1/models", headers={"authorization": "Bearer two"})).status_code == 200


async def test_keys_of_a_file_are_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    config = ServiceConfig(model_name="m", api_keys=(SecretStr("one"),), api_keys_file=file)
    for content in (None, "\n"):
        if content is not None:
            file.write_text(content)
        with pytest.raises(ConfigError, match="api_keys_file = "):
            await front(config=config)
    file.write_text("two\n\nthree\n")
    async with await front(config=config) as client:
        for key, status in (("one", 200), ("two", 200), ("three", 200), ("four", 401), ("", 401)):
            assert (await client.get("/v1/models", headers={"authorization": f"Bearer {key}"})).status_code == status


# ---------------------------------------------------------------- what is answered


async def test_a_completion_has_openais_shape_and_our_metrics(client: httpx.AsyncClient) -> None:
    answer = (await client.post("/v1/completions", json={"prompt": "ab", "model": "m"})).json()
    assert answer["object"] == "text_completion" and answer["model"] == "m"
    assert answer["choices"] == [{"index": 0, "finish_reason": "length", "text": "Hélo", "logprobs": None}]
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7}
    assert answer["metrics"]["time_to_first_token_s"] == 0.25
    assert answer["metrics"]["speculative_decoding"] == {
        "num_spec_steps": 2,
        "num_draft_tokens": 6,
        "num_accepted_draft_tokens": 2,
        "mean_acceptance_length": 2.0,
        "draft_acceptance_rate": 1 / 3,
        "acceptance_histogram": [1, 0, 1],
        "accepted_per_position": [1, 1],
        "rounds": 3,
        "hit_rate": 0.5,
        "draft_wait_s": 0.0,
    }


async def test_a_stream_says_the_same_as_the_whole(client: httpx.AsyncClient) -> None:
    body = {"prompt": "ab", "stream": True, "stream_options": {"include_usage": True}, "return_token_ids": True}
    answer = await client.post("/v1/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *pieces, usage, done = events(answer.text)
    assert done == "[DONE]"
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == "Hélo"
    assert [piece["choices"][0]["finish_reason"] for piece in pieces] == [None, None, None, "length"]
    assert [token for piece in pieces for token in piece["choices"][0]["token_ids"]] == list(ids("Hélo"))
    assert all(piece["usage"] is None for piece in pieces)
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 5
    assert usage["metrics"]["speculative_decoding"]["rounds"] == 3


async def test_a_chat_goes_through_the_template(client: httpx.AsyncClient) -> None:
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "ab"}]}], "seed": 3}
    answer = (await client.post("/v1/chat/completions", json=body)).json()
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "Hélo"} and answer["seed"] == 3
    request = target_of(client).requests[0]
    assert request.prompt == ids("ab\n") and request.sampling.max_tokens == 125
    first, *rest = events((await client.post("/v1/chat/completions", json={**body, "stream": True})).text)
    assert first["object"] == "chat.completion.chunk" and first["choices"][0]["delta"] == {"role": "assistant", "content": "H"}
    assert rest[0]["choices"][0]["delta"] == {"content": ""}


DUMPED = {
    "content": None, "refusal": None, "role": "assistant", "annotations": [], "audio": None, "function_call": None,
    "tool_calls": None, "name": None,
}  # fmt: skip
"""An assistant's message as the openai package's `model_dump()` writes it."""
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": null, "b": [1, null]}'}}
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}"
    "{{ m.tool_call_id }}\n{% endfor %}{% if add_generation_prompt %}>{% endif %}{{ mood }}"
)


async def prompt_of(body: dict[str, Any], template: str = TEMPLATE) -> str:
    """The prompt that a chat becomes."""
    async with await front(card=replace(CARD, chat_template=template, max_model_len=512)) as client:
        answer = await client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        return LOADED.tokenizer.decode(target_of(client).requests[0].prompt, skip_special_tokens=False)


async def test_a_history_is_taken_as_clients_dump_it() -> None:
    messages = [
        {"role": "user", "content": "a", "name": None},
        {**DUMPED, "tool_calls": [{**CALL, "index": None}]},
        {"role": "tool", "content": [{"type": "text", "text": "42"}], "tool_call_id": "c1"},
        {**DUMPED, "content": "b"},
        {"role": "user", "content": "c"},
    ]
    called = '[{"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"a": null, "b": [1, null]}}}]'
    expected = f"user:a\nassistant:{called}\ntool:42c1\nassistant:b\nuser:c\n>"
    assert await prompt_of({"messages": messages}) == expected


async def test_a_client_writes_no_control_tokens_in_a_chat_but_may_in_a_completion(client: httpx.AsyncClient) -> None:
    text = "a<|endoftext|>b"
    await client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": text}]})
    await client.post("/v1/completions", json={"prompt": text})
    chat, completion = target_of(client).requests
    assert 256 not in chat.prompt and LOADED.tokenizer.decode(chat.prompt) == text + "\n"
    assert completion.prompt.count(256) == 1


async def test_options_of_the_template_reach_it() -> None:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    assert await prompt_of({**body, "chat_template_kwargs": {"mood": "calm"}}) == "user:a\nassistant:b\n>calm"
    assert await prompt_of({**body, "add_generation_prompt": False}) == "user:a\nassistant:b\n"
    goes_on = {"add_generation_prompt": False, "continue_final_message": True}
    assert await prompt_of({**body, **goes_on}) == "user:a\nassistant:b"


WITHOUT_EFFECT: list[tuple[str, dict[str, Any]]] = [
    *(
        (route, fields)
        for route in ("/v1/completions", "/v1/chat/completions")
        for fields in (
            {"response_format": {"type": "text"}},
            {"store": False},
            {"metadata": {"a": "b"}},
            {"service_tier": "auto"},
            {"best_of": 1},
            {"seed": -1},
            {"skip_special_tokens": True, "spaces_between_special_tokens": True},
            {"stream_options": {"include_usage": False}, "stream": False},
            {"stream_options": {}},
            {"stream_options": {"include_usage": None}},
            {"use_beam_search": False, "length_penalty": 1.0, "early_stopping": False, "bad_words": []},
            {"safety_identifier": "a", "prompt_cache_key": "b"},
            {"logit_bias": {}, "stop": [], "stop_token_ids": []},
        )
    ),
    ("/v1/completions", {"suffix": ""}),
    ("/v1/completions", {"add_special_tokens": True}),
    *(
        ("/v1/chat/completions", fields)
        for fields in (
            {"tools": []},
            {"tools": None, "tool_choice": None, "response_format": None},
            {"tool_choice": "none"},
            {"tool_choice": "auto", "parallel_tool_calls": True},
            {"parallel_tool_calls": False},
            {"functions": [], "function_call": "none"},
            {"logprobs": False, "top_logprobs": 0},
            {"modalities": ["text"]},
            {"chat_template_kwargs": {}},
            {"echo": False, "add_special_tokens": False},
        )
    ),
]
NEEDED: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "a"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}]},
}


@pytest.mark.parametrize(("route", "fields"), WITHOUT_EFFECT, ids=str)
async def test_a_field_at_a_value_without_effect_has_none(client: httpx.AsyncClient, route: str, fields: dict[str, Any]) -> None:
    plain, body = NEEDED[route], {**NEEDED[route], **fields}
    seed = {} if "seed" in fields else {"seed": 3}
    for one in (plain, body):
        answer = await client.post(route, json={**one, **seed})
        assert answer.status_code == 200, answer.text
    first, second = target_of(client).requests
    assert first.prompt == second.prompt and first.speculation == second.speculation
    if seed:
        assert first.sampling == second.sampling
    else:
        assert second.sampling.seed >= 0, "drawn"
    document = (await client.get("/openapi.json")).json()
    schema = document["paths"][route]["post"]["requestBody"]["content"]["application/json"]["schema"]
    if not any(value is None for value in fields.get("stream_options", {}).values()):
        Draft202012Validator({**schema, "components": document["components"]}).validate(body)


WITH_EFFECT: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/completions", {"suffix": "b"}, 'suffix: must be "": text is only continued'),
    ("/v1/completions", {"best_of": 3}, "best_of: must be 1: n answers are returned as they are"),
    ("/v1/completions", {"best_of": True}, "best_of: must be 1: n answers are returned as they are"),
    ("/v1/completions", {"store": True}, "store: must be false: nothing is stored"),
    ("/v1/completions", {"store": 0}, "store: must be false: nothing is stored"),
    ("/v1/completions", {"metadata": 5}, "metadata: must be an object"),
    ("/v1/completions", {"tools": []}, "tools: there is no such field"),
    ("/v1/completions", {"seed": -2}, "seed: must be at least 0"),
    ("/v1/completions", {"service_tier": "flex"}, 'service_tier: must be "auto" or "default": all requests are served alike'),
    (
        "/v1/chat/completions", {"response_format": {"type": "json_object"}},
        'response_format: must be {"type": "text"}: answers are free text',
    ),
    ("/v1/chat/completions", {"tools": [{"type": "function"}]}, "tools: must be []: this service calls no tools"),
    (
        "/v1/chat/completions", {"tool_choice": "required"},
        'tool_choice: must be "none" or "auto": this service calls no tools',
    ),
    ("/v1/chat/completions", {"modalities": ["text", "audio"]}, 'modalities: must be ["text"]: answers are text'),
    ("/v1/chat/completions", {"suffix": ""}, "suffix: there is no such field"),
    ("/v1/chat/completions", {"top_logprobs": 2, "logprobs": False}, "top_logprobs: needs logprobs"),
    (
        "/v1/chat/completions", {"continue_final_message": True},
        "continue_final_message: only with add_generation_prompt false",
    ),
    (
        "/v1/chat/completions", {"chat_template_kwargs": {"messages": []}},
        "chat_template_kwargs.messages: is not a client's to set here",
    ),
    ("/v1/chat/completions", {"chat_template_kwargs": 5}, "chat_template_kwargs: must be an object"),
    (
        "/v1/chat/completions", {"messages": [{"role": "alien", "content": "a"}]},
        "messages[0].role: must be 'system', 'developer', 'user', 'assistant', 'tool' or 'function'",
    ),
    (
        "/v1/chat/completions", {"messages": [{"role": "assistant", "refusal": "no"}]},
        "messages[0].refusal: must be null",
    ),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}]},
        "messages[0].tool_calls[0].function.arguments: must be a JSON object as text",
    ),
    (
        "/v1/chat/completions", {"messages": [{"role": "assistant", "tool_calls": [CALL]}]},
        "messages[0].tool_calls: this model's chat template does not show it",
    ),
    (
        "/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages[0].content[0]: must be of type text, with a text",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("route", "fields", "words"), WITH_EFFECT, ids=str)
async def test_what_would_have_an_effect_and_has_none_here_is_refused(
    client: httpx.AsyncClient, route: str, fields: dict[str, Any], words: str
) -> None:
    answer = await client.post(route, json={**NEEDED[route], **fields})
    assert answer.status_code == 400 and answer.json()["error"]["message"] == words
    assert answer.json()["error"]["param"] == re.split(r"[\[.:]", words)[0] and not target_of(client).requests


async def test_special_tokens_are_shown_on_request() -> None:
    script = [Emission("s", (*ids("H"), 256), finish_reason=FinishReason.STOP, stats=STATS)]
    async with await front(script) as client:
        for fields, text in (({}, "H"), ({"skip_special_tokens": False}, "H<|endoftext|>")):
            answer = await client.post("/v1/completions", json={"prompt": "a", **fields})
            assert answer.json()["choices"][0]["text"] == text


async def test_a_template_that_fails_is_a_500_without_insides_and_one_that_refuses_a_400() -> None:
    for template, status in (("{{ messages[0].x.y }}", 500), ("{{ raise_exception('not so') }}", 400)):
        async with await front(card=replace(CARD, chat_template=template)) as client:
            answer = await client.post("/v1/chat/completions", json=NEEDED["/v1/chat/completions"])
            assert answer.status_code == status, answer.text
            assert ("not so" in answer.text) == (status == 400) and "undefined" not in answer.text.lower()


async def test_a_model_without_a_template_says_so() -> None:
    async with await front(card=replace(CARD, chat_template=None)) as client:
        answer = await client.post("/v1/chat/completions", json=NEEDED["/v1/chat/completions"])
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "no_chat_template"


@pytest.mark.parametrize("name", ["llama2", "mistral", "gemma"])
async def test_text_of_a_byte_fallback_vocabulary_is_whole(name: str) -> None:
    """The space before the first word, bytes that are none, and the name of a token in `logprobs`."""
    tokenizer = TOKENIZERS[name]()
    word, lead = tokenizer.token_to_id("▁Hello"), tokenizer.token_to_id("<0xC3>")
    card = ModelCard(tokenizer.to_str(), (2,), None, tokenizer.get_vocab_size(), 128)
    logprobs = tuple(TokenLogprob(token, -0.5, ((token, -0.5),)) for token in (word, lead, word))
    script = [
        Emission("s", (word, lead), logprobs[:2]),
        Emission("s", (word,), logprobs[2:], FinishReason.LENGTH, stats=STATS),
    ]
    async with await front(script, card=card) as client:
        body = {"prompt": "Hello world,", "echo": True}
        answer = (await client.post("/v1/completions", json=body)).json()
        assert answer["choices"][0]["text"] == "Hello world, Hello� Hello"
        streamed = events((await client.post("/v1/completions", json={**body, "stream": True})).text)
        assert "".join(piece["choices"][0]["text"] for piece in streamed[:-1]) == "Hello world, Hello� Hello"
        answer = (await client.post("/v1/completions", json={"prompt": "Hello", "logprobs": 1})).json()
        assert answer["choices"][0]["logprobs"]["tokens"] == [" Hello", "�", " Hello"]
        assert answer["choices"][0]["logprobs"]["text_offset"] == [0, 6, 7]


async def test_batches_and_n_are_sessions_with_seeds_that_count_up(client: httpx.AsyncClient) -> None:
    body = {"prompt": ["a", "bc"], "n": 2, "seed": 10, "echo": True, "preset": "sd", "lookahead": 3, "speculation": {"tree_nodes": 5}}
    answer = (await client.post("/v1/completions", json=body)).json()
    assert [choice["text"] for choice in answer["choices"]] == ["aHélo", "aHélo", "bcHélo", "bcHélo"]
    assert answer["usage"]["prompt_tokens"] == 3 and answer["usage"]["completion_tokens"] == 20
    requests = target_of(client).requests
    assert sorted((request.sampling.seed, request.prompt) for request in requests) == [
        (10, ids("a")), (11, ids("a")), (12, ids("bc")), (13, ids("bc")),
    ]  # fmt: skip
    assert {(r.speculation.preset, r.speculation.lookahead, r.speculation.tree_nodes) for r in requests} == {("sd", 3, 5)}
    assert len({request.session_id for request in requests}) == 4
    streamed = events((await client.post("/v1/completions", json={**body, "stream": True})).text)
    texts = [""] * 4
    for piece in streamed[:-1]:
        texts[piece["choices"][0]["index"]] += piece["choices"][0]["text"]
    assert texts == ["aHélo", "aHélo", "bcHélo", "bcHélo"]


async def test_a_missing_seed_is_drawn_and_told(client: httpx.AsyncClient) -> None:
    seeds = [(await client.post("/v1/completions", json={"prompt": "a", "seed": None})).json()["seed"] for _ in range(2)]
    assert seeds[0] != seeds[1] and seeds == [request.sampling.seed for request in target_of(client).requests]


async def test_logprobs_have_openais_shapes() -> None:
    entry = TokenLogprob(ids("H")[0], -0.5, ((ids("H")[0], -0.5), (ids("x")[0], -2.0)))
    script = [Emission("s", ids("H"), (entry,), FinishReason.STOP, stats=STATS)]
    async with await front(script) as client:
        whole = (await client.post("/v1/completions", json={"prompt": "a", "logprobs": 2})).json()
        assert whole["choices"][0]["logprobs"] == {
            "tokens": ["H"],
            "token_logprobs": [-0.5],
            "top_logprobs": [{"H": -0.5, "x": -2.0}],
            "text_offset": [0],
        }
        body = {"messages": [{"role": "user", "content": "a"}], "logprobs": True, "top_logprobs": 2}
        chat = (await client.post("/v1/chat/completions", json=body)).json()
        assert chat["choices"][0]["logprobs"]["content"][0]["top_logprobs"][1] == {"token": "x", "logprob": -2.0, "bytes": [120]}


async def test_tokenize_and_detokenize_undo_each_other(client: httpx.AsyncClient) -> None:
    answer = (await client.post("/tokenize", json={"prompt": "né☃", "return_token_strs": True})).json()
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"]) == 6 and answer["max_model_len"] == 128
    assert (await client.post("/detokenize", json={"tokens": answer["tokens"]})).json() == {"prompt": "né☃"}
    assert (await client.post("/detokenize", json={"tokens": [999]})).json()["error"]["param"] == "tokens"


async def test_small_routes_answer(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/models")).json()["data"][0]["id"] == "m"
    assert (await client.get("/v1/models/m")).json()["max_model_len"] == 128
    for path in ("/health", "/ready", "/version", "/openapi.json"):
        assert (await client.get(path)).status_code == 200, path
    metrics = (await client.get("/metrics")).text
    assert 'ssd_http_requests_total{ingress="ingress",route="/health",status="200"} 1' in metrics


async def test_before_the_model_is_loaded_there_is_503() -> None:
    service = Service(ServiceConfig(), FakeTarget(CARD, HELLO))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(build_http_app(service)), base_url="http://t") as client:
        assert (await client.get("/health")).status_code == 200
        for answer in (await client.get("/ready"), await client.post("/v1/completions", json={"prompt": "a"})):
            assert answer.status_code == 503 and answer.headers["retry-after"] and answer.json()["error"]["code"] == "not_ready"


async def test_a_target_whose_loop_has_died_is_not_ready(client: httpx.AsyncClient) -> None:
    assert (await client.get("/ready")).status_code == 200
    target_of(client).is_alive = False
    answer = await client.get("/ready")
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "not_ready" and answer.headers["retry-after"]
    assert (await client.get("/health")).status_code == 200
    target_of(client).is_alive = True
    assert (await client.get("/ready")).status_code == 200


async def test_a_request_id_is_echoed_unless_it_is_no_fit_for_a_header(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/completions", json={"prompt": "a"}, headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1" and answer.json()["id"] == "cmpl-mine-1"
    assert len((await client.get("/health", headers={"x-request-id": b"\xff"})).headers["x-request-id"]) == 32
    assert (await client.get("/nope")).headers["x-request-id"]


# ---------------------------------------------------------------- what goes wrong behind it


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_full_target_is_429_with_retry_after(is_stream: bool) -> None:
    for script in ([Refusal(RefusalKind.CAPACITY, "5 sessions wait")], [OverloadedError()]):
        async with await front(script) as client:
            answer = await client.post("/v1/completions", json={"prompt": "a", "stream": is_stream})
            assert answer.status_code == 429 and answer.headers["retry-after"] == "1" and answer.json()["error"]["code"] == "capacity"


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_target_that_refuses_names_the_field(is_stream: bool) -> None:
    async with await front([Refusal(RefusalKind.INVALID, "too long", "max_tokens")]) as client:
        answer = await client.post("/v1/completions", json={"prompt": "a", "stream": is_stream})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "max_tokens"


async def test_a_failure_before_the_first_token_is_a_status_without_insides() -> None:
    for error, status in ((TargetLostError("10.0.0.1"), 503), (RuntimeError("/etc/secret"), 500)):
        for is_stream in (False, True):
            async with await front([error]) as client:
                answer = await client.post("/v1/completions", json={"prompt": "a", "stream": is_stream})
                assert answer.status_code == status and "secret" not in answer.text and "10.0" not in answer.text


async def test_a_failure_in_mid_stream_is_an_event_and_no_done() -> None:
    async with await front([HELLO[0], TargetLostError()]) as client:
        first, error = events((await client.post("/v1/completions", json={"prompt": "a", "stream": True})).text)
        assert first["choices"][0]["text"] == "H" and error["error"]["code"] == "replica_lost"


async def test_an_engine_error_is_a_500_for_this_request() -> None:
    async with await front([Emission("s", (), finish_reason=FinishReason.ERROR, error="NaN", stats=STATS)]) as client:
        answer = await client.post("/v1/completions", json={"prompt": "a"})
        assert answer.status_code == 500 and answer.json()["error"]["code"] == "engine_error"


async def test_one_failed_choice_ends_the_others() -> None:
    async with await front([HELLO[0], TargetLostError()]) as client:
        answer = await client.post("/v1/completions", json={"prompt": ["a", "b", "c"], "stream": True})
        assert events(answer.text)[-1]["error"]["code"] == "replica_lost"
        assert (await client.post("/v1/completions", json={"prompt": ["a", "b", "c"]})).status_code == 503

"""The HTTP front over a fake target: every bad input is a 4xx that names its field, every answer has OpenAI's shape."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
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


async def front(script: Any = HELLO, config: ServiceConfig | None = None) -> httpx.AsyncClient:
    service = Service(config or ServiceConfig(model_name="m", max_body_bytes=4096), FakeTarget(CARD, script))
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
    ({"prompt": "a", "seed": -1}, "seed"),
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

"""The OpenAPI document of the HTTP front: bodies from the models that check them, answers as they are built. Pure.

A body's schema is one closed object; null stands for absent in every field of it, as the parser takes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from deployments.inert_fields import CHAT, COMPLETION, RANDOM_SEED, Inert
from deployments.openai_requests import ChatFields, CompletionFields, RequestSampling

Schema = dict[str, Any]

REF = "#/components/schemas/"
STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
TOKEN_IDS: Schema = {"type": "array", "items": INTEGER}
ERRORS = {
    400: "The request is not valid: `param` names the field.",
    401: "No API key, or one that is not known.",
    404: "There is no such model or route.",
    413: "The body is too large.",
    415: "The body's content type is not JSON.",
    429: "The service is full: try again after `retry-after` seconds.",
    500: "The service failed; its log has the reason under the request's id.",
    503: "The model is being loaded, or the replica was lost: try again.",
    504: "The request took longer than the service allows.",
}
READING = (400, 404, 413, 415, 500, 503)
"""Of routes that take a body."""
GENERATING = (*READING, 429, 504)
HEADERS = {
    "x-request-id": "An id for the log and the answer, of 1 to 128 visible ASCII characters; another is drawn without it.",
    "x-session-id": "Requests of one session go to one replica while that is not much busier than others.",
}


def document(title: str, version: str, tokenize: type[BaseModel], detokenize: type[BaseModel], has_keys: bool) -> Schema:
    """`tokenize`, `detokenize`: the models of those routes' bodies. `has_keys`: all but /health want a key."""
    kinds = (CompletionFields, ChatFields, RequestSampling, tokenize, detokenize)
    names, definitions = models_json_schema([(kind, "validation") for kind in kinds], ref_template=REF + "{model}")
    schemas: Schema = deepcopy(definitions["$defs"])
    of_kind = {kind: schemas.pop(names[kind, "validation"]["$ref"].removeprefix(REF)) for kind in kinds}
    sampling = {**of_kind[RequestSampling]["properties"], "stop": STOP}
    sampling["seed"] = sampling["seed"] | {"minimum": RANDOM_SEED, "description": SEED}
    completion, chat = of_kind[CompletionFields], of_kind[ChatFields]
    schemas["CompletionRequest"] = _body(completion, {**sampling, **_inert(COMPLETION), "prompt": PROMPT})
    schemas["ChatRequest"] = _body(chat, {**sampling, **_inert(CHAT), **_chat_names(sampling)})
    schemas["TokenizeRequest"] = _body(of_kind[tokenize])
    schemas["DetokenizeRequest"] = _body(of_kind[detokenize])
    schemas |= ANSWERS
    paths = {
        "/v1/completions": _post("CompletionRequest", "Completion", GENERATING, "Completion", has_keys),
        "/v1/chat/completions": _post("ChatRequest", "ChatCompletion", GENERATING, "ChatCompletionChunk", has_keys),
        "/tokenize": _post("TokenizeRequest", "Tokens", READING, None, has_keys),
        "/detokenize": _post("DetokenizeRequest", "Text", READING, None, has_keys),
        "/v1/models": _get("The model that is served, as a list.", "ModelList", (500,), has_keys),
        "/v1/models/{model}": _get("The model by its name.", "Model", (404, 500, 503), has_keys),
        "/health": _get("Whether the process lives.", "Status", (500,), False),
        "/ready": _get("Whether the model is loaded and a target replica answers.", "Status", (500, 503), has_keys),
        "/version": _get("The service's version.", "Version", (500,), has_keys),
        "/metrics": _get("Prometheus text.", None, (500, 503), has_keys),
    }
    paths["/v1/models/{model}"]["get"]["parameters"] += [{"name": "model", "in": "path", "required": True, "schema": STRING}]
    components: Schema = {"schemas": schemas}
    if has_keys:
        components["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": components,
    }


def _body(own: Schema, more: Schema | None = None) -> Schema:
    """One closed object. Fields that must be there may not be null."""
    properties = {**own["properties"], **(more or {})}
    required = own.get("required", [])
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: field if name in required else _or_null(field) for name, field in properties.items()},
        "required": required,
    }


def _or_null(field: Schema) -> Schema:
    alternatives = field.get("anyOf", ())
    if {"type": "null"} in alternatives:
        return field
    described: Schema = {key: field[key] for key in ("title", "description", "default") if key in field}
    return {**described, "anyOf": [{k: v for k, v in field.items() if k not in described}, {"type": "null"}]}


def _inert(fields: Mapping[str, Inert]) -> Schema:
    return {name: field.schema for name, field in fields.items()}


def _chat_names(sampling: Schema) -> Schema:
    """How a chat calls what a completion calls otherwise."""
    return {
        "max_completion_tokens": {**sampling["max_tokens"], "description": "The same as max_tokens: one of the two."},
        "logprobs": {"type": "boolean", "default": False, "description": "Whether tokens come with log probabilities."},
        "top_logprobs": {**sampling["logprobs"], "description": "Log probabilities of this many likeliest tokens, with `logprobs`."},
    }


def _post(body: str, answer: str, errors: Sequence[int], event: str | None, has_keys: bool) -> Schema:
    content: Schema = {"application/json": {"schema": {"$ref": REF + answer}}}
    if event is not None:
        content["text/event-stream"] = {
            "schema": {
                **STRING,
                "description": f"With `stream`: each event's data is a {event}, the last `[DONE]`."
                " A stream that ends early ends with an Error, and no `[DONE]`.",
            }
        }
    operation = _operation(content, errors, has_keys)
    operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": {"$ref": REF + body}}}}
    return {"post": operation}


def _get(summary: str, answer: str | None, errors: Sequence[int], has_keys: bool) -> Schema:
    schema = {"application/json": {"schema": {"$ref": REF + answer}}} if answer else {"text/plain": {"schema": STRING}}
    return {"get": {"summary": summary, **_operation(schema, errors, has_keys)}}


def _operation(content: Schema, errors: Sequence[int], has_keys: bool) -> Schema:
    statuses = sorted({*errors, *([401] if has_keys else [])})
    responses: Schema = {"200": {"description": "What was asked for.", "headers": ID_HEADER, "content": content}}
    responses |= {str(status): _error(status) for status in statuses}
    parameters = [{"name": name, "in": "header", "schema": STRING, "description": told} for name, told in HEADERS.items()]
    operation: Schema = {"parameters": parameters, "responses": responses}
    return operation | ({"security": [{"apiKey": []}]} if has_keys else {})


def _error(status: int) -> Schema:
    headers = ID_HEADER | ({"retry-after": {"schema": INTEGER, "description": "Seconds."}} if status in (429, 503) else {})
    return {
        "description": ERRORS[status],
        "headers": headers,
        "content": {"application/json": {"schema": {"$ref": REF + "Error"}}},
    }


def _object(properties: Schema, optional: Sequence[str] = ()) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> Schema:
    return {"$ref": REF + name}


def _maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


ID_HEADER: Schema = {"x-request-id": {"schema": STRING, "description": "The request's id in the service's log."}}
PROMPT: Schema = {
    "description": "A text, token ids, or a list of either.",
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": STRING, "minItems": 1},
        {"type": "array", "items": INTEGER, "minItems": 1},
        {"type": "array", "items": {"type": "array", "items": INTEGER, "minItems": 1}, "minItems": 1},
    ],
}
SEED = f"Determines all noise, with the position: the same request and seed give the same tokens. {RANDOM_SEED}: drawn."
STOP: Schema = {
    "description": "Texts before which the output ends.",
    "anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string", "minLength": 1}}],
}
_HEAD: Schema = {"id": STRING, "object": STRING, "created": INTEGER, "model": STRING, "seed": INTEGER}
_FINISH: Schema = _maybe(STRING)
_CHOICE: Schema = {"index": INTEGER, "finish_reason": _FINISH, "token_ids": TOKEN_IDS}
_TOKEN: Schema = {"token": STRING, "logprob": NUMBER, "bytes": TOKEN_IDS}
_CHAT_LOGPROBS: Schema = _maybe(_object({"content": _list(_object({**_TOKEN, "top_logprobs": _list(_object(_TOKEN))}))}))
_TEXT_CHOICE = _object({**_CHOICE, "text": STRING, "logprobs": _maybe(_ref("Logprobs"))}, ("token_ids",))
_MESSAGE = _object({"role": STRING, "content": _maybe(STRING)})
_CHAT_CHOICE = _object({**_CHOICE, "message": _MESSAGE, "logprobs": _CHAT_LOGPROBS}, ("token_ids",))
_DELTA = _object({"role": STRING, "content": STRING}, ("role",))
_CHUNK_CHOICE = _object({**_CHOICE, "delta": _DELTA, "logprobs": _CHAT_LOGPROBS}, ("token_ids",))
_ACCOUNT: Schema = {"usage": _maybe(_ref("Usage")), "metrics": _ref("Metrics")}
_OPTIONAL = ("seed", "usage", "metrics")
"""Not in every event of a stream."""

ANSWERS: dict[str, Schema] = {
    "Error": _object({"error": _object({"message": STRING, "type": STRING, "param": _maybe(STRING), "code": _maybe(STRING)})}),
    "Completion": _object({**_HEAD, "choices": _list(_TEXT_CHOICE), **_ACCOUNT}, _OPTIONAL),
    "ChatCompletion": _object({**_HEAD, "choices": _list(_CHAT_CHOICE), **_ACCOUNT}, _OPTIONAL),
    "ChatCompletionChunk": _object({**_HEAD, "choices": _list(_CHUNK_CHOICE), **_ACCOUNT}, _OPTIONAL),
    "Logprobs": _object(
        {
            "tokens": _list(STRING),
            "token_logprobs": _list(_maybe(NUMBER)),
            "top_logprobs": _list(_maybe({"type": "object", "additionalProperties": NUMBER})),
            "text_offset": _list(INTEGER),
        }
    ),
    "Usage": _object({"prompt_tokens": INTEGER, "completion_tokens": INTEGER, "total_tokens": INTEGER}),
    "Metrics": _object({"time_to_first_token_s": NUMBER, "speculative_decoding": _ref("SpeculativeDecoding")}),
    "SpeculativeDecoding": _object(
        {
            "num_spec_steps": INTEGER,
            "num_draft_tokens": INTEGER,
            "num_accepted_draft_tokens": INTEGER,
            "mean_acceptance_length": NUMBER,
            "draft_acceptance_rate": NUMBER,
            "acceptance_histogram": _list(INTEGER),
            "accepted_per_position": _list(INTEGER),
            "rounds": INTEGER,
            "hit_rate": NUMBER,
            "draft_wait_s": NUMBER,
        }
    ),
    "Model": _object({"id": STRING, "object": STRING, "created": INTEGER, "owned_by": STRING, "root": STRING, "max_model_len": INTEGER}),
    "ModelList": _object({"object": STRING, "data": _list(_ref("Model"))}),
    "Tokens": _object({"count": INTEGER, "max_model_len": INTEGER, "tokens": TOKEN_IDS, "token_strs": _list(STRING)}, ("token_strs",)),
    "Text": _object({"prompt": STRING}),
    "Status": _object({"status": STRING}),
    "Version": _object({"version": STRING}),
}

"""Every error a client can see, in OpenAI's shape. The only place where exceptions become HTTP statuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import ErrorDetails
from starlette.responses import JSONResponse

from deployments.messages import Refusal, RefusalKind
from deployments.validation_words import Path, path_of, sentence, written
from ssd_core.errors import SSDError

RETRY_AFTER_S = 1
MAX_MESSAGE_CHARACTERS = 500
"""What a client sent is quoted in messages; it may be long."""
MAX_PATH_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    status: int
    message: str
    param: str | None = None
    code: str | None = None

    @property
    def kind(self) -> str:
        known = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 503: "service_unavailable_error"}
        return known.get(self.status, "invalid_request_error" if self.status < 500 else "internal_error")

    @property
    def headers(self) -> dict[str, str]:
        if self.status == 401:
            return {"www-authenticate": "Bearer"}
        return {"retry-after": str(RETRY_AFTER_S)} if self.status in (429, 503) else {}

    def body(self) -> dict[str, Any]:
        message = self.message if len(self.message) <= MAX_MESSAGE_CHARACTERS else self.message[:MAX_MESSAGE_CHARACTERS] + "…"
        return {"error": {"message": message, "type": self.kind, "param": self.param, "code": self.code}}


def answer(info: ErrorInfo) -> JSONResponse:
    return JSONResponse(info.body(), info.status, headers=info.headers)


class ApiError(SSDError):
    """Ends a request with an answer."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.info = ErrorInfo(status, message, param, code)

    def __reduce__(self) -> tuple[type[ApiError], tuple[int, str, str | None, str | None]]:
        return type(self), (self.info.status, self.info.message, self.info.param, self.info.code)

    def renamed(self, names: Mapping[str, str]) -> ApiError:
        """The same error, its field called as the client calls it."""
        info = self.info
        if info.param is None or info.param not in names:
            return self
        return ApiError(info.status, info.message.replace(info.param, names[info.param], 1), names[info.param], info.code)


class TargetLostError(SSDError):
    """The replica that ran a request died or cannot be reached."""


class OverloadedError(SSDError):
    """No replica takes another request now."""


def invalid(param: str | None, message: str) -> ApiError:
    return ApiError(400, message, param, "invalid_value")


def context_exceeded(param: str, limit: int, part: str, num_prompt: int, num_asked: int = 0) -> ApiError:
    """In OpenAI's words, by which gateways know it and fall back to a model of a longer context. `part` is where
    the prompt stands, `param` what is at fault; `num_prompt` may be the fewest tokens that a text can have."""
    if num_asked:
        counted = (
            f"you requested {num_prompt + num_asked} tokens ({num_prompt} in the {part}, {num_asked} in the completion)."
            f" Please reduce the length of the {part} or completion ({param})."
        )
    else:
        counted = f"your {part} resulted in {num_prompt} tokens. Please reduce the length of the {part}."
    words = f"This model's maximum context length is {limit} tokens. However, {counted}"
    return ApiError(400, words, param, "context_length_exceeded")


def of_refusal(refusal: Refusal) -> ErrorInfo:
    if refusal.kind is RefusalKind.CAPACITY:
        return ErrorInfo(429, f"the service is full: {refusal.message}", code="capacity")
    return ErrorInfo(400, f"{refusal.field}: {refusal.message}", refusal.field, "invalid_value")


def of_exception(error: Exception) -> ErrorInfo:
    """Says nothing of our insides: what is unexpected goes to the log, under the request's id."""
    match error:
        case ApiError(info=info):
            return info
        case OverloadedError():
            return ErrorInfo(429, "the service is full; try again", code="capacity")
        case TargetLostError():
            return ErrorInfo(503, "the replica that ran this request was lost; try again", code="replica_lost")
        case TimeoutError():
            return ErrorInfo(504, "the request took longer than this service allows", code="timeout")
    return ErrorInfo(500, "internal error; the log has it under this request's id")


def of_validation(errors: Sequence[ErrorDetails], body: Any, under: str = "") -> ApiError:
    """The first thing that is wrong with a body, with the field's name; `under`: the field that held the body."""
    first = errors[0]
    above: Path = (under,) if under else ()
    if first["type"] in ("missing", "extra_forbidden"):
        path = (*above, *path_of(first["loc"][:-1], body), first["loc"][-1])
        if first["type"] == "missing":
            return _of_field(path, "is required", "missing_required_parameter")
        return _of_field(path, "there is no such field", "unknown_parameter")
    inner, words = sentence(errors, body)
    return _of_field((*above, *inner), words, "invalid_value")


def _of_field(path: Path, words: str, code: str) -> ApiError:
    if not path:
        return ApiError(400, f"the body {words}", None, code)
    return ApiError(400, f"{written(path)[:MAX_PATH_CHARACTERS]}: {words}", str(path[0])[:MAX_PATH_CHARACTERS], code)

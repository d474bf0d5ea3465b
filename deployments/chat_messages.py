"""The messages of a chat as clients send them, and as chat templates take them. Pure."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field

from deployments.bodies import Body
from deployments.http_errors import invalid

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
"""OpenAI's. Free names are not taken: a template may build a control token from a role."""


class FunctionCall(Body):
    name: str
    arguments: str = "{}"
    """A JSON object as text."""


class ToolCall(Body):
    function: FunctionCall
    id: str = ""
    type: Literal["function"] = "function"
    index: int = 0
    """In a stream's pieces; without effect."""


class ChatMessage(Body):
    role: Role
    content: str | tuple[dict[str, Any], ...] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    """What the assistant thought before its answer, for templates that show it."""
    tool_calls: tuple[ToolCall, ...] | None = None
    tool_call_id: str | None = None
    annotations: tuple[Any, ...] | None = Field(default=None, description="Citations, which no model is shown.")
    audio: None = None
    function_call: None = None
    refusal: None = None


def template_message(message: ChatMessage, index: int) -> dict[str, Any]:
    """A message as chat templates take it: content is text, arguments are objects, absent is absent."""
    place = f"messages[{index}]"
    given: dict[str, Any] = {"role": message.role, "content": _text(message, place)}
    for field in ("name", "reasoning_content", "tool_call_id"):
        if (value := getattr(message, field)) is not None:
            given[field] = value
    if message.tool_calls:
        given["tool_calls"] = [
            {
                "id": call.id,
                "type": call.type,
                "function": {
                    "name": call.function.name,
                    "arguments": _arguments(call.function.arguments, f"{place}.tool_calls[{i}].function.arguments"),
                },
            }
            for i, call in enumerate(message.tool_calls)
        ]
    return given


def _text(message: ChatMessage, place: str) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    parts: list[str] = []
    for i, part in enumerate(message.content):
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise invalid("messages", f"{place}.content[{i}]: must be of type text, with a text")
        parts.append(part["text"])
    return "".join(parts)


def _arguments(text: str, place: str) -> dict[str, Any]:
    try:
        arguments = json.loads(text or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise invalid("messages", f"{place}: must be a JSON object as text")
    return arguments

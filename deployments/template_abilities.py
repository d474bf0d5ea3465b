"""What a chat template shows of a chat, found by rendering small ones: what it would drop without a word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deployments.chat_messages import Role
from deployments.chat_template import ChatTemplate, Messages, TemplateFailure, TemplateRefusal
from deployments.http_errors import invalid

MARK = "kqzvx"
"""A word that no template has of its own."""
_CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "call", "arguments": {"a": "b"}}}
"""The id is as long as Mistral's templates want it."""


def _say(role: str, content: str = "a", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def _named(name: str) -> dict[str, Any]:
    return {**_CALL, "function": {"name": name, "arguments": {}}}


CHATS: Mapping[str, Messages] = {
    "system": [_say("system", MARK), _say("user")],
    "developer": [_say("developer", MARK), _say("user")],
    "user": [_say("user", MARK)],
    "assistant": [_say("user"), _say("assistant", MARK), _say("user")],
    "tool": [
        _say("user"),
        _say("assistant", "", tool_calls=[_CALL]),
        _say("tool", MARK, tool_call_id="abcdefghi", name="call"),
    ],
    "function": [_say("user"), _say("assistant"), _say("function", MARK, name="call")],
    "tool_calls": [_say("user"), _say("assistant", "", tool_calls=[_named(MARK)])],
    "reasoning_content": [_say("user"), _say("assistant", reasoning_content=MARK)],
}
"""By role, or by field of an assistant's message: a chat in which MARK stands there."""


@dataclass(frozen=True, slots=True)
class Abilities:
    dropped: frozenset[str]
    """Roles and fields of which nothing comes out."""
    has_developer: bool
    """Whether the role `developer` is known; else `system` says the same."""

    @classmethod
    def of(cls, template: ChatTemplate) -> Abilities:
        shown = {name: _shows(template, chat) for name, chat in CHATS.items()}
        return cls(
            dropped=frozenset(name for name, is_shown in shown.items() if is_shown is False),
            has_developer=shown["developer"] is True,
        )

    def role(self, role: Role) -> Role:
        """The role under which the template takes a message."""
        return "system" if role == "developer" and not self.has_developer else role

    def check(self, message: Mapping[str, Any], index: int) -> None:
        """Raises ApiError for what the template would drop."""
        role = message["role"]
        if role in self.dropped and message["content"]:
            raise invalid("messages", f"messages[{index}].role: this model's chat template shows no {role} messages")
        for field in ("tool_calls", "reasoning_content"):
            if message.get(field) and field in self.dropped:
                raise invalid("messages", f"messages[{index}].{field}: this model's chat template does not show it")


def _shows(template: ChatTemplate, chat: Messages) -> bool | None:
    """None: the template cannot render the chat, and says so when there is one."""
    try:
        return MARK in template.render(chat, add_generation_prompt=False)
    except (TemplateRefusal, TemplateFailure):
        return None

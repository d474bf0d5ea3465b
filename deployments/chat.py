"""From the messages of a chat to a prompt: the template's text, in which only the template writes control tokens."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from deployments.chat_messages import ChatMessage, template_message
from deployments.chat_template import ChatTemplate, TemplateFailure, TemplateRefusal
from deployments.control_tokens import ControlTokens, MarkedText
from deployments.http_errors import ApiError, invalid
from deployments.template_abilities import Abilities

logger = logging.getLogger(__name__)


class Chat:
    """A model's tokenizer and chat template. Building it renders small chats, and raises ConfigError."""

    def __init__(self, tokenizer: Tokenizer, template: str, special_tokens: Mapping[str, str]) -> None:
        self._template = ChatTemplate(template, special_tokens)
        self._abilities = Abilities.of(self._template)
        self._control = ControlTokens(tokenizer, template)

    def prompt(
        self,
        messages: Sequence[ChatMessage],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> MarkedText:
        """Raises ApiError. `variables`: the client's own for the template (`chat_template_kwargs`)."""
        given = [template_message(message, i) for i, message in enumerate(messages)]
        for i, one in enumerate(given):
            one["role"] = self._abilities.role(one["role"])
            self._abilities.check(one, i)
        variables = self._checked(variables or {})
        if continue_final_message and not given[-1]["content"]:
            raise invalid("continue_final_message", "continue_final_message: the last message has no content")
        mark = self._control.mark_for([given, variables])
        try:
            rendered = self._template.render(
                [self._marked(one, mark) for one in given],
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                variables=self._control.marked(variables, mark),
            )
        except TemplateRefusal as refusal:
            words = self._control.unmarked(str(refusal), mark).text
            raise invalid("messages", f"messages: the chat template refuses them: {words}") from None
        except TemplateFailure as failure:
            logger.error("the chat template failed: %s", failure)
            words = "the model's chat template failed; the log has where under this request's id"
            raise ApiError(500, words, code="chat_template_failed") from None
        return self._control.unmarked(rendered, mark)

    def token_ids(self, prompt: MarkedText) -> tuple[int, ...]:
        return self._control.token_ids(prompt)

    def _marked(self, message: Mapping[str, Any], mark: str) -> dict[str, Any]:
        is_answer = message["role"] == "assistant"
        return {
            name: value if name == "role" else self._control.marked(value, mark, is_answer=is_answer) for name, value in message.items()
        }

    def _checked(self, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        taken = sorted(variables.keys() & self._template.reserved_names)
        if taken:
            words = f"chat_template_kwargs.{taken[0]}: is not a client's to set here"
            raise invalid("chat_template_kwargs", words)
        return variables

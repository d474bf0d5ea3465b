"""A model's chat template, rendered by transformers, and so as every other user of the model renders it."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError

from ssd_core.errors import ConfigError, SSDError

Messages = Sequence[Mapping[str, Any]]

_RENDERS_OWN_NAMES = (
    "add_generation_prompt", "chat_template", "continue_final_message", "conversations", "documents", "messages",
    "return_assistant_tokens_mask", "self", "tools",
)  # fmt: skip


class TemplateRefusal(SSDError):
    """The template's own words on messages that it does not take."""


class TemplateFailure(SSDError):
    """The template's own mistake: of what kind and in which of its lines. It quotes no message."""

    def __init__(self, error: Exception) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in reversed(frames) if frame.filename == "<template>"), "?")
        super().__init__(f"{type(error).__name__} in line {line}")


class ChatTemplate:
    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """`special_tokens`: texts by their names, as the template has them (`bos_token`). Raises ConfigError for a
        source that does not compile."""
        # Takes a second and does without torch; only who renders needs it.
        from transformers.utils.chat_template_utils import render_jinja_template

        self._render: Any = render_jinja_template
        self.source = source
        self._special_tokens = dict(special_tokens)
        self.reserved_names = frozenset({*_RENDERS_OWN_NAMES, *special_tokens})
        """What a client's own variables may not be called."""
        try:
            self._rendered([{"role": "user", "content": ""}], True, False, {})
        except TemplateSyntaxError as error:
            raise ConfigError(f"its chat template does not compile: line {error.lineno}: {error.message}") from None
        except Exception:  # it compiles, and what it says of a chat it says when there is one
            return

    def render(
        self,
        messages: Messages,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Raises TemplateRefusal, TemplateFailure."""
        try:
            return self._rendered(messages, add_generation_prompt, continue_final_message, variables or {})
        except TemplateError as error:
            if type(error) is not TemplateError:  # the others are the template's mistakes
                raise TemplateFailure(error) from None
            raise TemplateRefusal(error.message) from None  # of `raise_exception`
        except Exception as error:  # anything may go wrong in a template
            raise TemplateFailure(error) from None

    def _rendered(self, messages: Messages, prompts: bool, continues: bool, variables: Mapping[str, Any]) -> str:
        texts, _ = self._render(
            [list(messages)],
            chat_template=self.source,
            add_generation_prompt=prompts,
            continue_final_message=continues,
            **{**self._special_tokens, **variables},
        )
        return str(texts[0])

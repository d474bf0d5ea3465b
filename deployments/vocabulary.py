"""Text to token ids and back, as the ingress needs it. No torch, no transformers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from deployments.http_errors import ApiError, invalid
from deployments.messages import ModelCard
from ssd_core.text import prompt_ids


class Vocabulary:
    """The tokenizer and chat template of a model card."""

    def __init__(self, card: ModelCard) -> None:
        self.tokenizer: Tokenizer = Tokenizer.from_str(card.tokenizer_json)
        self.size = card.vocab_size
        self.max_model_len = card.max_model_len
        self._chat_template = card.chat_template
        self._eos = self.tokenizer.id_to_token(card.eos_token_ids[0]) if card.eos_token_ids else ""
        longest = max(map(len, self.tokenizer.get_vocab()), default=1)
        self.max_prompt_characters = self.max_model_len * longest
        """No longer text can fit, whatever it says."""
        self.token_text = lru_cache(maxsize=4096)(self._token_text)

    def token_ids(self, text: str, add_special_tokens: bool = True) -> tuple[int, ...]:
        return prompt_ids(self.tokenizer, text, add_special_tokens)

    def text(self, token_ids: Iterable[int]) -> str:
        return self.tokenizer.decode(list(token_ids))

    def chat_prompt(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        if self._chat_template is None:
            raise ApiError(400, "messages: this model has no chat template; use /v1/completions", "messages", "no_chat_template")
        # As transformers renders them; the template is the model's, never a client's.
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise_exception
        try:
            template = environment.from_string(self._chat_template)
            return template.render(messages=messages, add_generation_prompt=add_generation_prompt, eos_token=self._eos, bos_token="")
        except TemplateError as error:
            raise invalid("messages", f"messages: the chat template refuses them: {error}") from None

    def _token_text(self, token_id: int) -> str:
        return self.tokenizer.decode([token_id], skip_special_tokens=False)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)

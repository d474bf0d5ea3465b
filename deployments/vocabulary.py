"""Text to token ids and back, as the ingress needs it. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from tokenizers import Tokenizer

from deployments.chat import Chat
from deployments.http_errors import ApiError
from deployments.messages import ModelCard
from ssd_core.text import prompt_ids


class Vocabulary:
    """The tokenizer and chat template of a model card."""

    def __init__(self, card: ModelCard) -> None:
        self.tokenizer: Tokenizer = Tokenizer.from_str(card.tokenizer_json)
        self.size = card.vocab_size
        self.max_model_len = card.max_model_len
        self._chat = Chat(self.tokenizer, card.chat_template, card.special_tokens) if card.chat_template else None
        longest = max(map(len, self.tokenizer.get_vocab()), default=1)
        self.max_prompt_characters = self.max_model_len * longest
        """No longer text can fit, whatever it says."""
        self.token_text = lru_cache(maxsize=4096)(self._token_text)

    def token_ids(self, text: str, add_special_tokens: bool = True) -> tuple[int, ...]:
        return prompt_ids(self.tokenizer, text, add_special_tokens)

    def text(self, token_ids: Iterable[int]) -> str:
        return self.tokenizer.decode(list(token_ids))

    @property
    def chat(self) -> Chat:
        if self._chat is None:
            raise ApiError(400, "messages: this model has no chat template; use /v1/completions", "messages", "no_chat_template")
        return self._chat

    def _token_text(self, token_id: int) -> str:
        """As within a text: a decoder may drop the space before a text's first token."""
        once, twice = (self.tokenizer.decode([token_id] * n, skip_special_tokens=False) for n in (1, 2))
        return twice[len(once) :]

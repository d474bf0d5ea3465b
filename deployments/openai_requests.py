"""From the bytes of a request to a `Plan`: what to generate, checked field by field. Pure; raises ApiError with the field named.

A body's fields are ours (prompt, stream, n, ...) or SamplingParams'; null means absent. Numbers are numbers: "5" and true are refused.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field, ValidationError
from pydantic_core import to_json

from deployments import inert_fields
from deployments.bodies import Body, json_object, validated_body
from deployments.chat_messages import ChatMessage
from deployments.http_errors import ApiError, context_exceeded, invalid, of_validation
from deployments.inert_fields import effective
from deployments.vocabulary import Vocabulary
from ssd_core.config import PRESETS, FiniteFloat, SamplingParams, SpeculationConfig
from ssd_core.errors import InvalidRequestError
from ssd_core.request_check import check_sampling, check_token_ids

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's for /v1/completions; a chat may go on to the end of the context."""
DEFAULT_TEMPERATURE = 1.0
"""OpenAI's; the Python API's is 0."""
MAX_CHOICES_PER_PROMPT = 128


class StreamOptions(Body):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class CommonFields(Body):
    """Fields of both kinds of request that are not sampling parameters."""

    model: str = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(default=1, ge=1, le=MAX_CHOICES_PER_PROMPT)
    user: str = Field(default="", max_length=512)
    priority: int = 0
    """Accepted; all requests are served in order."""
    preset: str | None = None
    """How to speculate; None: the service's default."""
    lookahead: int | None = Field(default=None, ge=1, le=32)
    speculation: dict[str, Any] | None = None
    """Other fields of SpeculationConfig, in place of the service's; `verification` is the deployment's."""
    return_token_ids: bool = False


class CompletionFields(CommonFields):
    prompt: Any
    echo: bool = False


class ChatFields(CommonFields):
    messages: tuple[ChatMessage, ...] = Field(min_length=1)
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    """The answer goes on where the last message ends; without add_generation_prompt."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables for the chat template, such as `enable_thinking`."""


class RequestSampling(SamplingParams):
    """Sampling parameters of an HTTP request: OpenAI's bounds where it has narrower ones and vLLM follows."""

    temperature: FiniteFloat = Field(default=DEFAULT_TEMPERATURE, ge=0.0, le=2.0)
    """0 is greedy, and so is less than 0.00001."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One sequence of a request."""

    prompt_index: int
    prompt: tuple[int, ...]
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class Plan:
    """One checked request."""

    is_chat: bool
    choices: tuple[Choice, ...]
    speculation: SpeculationConfig
    seed: int
    """Of the first choice; all others count up, so that equal prompts of one request get answers of their own."""
    is_stream: bool
    has_usage_chunk: bool
    has_continuous_usage: bool
    echo: tuple[str, ...]
    """Prompt texts to repeat, by prompt index; empty: none."""
    session_key: str
    returns_token_ids: bool

    @property
    def num_prompt_tokens(self) -> int:
        """Each prompt counts once, whatever `n`."""
        return sum({choice.prompt_index: len(choice.prompt) for choice in self.choices}.values())


class RequestParser:
    """What a service accepts: its model's vocabulary and length, its name and defaults."""

    def __init__(self, vocabulary: Vocabulary, model_name: str, speculation: SpeculationConfig, max_choices: int) -> None:
        self._vocabulary = vocabulary
        self._model_name = model_name
        self._speculation = speculation
        self._max_choices = max_choices

    def completion(self, data: bytes, session_key: str = "") -> Plan:
        body = effective(json_object(data), inert_fields.COMPLETION)
        fields, sampling = _validated(CompletionFields, body)
        texts_or_ids = _prompts(fields.prompt)
        prompts = tuple(self._token_ids(prompt) for prompt in texts_or_ids)
        if fields.echo and sampling.get("logprobs") is not None:
            raise invalid("logprobs", "logprobs: not together with echo: prompts are not scored")
        vocabulary = self._vocabulary
        echo = tuple(p if isinstance(p, str) else vocabulary.text(p) for p in texts_or_ids) if fields.echo else ()
        return self._plan(fields, sampling, prompts, session_key, is_chat=False, echo=echo)

    def chat(self, data: bytes, session_key: str = "") -> Plan:
        """A chat is a completion of the rendered messages; some fields have other names, and errors use the client's."""
        body = effective(json_object(data), inert_fields.CHAT)
        names: dict[str, str] = {}
        _rename(body, "max_completion_tokens", "max_tokens", names)
        wants_logprobs = body.pop("logprobs", False)
        if not isinstance(wants_logprobs, bool):
            raise invalid("logprobs", "logprobs: true or false; top_logprobs is the number")
        if not wants_logprobs and body.pop("top_logprobs", 0) != 0:
            raise invalid("top_logprobs", "top_logprobs: needs logprobs")
        if wants_logprobs:
            body.setdefault("top_logprobs", 0)
            _rename(body, "top_logprobs", "logprobs", names)
        try:
            fields, sampling = _validated(ChatFields, body)
            prompt = self._chat_ids(fields)
            return self._plan(fields, sampling, (prompt,), session_key, is_chat=True, echo=())
        except ApiError as error:
            raise error.renamed(names) from None

    def sampled(self, prompt: str | Sequence[int], params: Mapping[str, Any]) -> Plan:
        """A Python caller's request: the fields of a completion as keyword arguments."""
        return self.completion(to_json({**params, "prompt": prompt if isinstance(prompt, str) else list(prompt)}))

    def check_model(self, name: str) -> None:
        if name and name != self._model_name:
            raise ApiError(404, f"model: there is no {name!r} here, but {self._model_name!r}", "model", "model_not_found")

    def _plan(
        self,
        fields: CommonFields,
        sampling: dict[str, Any],
        prompts: tuple[tuple[int, ...], ...],
        session_key: str,
        *,
        is_chat: bool,
        echo: tuple[str, ...],
    ) -> Plan:
        self.check_model(fields.model)
        if fields.stream_options not in (None, StreamOptions()) and not fields.stream:
            raise invalid("stream_options", "stream_options: only with stream")
        if len(prompts) * fields.n > self._max_choices:
            field = "n" if fields.n > 1 else "prompt"
            raise invalid(field, f"{field}: {len(prompts)} prompts times n = {fields.n} exceed {self._max_choices}")
        room = self._room(prompts, "messages" if is_chat else "prompt")
        default_tokens = room if is_chat else min(room, DEFAULT_COMPLETION_TOKENS)
        has_seed = "seed" in sampling
        parameters = self._sampling({"max_tokens": default_tokens, **sampling})
        if parameters.max_tokens > room:
            raise context_exceeded(
                "max_tokens",
                self._vocabulary.max_model_len,
                "messages" if is_chat else "prompt",
                self._vocabulary.max_model_len - room,
                parameters.max_tokens,
            )
        seed = parameters.seed if has_seed else secrets.randbits(62)
        prompt_of = [(index, prompt) for index, prompt in enumerate(prompts) for _ in range(fields.n)]
        if seed + len(prompt_of) > 2**63:
            raise invalid("seed", "seed: too large for n")
        choices = tuple(
            Choice(index, prompt, parameters.model_copy(update={"seed": seed + i})) for i, (index, prompt) in enumerate(prompt_of)
        )
        options = fields.stream_options or StreamOptions()
        return Plan(
            is_chat=is_chat,
            choices=choices,
            speculation=self._speculate(fields),
            seed=seed,
            is_stream=fields.stream,
            has_usage_chunk=options.include_usage,
            has_continuous_usage=options.continuous_usage_stats,
            echo=echo,
            session_key=session_key or fields.user,
            returns_token_ids=fields.return_token_ids,
        )

    def _room(self, prompts: Sequence[Sequence[int]], field: str) -> int:
        """Output tokens that fit after the longest prompt."""
        longest = max(len(prompt) for prompt in prompts)
        room = self._vocabulary.max_model_len - longest
        if room < 1:
            raise context_exceeded(field, self._vocabulary.max_model_len, field, longest)
        return room

    def _sampling(self, values: dict[str, Any]) -> SamplingParams:
        if isinstance(values.get("stop"), str):
            values["stop"] = [values["stop"]]
        try:
            parameters = SamplingParams(**dict(RequestSampling.model_validate_json(to_json(values), strict=True)))
            check_sampling(parameters, self._vocabulary.size)
        except ValidationError as error:
            raise of_validation(error.errors(include_url=False), values) from None
        except InvalidRequestError as error:
            raise invalid(error.field, str(error)) from None
        return parameters

    def _speculate(self, fields: CommonFields) -> SpeculationConfig:
        if fields.preset is not None and fields.preset not in PRESETS:
            raise invalid("preset", f"preset: {fields.preset!r} is none of {', '.join(PRESETS)}")
        changes = {name: value for name in ("preset", "lookahead") if (value := getattr(fields, name)) is not None}
        settings = fields.speculation or {}
        if "verification" in settings:
            raise invalid("speculation", "speculation: verification is the deployment's")
        for name in settings.keys() & {"preset", "lookahead"}:
            raise invalid("speculation", f"speculation: {name} is a field of its own")
        if not changes and not settings:
            return self._speculation
        try:
            return SpeculationConfig(**{**self._speculation.model_dump(), **settings, **changes})
        except ValidationError as error:
            under = "speculation" if error.errors()[0]["loc"] else "preset"
            raise of_validation(error.errors(include_url=False), settings, under) from None

    def _chat_ids(self, fields: ChatFields) -> tuple[int, ...]:
        if fields.continue_final_message and fields.add_generation_prompt:
            words = "continue_final_message: only with add_generation_prompt false"
            raise invalid("continue_final_message", words)
        chat = self._vocabulary.chat
        prompt = chat.prompt(
            fields.messages,
            add_generation_prompt=fields.add_generation_prompt,
            continue_final_message=fields.continue_final_message,
            variables=fields.chat_template_kwargs,
        )
        self._check_length("messages", len(prompt.text))
        return self._checked_ids("messages", chat.token_ids(prompt))

    def _token_ids(self, prompt: str | tuple[int, ...]) -> tuple[int, ...]:
        if isinstance(prompt, str):
            self._check_length("prompt", len(prompt))
            prompt = self._vocabulary.token_ids(prompt)
        return self._checked_ids("prompt", prompt)

    def _check_length(self, field: str, num_characters: int) -> None:
        """Nothing longer can fit, however it is cut: refused before megabytes are tokenised."""
        if num_characters > self._vocabulary.max_prompt_characters:
            at_least = -(-num_characters * self._vocabulary.max_model_len // self._vocabulary.max_prompt_characters)
            raise context_exceeded(field, self._vocabulary.max_model_len, field, at_least)

    def _checked_ids(self, field: str, prompt: tuple[int, ...]) -> tuple[int, ...]:
        if not prompt:
            raise invalid(field, f"{field}: is empty")
        try:
            check_token_ids(field, prompt, self._vocabulary.size)
        except InvalidRequestError as error:
            raise invalid(field, str(error)) from None
        return prompt


def _validated(kind: type, body: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Our own fields, checked, and the rest, which must be sampling parameters."""
    own = {name: value for name, value in body.items() if name in kind.model_fields}  # type: ignore[attr-defined]
    rest = {name: value for name, value in body.items() if name not in own}
    unknown = next((name for name in rest if name not in SamplingParams.model_fields), None)
    if unknown is not None:
        raise ApiError(400, f"{unknown[:100]}: there is no such field", unknown[:100], "unknown_parameter")
    return validated_body(kind, own), rest


def _prompts(prompt: Any) -> list[str | tuple[int, ...]]:
    """A text, a list of texts, token ids, or a list of lists of them."""
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, list) and prompt:
        if all(isinstance(item, str) for item in prompt):
            return list(prompt)
        if _are_ids(prompt):
            return [tuple(prompt)]
        if all(isinstance(item, list) and _are_ids(item) for item in prompt):
            return [tuple(item) for item in prompt]
    raise invalid("prompt", "prompt: a text, token ids, or a list of either, not empty")


def _are_ids(items: list[Any]) -> bool:
    return all(type(item) is int for item in items)


def _rename(body: dict[str, Any], given: str, ours: str, names: dict[str, str]) -> None:
    """Takes a field over under our name, and notes how the client calls it."""
    if given in body:
        if ours in body:
            raise invalid(given, f"{given}: not together with {ours}")
        body[ours] = body.pop(given)
        names[ours] = given

"""Fields of OpenAI's and vLLM's requests that this service has no use for, and their values without an effect.

A value without effect is taken; any other would be ignored, and is refused with what is supported instead.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deployments.http_errors import ApiError

KINDS = {str: ("string", "a string"), bool: ("boolean", "true or false"), dict: ("object", "an object")}
"""JSON's names of kinds of values: in a schema and in a sentence."""


@dataclass(frozen=True, slots=True)
class Inert:
    """Either `values` lists what has no effect, or nothing of this `kind` has one."""

    values: tuple[Any, ...] = ()
    kind: type | None = None
    because: str = ""

    def takes(self, value: Any) -> bool:
        if self.kind is not None:
            return isinstance(value, self.kind)
        return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in self.values)

    @property
    def schema(self) -> dict[str, Any]:
        """As JSON schema."""
        if self.kind is not None:
            return {"type": KINDS[self.kind][0], "description": "Has no effect."}
        return {"enum": list(self.values), "description": f"Without effect; other values are refused: {self.because}."}

    @property
    def rule(self) -> str:
        """What a value must be, as the end of a sentence."""
        if self.kind is not None:
            return f"must be {KINDS[self.kind][1]}"
        return f"must be {' or '.join(json.dumps(value) for value in self.values)}: {self.because}"


_NO_TOOLS = "this service calls no tools"
_SAMPLES = "this service samples"

COMMON: Mapping[str, Inert] = {
    "bad_words": Inert(([],), because="logit_bias can forbid tokens"),
    "best_of": Inert((1,), because="n answers are returned as they are"),
    "early_stopping": Inert((False,), because=_SAMPLES),
    "length_penalty": Inert((1,), because=_SAMPLES),
    "metadata": Inert(kind=dict),
    "prompt_cache_key": Inert(kind=str),
    "response_format": Inert(({"type": "text"},), because="answers are free text"),
    "return_tokens_as_token_ids": Inert((False,), because="return_token_ids gives the ids"),
    "safety_identifier": Inert(kind=str),
    "service_tier": Inert(("auto", "default"), because="all requests are served alike"),
    "spaces_between_special_tokens": Inert(kind=bool),
    "store": Inert((False,), because="nothing is stored"),
    "use_beam_search": Inert((False,), because=_SAMPLES),
}
COMPLETION: Mapping[str, Inert] = {
    **COMMON,
    "add_special_tokens": Inert((True,), because="token ids as a prompt are taken as they are"),
    "suffix": Inert(("",), because="text is only continued"),
}
CHAT: Mapping[str, Inert] = {
    **COMMON,
    "add_special_tokens": Inert((False,), because="the chat template writes them"),
    "echo": Inert((False,), because="/v1/completions repeats prompts"),
    "function_call": Inert(("none", "auto"), because=_NO_TOOLS),
    "functions": Inert(([],), because=_NO_TOOLS),
    "modalities": Inert((["text"],), because="answers are text"),
    "parallel_tool_calls": Inert(kind=bool),
    "tool_choice": Inert(("none", "auto"), because=_NO_TOOLS),
    "tools": Inert(([],), because=_NO_TOOLS),
}
RANDOM_SEED = -1
"""As `seed`, what a request means that has none."""


def effective(body: Mapping[str, Any], inert: Mapping[str, Inert]) -> dict[str, Any]:
    """The fields that have an effect, or may have one. Raises ApiError for one that would have one here, but cannot."""
    for name, value in body.items():
        if name in inert and not inert[name].takes(value):
            raise ApiError(400, f"{name}: {inert[name].rule}", name, "unsupported_value")
    return {
        name: value
        for name, value in body.items()
        if name not in inert and not (name == "seed" and type(value) is int and value == RANDOM_SEED)
    }

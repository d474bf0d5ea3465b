"""What a model can be asked: the checks of a request that need its vocabulary, or more than one field. Pure; the loop and
the HTTP front make the same."""

from __future__ import annotations

from collections.abc import Iterable

from ssd_core.config import SamplingParams
from ssd_core.errors import InvalidRequestError


def check_sampling(sampling: SamplingParams, vocab_size: int) -> None:
    """Raises InvalidRequestError that names the field."""
    if sampling.min_tokens > sampling.max_tokens:
        raise InvalidRequestError("min_tokens", f"{sampling.min_tokens} exceeds max_tokens = {sampling.max_tokens}")
    check_token_ids("stop_token_ids", sampling.stop_token_ids, vocab_size)
    check_token_ids("logit_bias", sampling.logit_bias, vocab_size)
    if sampling.logprobs is not None and sampling.logprobs > vocab_size:
        raise InvalidRequestError("logprobs", f"{sampling.logprobs} exceeds the vocabulary of {vocab_size} tokens")


def check_token_ids(field: str, token_ids: Iterable[int], vocab_size: int) -> None:
    """Raises InvalidRequestError that names `field`."""
    if any(not 0 <= token_id < vocab_size for token_id in token_ids):
        raise InvalidRequestError(field, f"holds a token id outside [0, {vocab_size})")

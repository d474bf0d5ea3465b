"""The nouns of the service: what crosses between ingress, target replicas and the pool. Frozen; free of torch and Ray."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from ssd_core.types import Emission, FinishReason, SessionStats, TokenLogprob

if TYPE_CHECKING:
    from autoscale.draft_scaler import DraftTotals
    from ssd_core.loop_stats import LoopStats


class RefusalKind(StrEnum):
    INVALID = "invalid"
    """The caller's mistake."""
    CAPACITY = "capacity"
    """No room now."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A replica's answer to a request it does not take. A message, not an exception: no traceback travels or is logged."""

    kind: RefusalKind
    message: str
    field: str = ""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What the ingress must know about the model to validate, tokenise and detokenise, without loading anything itself."""

    tokenizer_json: str
    eos_token_ids: tuple[int, ...]
    chat_template: str | None
    vocab_size: int
    max_model_len: int
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    """Texts of special tokens by the names that chat templates know them by (`bos_token`)."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of one generation, as Python callers get it."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    """With the last chunk only."""
    stats: SessionStats | None = None
    """With the last chunk only."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of Prometheus text. What it means stands in metric_tables.py."""

    name: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one process last said about itself."""

    source: str
    samples: tuple[Sample, ...]
    totals: LoopStats | DraftTotals | None = None
    """Of a target or a draft: what the policy for drafts goes by, where there is one."""


@dataclass(frozen=True, slots=True)
class DraftAddress:
    """Where a draft listens for targets of its node (wire_hub.py)."""

    node_id: str
    path: str
    token: str = field(repr=False)
    """Lets the target that asked connect once."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The draft of one session; empty name: there is none now."""

    session_id: str
    draft: str


@dataclass(frozen=True, slots=True)
class PoolStatus:
    wanted: int
    drafts: tuple[str, ...]
    num_starting: int
    num_sessions: int
    num_replaced: int
    """Drafts that died and were replaced."""


def merged(emissions: Sequence[Emission]) -> Emission:
    """Several rounds of one session as one message. Only the last may carry the end."""
    last = emissions[-1]
    if len(emissions) == 1:
        return last
    tokens = tuple(token for emission in emissions for token in emission.tokens)
    logprobs = tuple(entry for emission in emissions for entry in emission.logprobs)
    return Emission(last.session_id, tokens, logprobs, last.finish_reason, last.error, last.stats)


def added_stats(stats: Iterable[SessionStats]) -> SessionStats:
    """The account of several sessions together."""
    all_stats = list(stats)
    width = max((len(s.accepted_per_position) for s in all_stats), default=0)
    per_position = tuple(sum(s.accepted_per_position[i] for s in all_stats if i < len(s.accepted_per_position)) for i in range(width))
    return SessionStats(
        num_prompt_tokens=sum(s.num_prompt_tokens for s in all_stats),
        num_tokens=sum(s.num_tokens for s in all_stats),
        num_rounds=sum(s.num_rounds for s in all_stats),
        num_draft_tokens=sum(s.num_draft_tokens for s in all_stats),
        num_accepted=sum(s.num_accepted for s in all_stats),
        num_hits=sum(s.num_hits for s in all_stats),
        num_lookups=sum(s.num_lookups for s in all_stats),
        accepted_per_position=per_position,
        draft_wait_s=sum(s.draft_wait_s for s in all_stats),
        first_token_s=min((s.first_token_s for s in all_stats), default=0.0),
        num_drafts=sum(s.num_drafts for s in all_stats),
    )

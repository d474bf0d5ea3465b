"""The nouns: what crosses a function, thread or process boundary. Frozen, and free of torch and Ray.

A *session* is one sequence being generated. Its committed tokens have positions 0, 1, 2, ...; the newest one is the *root*
of its speculation tree. A *node* is a token after a path of tokens; its id is a hash of the whole sequence that ends in it, so
target and draft name the same node alike without talking, and a message about another sequence can never be mistaken for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from ssd_core.config import SamplingParams, SpeculationConfig

NodeId = int
_MASK64 = (1 << 64) - 1


def child_id(parent: NodeId, token: int) -> NodeId:
    """Id of the node that follows `parent` with `token`: one multiply-xorshift round over 64 bits (splitmix64's finaliser)."""
    x = (parent * 0x9E3779B97F4A7C15 + token + 1) & _MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    return x ^ (x >> 31)


def sequence_id(tokens: Sequence[int], base: NodeId = 0) -> NodeId:
    """Id of the node that ends `tokens`, continuing from the node `base`."""
    for token in tokens:
        base = child_id(base, token)
    return base


class FinishReason(str, Enum):
    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to generate, already validated and tokenised."""

    session_id: str
    prompt: tuple[int, ...]
    sampling: SamplingParams
    speculation: SpeculationConfig


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log probabilities (nats) of the target's unprocessed distribution at one emitted position."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens with their log probabilities, best first."""


@dataclass(frozen=True, slots=True)
class Emission:
    """What one round gives one session. The last one of a session carries `finish_reason`."""

    session_id: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    error: str = ""
    stats: SessionStats | None = None
    """With `finish_reason` only."""


@dataclass(frozen=True, slots=True)
class SessionStats:
    """A finished session's account. A round is one target pass after the prompt."""

    num_prompt_tokens: int
    num_tokens: int
    num_rounds: int
    num_draft_tokens: int
    """Nodes submitted for verification."""
    num_accepted: int
    num_hits: int
    """Rounds whose outcome was found in the store with its continuation grown."""
    num_lookups: int
    accepted_per_position: tuple[int, ...]
    """[i] = rounds that accepted at least i + 1 speculated tokens."""
    draft_wait_s: float
    """Time this session stood ready but waited for its draft (presets that wait)."""
    first_token_s: float
    """From the request's arrival at the target, queueing and prompt included, to its first token; 0 if it got none."""
    num_drafts: int
    """Rounds that submitted nodes."""


@dataclass(frozen=True, slots=True)
class SessionOpen:
    """Target to draft: take up this session. Sent again, whole, when a draft has lost it."""

    session_id: str
    tokens: tuple[int, ...]
    num_prompt_tokens: int
    sampling: SamplingParams
    speculation: SpeculationConfig


@dataclass(frozen=True, slots=True)
class Outcome:
    """Target to draft: what has been committed, and what is being verified now. A duplicate or late one is harmless."""

    session_id: str
    base_length: int
    """Committed tokens before `tokens`: everything since the draft last acknowledged is repeated, so a lost message heals itself."""
    tokens: tuple[int, ...]
    submitted: tuple[NodeId, ...]
    """Nodes of the round that begins now."""

    @property
    def length(self) -> int:
        return self.base_length + len(self.tokens)


@dataclass(frozen=True, slots=True)
class Growth:
    """Draft to target: children proposed in one growth step of one session, as parallel columns. Append-only."""

    session_id: str
    committed_length: int
    """Tokens of this session the draft has applied: the acknowledgement."""
    parents: tuple[NodeId, ...]
    tokens: tuple[int, ...]
    edge_probabilities: tuple[float, ...]
    """Estimated probability that the target chooses this child after its parent."""
    is_exhausted: bool = False
    """Nothing more will be grown below this root (plan fulfilled, no room, or the draft does not hold the session)."""


@dataclass(frozen=True, slots=True)
class GrowthReport:
    """One message of a draft: the growth of all sessions of a target in one or more growth steps."""

    growths: tuple[Growth, ...]
    unknown_sessions: tuple[str, ...] = ()
    """Sessions of which outcomes came but which this draft does not hold: open them again."""
    num_steps: int = 0
    num_nodes: int = 0
    """Nodes evaluated for these growths."""
    busy_s: float = 0.0
    """Time the draft spent on them."""
    sent_at: float = 0.0
    """time.time() at the sender."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Measured seconds of one pass over n nodes: `seconds[i]` at `nodes[i]`, ascending."""

    nodes: tuple[int, ...]
    seconds: tuple[float, ...]
    context: int = field(default=0)
    """Trunk tokens per session during the measurement."""

    def at(self, num_nodes: float) -> float:
        """Linear between the measured sizes, proportional beyond the last. A mean number of nodes need not be whole."""
        if num_nodes <= self.nodes[0]:
            return self.seconds[0]
        for i in range(1, len(self.nodes)):
            if num_nodes <= self.nodes[i]:
                share = (num_nodes - self.nodes[i - 1]) / (self.nodes[i] - self.nodes[i - 1])
                return self.seconds[i - 1] + share * (self.seconds[i] - self.seconds[i - 1])
        return self.seconds[-1] * num_nodes / self.nodes[-1]

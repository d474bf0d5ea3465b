"""OpenAI's response shapes, and server-sent events. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from deployments.messages import Chunk, added_stats
from deployments.openai_requests import Plan
from deployments.vocabulary import Vocabulary
from ssd_core.types import SessionStats, TokenLogprob

DONE = b"data: [DONE]\n\n"


def event(content: dict[str, Any]) -> bytes:
    """One server-sent event. JSON escapes line ends, so one data line is enough."""
    return b"data: " + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\n\n"


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """What all messages of one response have in common."""

    id: str
    created: int
    model: str


class ResponseShapes:
    """Builds the messages of one response."""

    def __init__(self, head: ResponseHead, plan: Plan, vocabulary: Vocabulary) -> None:
        self._plan = plan
        self._vocabulary = vocabulary
        self._root = {"id": head.id, "created": head.created, "model": head.model}
        self._text_offsets = [0] * len(plan.choices)
        self._is_begun = [False] * len(plan.choices)

    def piece(self, index: int, chunk: Chunk, num_tokens: int) -> dict[str, Any]:
        """One choice's message in a stream; `num_tokens` so far."""
        plan = self._plan
        choice: dict[str, Any] = {"index": index, "finish_reason": _finish(chunk)}
        is_first, self._is_begun[index] = not self._is_begun[index], True
        if plan.is_chat:
            choice["delta"] = {"role": "assistant", "content": chunk.text} if is_first else {"content": chunk.text}
        else:
            choice["text"] = self._echo(index) + chunk.text if is_first else chunk.text
        choice["logprobs"] = self._logprobs(index, chunk.logprobs)
        if plan.returns_token_ids:
            choice["token_ids"] = list(chunk.token_ids)
        root = {**self._root, "object": self._object(is_stream=True), "choices": [choice]}
        if is_first:
            root["seed"] = plan.choices[index].sampling.seed
        if plan.has_continuous_usage:
            root["usage"] = _usage(len(plan.choices[index].prompt), num_tokens)
        elif plan.has_usage_chunk:
            root["usage"] = None
        return root

    def usage_piece(self, stats: Sequence[SessionStats]) -> dict[str, Any]:
        """The last message of a stream that asked for usage."""
        return {**self._root, "object": self._object(is_stream=True), "choices": [], **self._account(stats)}

    def whole(self, chunks: Sequence[Chunk]) -> dict[str, Any]:
        choices = []
        for index, chunk in enumerate(chunks):
            choice: dict[str, Any] = {"index": index, "finish_reason": _finish(chunk)}
            if self._plan.is_chat:
                choice["message"] = {"role": "assistant", "content": chunk.text}
            else:
                choice["text"] = self._echo(index) + chunk.text
            choice["logprobs"] = self._logprobs(index, chunk.logprobs)
            if self._plan.returns_token_ids:
                choice["token_ids"] = list(chunk.token_ids)
            choices.append(choice)
        stats = [chunk.stats for chunk in chunks if chunk.stats is not None]
        return {**self._root, "object": self._object(is_stream=False), "seed": self._plan.seed, "choices": choices, **self._account(stats)}

    def _account(self, stats: Sequence[SessionStats]) -> dict[str, Any]:
        total = added_stats(stats)
        return {
            "usage": _usage(self._plan.num_prompt_tokens, total.num_tokens),
            "metrics": {"time_to_first_token_s": total.first_token_s, "speculative_decoding": speculative_decoding(total)},
        }

    def _object(self, is_stream: bool) -> str:
        if self._plan.is_chat:
            return "chat.completion.chunk" if is_stream else "chat.completion"
        return "text_completion"

    def _echo(self, index: int) -> str:
        return self._plan.echo[self._plan.choices[index].prompt_index] if self._plan.echo else ""

    def _logprobs(self, index: int, entries: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not entries:
            return None
        name = self._vocabulary.token_text
        if self._plan.is_chat:
            return {"content": [{**self._entry(e.token, e.logprob), "top_logprobs": [self._entry(*top) for top in e.top]} for e in entries]}
        offsets: list[int] = []
        for entry in entries:
            offsets.append(self._text_offsets[index])
            self._text_offsets[index] += len(name(entry.token))
        return {
            "tokens": [name(entry.token) for entry in entries],
            "token_logprobs": [entry.logprob for entry in entries],
            "top_logprobs": [{name(token): logprob for token, logprob in entry.top} for entry in entries],
            "text_offset": offsets,
        }

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._vocabulary.token_text(token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode(errors="replace"))}


def speculative_decoding(stats: SessionStats) -> dict[str, Any]:
    """Under vLLM's names, which AIPerf reads, what the rounds that submitted drafts did; and more under ours."""
    return {
        "num_spec_steps": stats.num_drafts,
        "num_draft_tokens": stats.num_draft_tokens,
        "num_accepted_draft_tokens": stats.num_accepted,
        "mean_acceptance_length": 1 + (stats.num_accepted / stats.num_drafts if stats.num_drafts else 0.0),
        "draft_acceptance_rate": stats.num_accepted / stats.num_draft_tokens if stats.num_draft_tokens else 0.0,
        "acceptance_histogram": acceptance_histogram(stats.num_drafts, stats.accepted_per_position),
        "accepted_per_position": list(stats.accepted_per_position),
        "rounds": stats.num_rounds,
        "hit_rate": stats.num_hits / stats.num_lookups if stats.num_lookups else 0.0,
        "draft_wait_s": stats.draft_wait_s,
    }


def acceptance_histogram(num_steps: int, accepted_per_position: Sequence[int]) -> list[int]:
    """[j] = steps that accepted exactly j drafted tokens, from those that accepted at least i + 1.

    Ten steps, of which six accepted at least one token and two at least two: [4, 4, 2]."""
    at_least = (num_steps, *accepted_per_position, 0)
    return [more - fewer for more, fewer in pairwise(at_least)]


def _usage(num_prompt_tokens: int, num_tokens: int) -> dict[str, int]:
    return {"prompt_tokens": num_prompt_tokens, "completion_tokens": num_tokens, "total_tokens": num_prompt_tokens + num_tokens}


def _finish(chunk: Chunk) -> str | None:
    return chunk.finish_reason.value if chunk.finish_reason is not None else None

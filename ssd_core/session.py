"""One sequence on the target's side: its tokens, its rule, where it ends, and its account."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from ssd_core.acceptance import build_acceptance
from ssd_core.guess_edges import GuessEdges
from ssd_core.lookup import PromptLookup
from ssd_core.policies.backup import Pause, build_backup
from ssd_core.policies.submit import SubmitPolicy
from ssd_core.sampling import TokenRule
from ssd_core.store import StoredSession
from ssd_core.text import TextStream
from ssd_core.tree import Node, SpeculationTree
from ssd_core.types import Emission, FinishReason, GenerationRequest, SessionOpen, SessionStats, TokenLogprob

Sink = Callable[[Emission], None]


@dataclass(frozen=True, slots=True)
class Ending:
    num_tokens: int
    """How many of the offered tokens belong to the output."""
    reason: FinishReason | None


class TargetSession:
    """Mutable state of a running session. `tokens` are prompt and output; only `commit` adds to them."""

    def __init__(
        self,
        request: GenerationRequest,
        sink: Sink,
        rule: TokenRule,
        submit: SubmitPolicy,
        eos_token_ids: Sequence[int],
        tokenizer: Tokenizer | None,
        arrived_at: float,
    ) -> None:
        self.request = request
        self.id = request.session_id
        self.sink = sink
        self.rule = rule
        self.submit = submit
        self.tokens = list(request.prompt)
        self.speculates = False
        """In this round."""
        self.has_draft = False
        """A draft has been asked to take it up ..."""
        self.needs_draft = True
        """... or must be, before it speculates."""
        self.ready_since: float | None = None
        """When it first stood ready but for its draft, in this round."""
        self.told_length = 0
        """Committed tokens that its draft has been told of."""
        sampling = request.sampling
        self.acceptance = build_acceptance(rule, sampling, request.speculation)
        self.is_after_hit: bool | None = None
        """Whether the last look-up, from which the next round's speculation comes, was a hit; None: there was none."""
        self.backup = build_backup(request.speculation)
        self.missed_at: float | None = None
        """When its last outcome was found to be a miss, if it was one."""
        self.pause: Pause | None = None
        """What it waits for after its last miss."""
        self._lookup = PromptLookup(self.tokens) if self.backup.num_guesses else None
        self._guess_edges = GuessEdges()
        self._ends = {*sampling.stop_token_ids, *(() if sampling.ignore_eos else eos_token_ids)}
        self._text: TextStream | None = None
        if sampling.stop and tokenizer:
            self._text = TextStream(tokenizer, sampling.stop, sampling.include_stop_str_in_output, min_tokens=sampling.min_tokens)
        self._num_rounds = 0
        self._num_drafts = 0
        self._num_draft_tokens = 0
        self._num_hits = 0
        self._num_lookups = 0
        self._accepted_per_position = [0] * submit.max_nodes
        self._draft_wait_s = 0.0
        self.arrived_at = arrived_at
        self.first_token_s = 0.0

    @property
    def is_tuned(self) -> bool:
        """Whether it speculates only where that pays."""
        return self.request.speculation.is_tuned

    def pause_left_s(self, stored: StoredSession, now: float) -> float:
        """How much longer it would wait for its draft after a miss."""
        if self.pause is None or self.missed_at is None or stored.is_exhausted:
            return 0.0
        has_grown = stored.tree.grown_levels(self.pause.num_levels) == self.pause.num_levels
        return 0.0 if has_grown else max(0.0, self.missed_at + self.pause.limit_s - now)

    @property
    def num_output_tokens(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    def opening(self) -> SessionOpen:
        request = self.request
        return SessionOpen(request.session_id, tuple(self.tokens), len(request.prompt), request.sampling, request.speculation)

    def guess(self, tree: SpeculationTree) -> None:
        """Hang what prompt look-up says below the likeliest end of the tree."""
        if self._lookup is None:
            return
        chain = tree.best_chain(len(tree))
        end = chain[-1] if chain else tree.root
        room = self.backup.num_guesses - sum(node.is_guess for node in chain)
        guess = self._lookup.guess([node.token for node in chain], room)
        tree.guess(end, guess, self._guess_edges.along(guess))

    def learn_guess(self, node: Node, chosen: int) -> None:
        """The target chose `chosen` after `node`. From how often guesses are right follows how much they are worth."""
        for child in node.children.values():
            if child.is_guess:
                self._guess_edges.observe(child.match_length, child.token == chosen)

    def ending(self, chosen: Sequence[int]) -> Ending:
        """Where the output ends if `chosen` are appended: EOS, a stop token, a stop string, or the length."""
        sampling = self.request.sampling
        room = sampling.max_tokens - self.num_output_tokens
        for i, token in enumerate(chosen[:room]):
            is_end = token in self._ends and self.num_output_tokens + i >= sampling.min_tokens
            if self._text is not None and not is_end and self._text.push([token]).is_stopped:
                is_end = True
            if is_end:
                return Ending(i + 1, FinishReason.STOP)
        return Ending(room, FinishReason.LENGTH) if len(chosen) >= room else Ending(len(chosen), None)

    def commit(self, tokens: Sequence[int], num_submitted: int, num_accepted: int, now: float) -> None:
        """Append one round's tokens."""
        if not self._num_rounds:
            self.first_token_s = now - self.arrived_at
        self.tokens.extend(tokens)
        self.rule.commit(tokens, len(self.tokens))
        if self._lookup is not None:
            self._lookup.extend(tokens)
        self.ready_since = None
        self._num_rounds += 1
        self._num_drafts += num_submitted > 0
        self._num_draft_tokens += num_submitted
        for i in range(num_accepted):
            self._accepted_per_position[i] += 1

    def skip_lookup(self) -> None:
        """The next round's speculation comes from no look-up, and nothing is waited for."""
        self.is_after_hit = self.missed_at = self.pause = None

    def count_lookup(self, is_hit: bool, now: float) -> None:
        self.is_after_hit = is_hit
        self.missed_at = None if is_hit else now
        self.pause = None
        self._num_lookups += 1
        self._num_hits += is_hit

    def count_wait(self, seconds: float) -> None:
        self._draft_wait_s += seconds

    def stats(self) -> SessionStats:
        return SessionStats(
            num_prompt_tokens=len(self.request.prompt),
            num_tokens=self.num_output_tokens,
            num_rounds=self._num_rounds,
            num_draft_tokens=self._num_draft_tokens,
            num_accepted=sum(self._accepted_per_position),
            num_hits=self._num_hits,
            num_lookups=self._num_lookups,
            accepted_per_position=tuple(self._accepted_per_position),
            draft_wait_s=self._draft_wait_s,
            first_token_s=self.first_token_s,
            num_drafts=self._num_drafts,
        )


def logprobs_of(logits: torch.Tensor, tokens: Sequence[int], num_top: int) -> tuple[TokenLogprob, ...]:
    """Log probabilities of `tokens[i]` under the unprocessed logits [N, V] row i, with the `num_top` likeliest."""
    rows = logits[: len(tokens)].log_softmax(-1)
    chosen = rows.gather(-1, torch.tensor(tokens, device=rows.device)[:, None])[:, 0].tolist()
    values, indices = rows.topk(num_top, -1)
    tops = [tuple(zip(i, v, strict=True)) for i, v in zip(indices.tolist(), values.tolist(), strict=True)]
    return tuple(TokenLogprob(t, c, top) for t, c, top in zip(tokens, chosen, tops, strict=True))

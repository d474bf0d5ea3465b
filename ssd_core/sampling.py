"""The token rule: what the next token *is*, given the target's logits, the request's parameters and shared noise.

    token_n = argmax_v [ z_n(v) / T + G(seed, n, v) ]     T > 0        (Gumbel-max: a sample of softmax(z_n / T))
    token_n = argmax_v   z_n(v)                           T = 0

z are the logits after bias, penalties and masks, in vLLM's order: logit_bias, repetition, presence and frequency penalties, temperature,
min_p, top_k, top_p. Scores are kept as `z + T G`, which orders alike and does not blow up for small T. The draft guesses with the same
rule on its own logits. N = rows (nodes), V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ssd_core.config import SamplingParams
from ssd_core.noise import NoiseCache

_NEVER = float("-inf")
CHUNK = 128
"""Tokens of the vocabulary whose highest score stands for them all at first."""


class TokenRule:
    """One session's rule. Its only state is the committed tokens' counts and a cache of noise."""

    def __init__(
        self,
        sampling: SamplingParams,
        tokens: Sequence[int],
        num_prompt_tokens: int,
        vocab_size: int,
        eos_token_ids: Sequence[int],
        device: torch.device | None = None,
        has_noise: bool = True,
    ) -> None:
        """`has_noise`: False leaves the noise out of the scores, for a draft that draws with noise of its own."""
        device = device or torch.device("cpu")
        self._sampling = sampling
        self._num_prompt_tokens = num_prompt_tokens
        self._noise = NoiseCache(sampling.seed, vocab_size, device) if has_noise and sampling.temperature > 0 else None
        self._bias = _bias_row(sampling.logit_bias, vocab_size, device)
        self._has_penalties = (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) != (1.0, 0.0, 0.0)
        self._is_seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        self._counts = torch.zeros(vocab_size, device=device)
        # A draft's vocabulary may be padded less than that of its target, whose tokens a request names.
        ends = {*sampling.stop_token_ids, *(() if sampling.ignore_eos else eos_token_ids)}
        self._ends = [token for token in ends if token < vocab_size]
        self._masks_tail = sampling.top_p < 1 or sampling.min_p > 0 or 0 < sampling.top_k < vocab_size
        if self._has_penalties:
            self._is_seen[list(tokens)] = True
            self._count(tokens[num_prompt_tokens:])

    @property
    def is_plain(self) -> bool:
        """Scores are the logits with noise, if any: nothing is added, masked or forbidden."""
        return self._bias is None and not (self._has_penalties or self._masks_tail or self._sampling.min_tokens)

    @property
    def has_noise(self) -> bool:
        return self._noise is not None

    @property
    def temperature(self) -> float:
        return self._sampling.temperature

    def commit(self, tokens: Sequence[int], length: int) -> None:
        """`tokens` have been added to the sequence, which is now `length` long."""
        if self._has_penalties:
            self._is_seen[list(tokens)] = True
            self._count(tokens)
        if self._noise is not None:
            self._noise.forget_before(length)

    def noise(self, position: int) -> torch.Tensor:
        """[V], for a temperature above 0."""
        assert self._noise is not None
        return self._noise.row(position)

    def processed(self, logits: torch.Tensor, positions: Sequence[int], paths: Sequence[Sequence[int]]) -> torch.Tensor:
        """The logits z [N, V] after bias, penalties and masks. Row i decides the token at `positions[i]`, after the speculated tokens
        `paths[i]` (those after the committed ones)."""
        z = logits if self._bias is None else logits + self._bias
        if self._has_penalties:
            z = self._penalise(z, paths)
        z = self._forbid_early_end(z, positions)
        return mask_tail(z, self.temperature, self._sampling) if self._masks_tail and self.temperature > 0 else z

    def probabilities(self, logits: torch.Tensor, positions: Sequence[int], paths: Sequence[Sequence[int]]) -> torch.Tensor:
        """What the rule samples from, [N, V], at a temperature above 0; arguments as of `processed`."""
        return (self.processed(logits, positions, paths) / self.temperature).softmax(-1)

    def _count(self, tokens: Sequence[int]) -> None:
        if tokens:
            ids = torch.tensor(tokens, device=self._counts.device)
            self._counts.index_add_(0, ids, torch.ones(len(tokens), device=ids.device))

    def _penalise(self, z: torch.Tensor, paths: Sequence[Sequence[int]]) -> torch.Tensor:
        """Penalties as if each row's speculated path had been generated already."""
        counts = self._counts.repeat(len(paths), 1)
        seen = self._is_seen.repeat(len(paths), 1)
        for i, path in enumerate(paths):
            for token in path:
                counts[i, token] += 1
                seen[i, token] = True
        repetition = self._sampling.repetition_penalty
        z = torch.where(seen, torch.where(z > 0, z / repetition, z * repetition), z)
        return z - self._sampling.presence_penalty * (counts > 0) - self._sampling.frequency_penalty * counts

    def _forbid_early_end(self, z: torch.Tensor, positions: Sequence[int]) -> torch.Tensor:
        first_allowed = self._num_prompt_tokens + self._sampling.min_tokens
        early = [i for i, position in enumerate(positions) if position < first_allowed]
        if early and self._ends:
            z = z.clone()
            z[torch.tensor(early)[:, None], torch.tensor(self._ends)] = _NEVER
        return z


class Rows(NamedTuple):
    """One session's rows of logits: the positions that they decide, and the speculated tokens before each."""

    rule: TokenRule
    positions: Sequence[int]
    paths: Sequence[Sequence[int]]


def scores(parts: Sequence[Rows], logits: torch.Tensor) -> torch.Tensor:
    """Scores [N, V] of all parts' rows, given their logits [N, V] in order. In each row the highest is the token."""
    if not all(part.rule.is_plain for part in parts):
        rows = logits.split([len(part.positions) for part in parts])
        logits = torch.cat([part.rule.processed(own, part.positions, part.paths) for part, own in zip(parts, rows, strict=True)])
    sampled = [part for part in parts if part.rule.has_noise]
    if not sampled:
        return logits
    # Product and sum are rounded one after the other, whatever the batch: a token must not hang on who else is in it.
    noise = torch.stack([part.rule.noise(position) for part in sampled for position in part.positions])
    noise *= torch.tensor([[part.rule.temperature] for part in sampled for _ in part.positions], device=noise.device)
    if len(noise) == len(logits):
        return noise.add_(logits)
    is_sampled = torch.tensor([part.rule.has_noise for part in parts for _ in part.positions], device=noise.device)
    return logits.index_add(0, is_sampled.nonzero()[:, 0], noise)


def choices(scores: torch.Tensor) -> tuple[list[int], list[bool]]:
    """For each row of scores [N, V] the token with the highest, and whether that is a finite number (a NaN counts as the highest).

    On a CPU numpy finds it in a tenth of torch's time."""
    if scores.device.type == "cpu":
        rows = scores.numpy()
        tokens = rows.argmax(-1)
        return tokens.tolist(), np.isfinite(rows[np.arange(len(rows)), tokens]).tolist()
    best, token = scores.max(-1)
    both: list[list[int]] = torch.stack([token, best.isfinite().to(token.dtype)]).tolist()  # one wait for the device, not two
    return both[0], [bool(is_finite) for is_finite in both[1]]


def likeliest(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` highest scores of each row of [N, V], falling, and their tokens."""
    num_chunks, rest = divmod(scores.shape[1], CHUNK)
    if scores.device.type == "cpu" or rest or num_chunks <= count:
        return scores.topk(count, -1)
    return likeliest_by_chunks(scores, count)


def on_host(best: torch.Tensor, tokens: torch.Tensor) -> tuple[NDArray[np.float32], list[list[int]]]:
    """What `likeliest` gave, once the device has it."""
    return (best.numpy(), tokens.tolist()) if best.device.type == "cpu" else on_host_in_one(best, tokens)


def on_host_in_one(best: torch.Tensor, tokens: torch.Tensor) -> tuple[NDArray[np.float32], list[list[int]]]:
    """The same, with one wait for the device and not two."""
    both = torch.stack([best.view(torch.int32), tokens.int()]).cpu()
    return both[0].view(torch.float32).numpy(), both[1].tolist()


def likeliest_by_chunks(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same. The chunks with the highest maxima hold them all: on a GPU two short selections are quicker than a long one."""
    chunks = scores.view(len(scores), -1, CHUNK)
    index = chunks.amax(-1).topk(count, -1).indices  # [N, count]
    candidates = chunks.gather(1, index[:, :, None].expand(-1, -1, CHUNK)).flatten(1)  # [N, count * CHUNK]
    best = candidates.topk(count, -1)
    return best.values, index.gather(1, best.indices // CHUNK) * CHUNK + best.indices % CHUNK


def _bias_row(logit_bias: dict[int, float], vocab_size: int, device: torch.device) -> torch.Tensor | None:
    if not logit_bias:
        return None
    row = torch.zeros(vocab_size, device=device)
    known = {token: bias for token, bias in logit_bias.items() if token < vocab_size}
    row[list(known)] = torch.tensor(list(known.values()), device=device)
    return row


def mask_tail(z: torch.Tensor, temperature: float, sampling: SamplingParams) -> torch.Tensor:
    """min_p, then top_k, then top_p on softmax(z / T): what is cut becomes -inf. Always keeps the likeliest token."""
    vocab_size = z.shape[-1]
    if sampling.min_p > 0:  # p(v) >= min_p * max p  <=>  z(v) >= max z + T log(min_p)
        floor = z.max(-1, keepdim=True).values + temperature * torch.tensor(sampling.min_p).log()
        z = z.masked_fill(z < floor, _NEVER)
    if 0 < sampling.top_k < vocab_size:
        kth = z.topk(sampling.top_k, -1).values[:, -1:]
        z = z.masked_fill(z < kth, _NEVER)
    if sampling.top_p < 1:
        ordered, index = z.sort(-1, descending=True)
        probabilities = (ordered / temperature).softmax(-1)
        mass_before = probabilities.cumsum(-1) - probabilities
        is_cut = mass_before >= sampling.top_p
        is_cut[:, 0] = False  # a top_p so small that it is rounded to 0 would cut this one, too
        z = z.masked_fill(is_cut.scatter(-1, index, is_cut), _NEVER)
    return z

"""Whether the peers' greedy tokens are the presets'. At T > 0 a peer samples with noise of its own: there is nothing to compare."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cluster.bench.measure import BlockResult
from cluster.bench.peer import PEERS, Fork, Models

NEAR_TIE_ROUNDINGS = 32.0
"""The same sequence in one pass or token by token moves a logit by about ten: sums in another order. Real differences are hundreds."""


@dataclass(frozen=True, slots=True)
class PeerDifference:
    """A peer's greedy answer that is not the presets'."""

    prompt_index: int
    peer: str
    position: int
    """First token that differs."""
    gap_roundings: float
    """How far apart the target's logits of the two tokens are, in roundings of the largest logit."""

    @property
    def is_near_tie(self) -> bool:
        """Rounding decides between the two tokens: neither is wrong."""
        return self.gap_roundings <= NEAR_TIE_ROUNDINGS


def peer_differences(results: Iterable[BlockResult], models: Models) -> list[PeerDifference]:
    """Against the first preset's answer to the same prompt. All answers are of one length."""
    greedy = [
        (result.block.preset, case, completion.token_ids)
        for result in results
        if result.block.temperature == 0
        for case, completion in zip(result.block.cases, result.completions, strict=True)
    ]
    ours: dict[int, tuple[int, ...]] = {}
    for name, case, tokens in greedy:
        if name not in PEERS:
            ours.setdefault(case.prompt_index, tokens)
    found = []
    for name, case, tokens in greedy:
        expected = ours[case.prompt_index]
        if name in PEERS and tokens != expected:
            position = next(i for i, pair in enumerate(zip(tokens, expected, strict=True)) if pair[0] != pair[1])
            fork = Fork(case.prompt, expected[:position], frozenset((tokens[position], expected[position])))
            found.append(PeerDifference(case.prompt_index, name, position, models.gap_roundings(fork)))
    return found

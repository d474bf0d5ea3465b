"""What a load gave: throughput, goodput under objectives, percentiles. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cluster.loadtest.requests import Outcome

QUANTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True)
class Objectives:
    """A request is good if it was answered whole, and within both."""

    first_token_s: float
    token_s: float
    """Mean time of a token after the first."""

    def are_met(self, outcome: Outcome) -> bool:
        if not outcome.is_ok or outcome.first_token_s is None:
            return False
        return outcome.first_token_s <= self.first_token_s and (outcome.token_s or 0.0) <= self.token_s


@dataclass(frozen=True, slots=True)
class Summary:
    """Percentiles (see QUANTILES) in seconds, over answered requests; empty where there are none."""

    offered: float
    """Requests a second, as they were sent."""
    seconds: float
    """From the first sending to the end of the last answer."""
    num_requests: int
    num_ok: int
    num_good: int
    tokens_per_s: float
    first_token_s: tuple[float, ...]
    token_s: tuple[float, ...]
    wall_s: tuple[float, ...]
    late_s: tuple[float, ...]
    """Of sending: where this is not small, the client was the limit."""
    failures: tuple[tuple[str, int], ...]
    """By status and message, the most frequent first."""

    @property
    def throughput(self) -> float:
        """Answered requests a second."""
        return self.num_ok / self.seconds

    @property
    def goodput(self) -> float:
        """Good requests a second."""
        return self.num_good / self.seconds

    @property
    def attainment(self) -> float:
        """Share of all requests that were good."""
        return self.num_good / self.num_requests


def summary(outcomes: Sequence[Outcome], objectives: Objectives) -> Summary:
    """Of at least one request."""
    ok = [outcome for outcome in outcomes if outcome.is_ok]
    first, last = min(outcome.sent_at_s for outcome in outcomes), max(outcome.sent_at_s for outcome in outcomes)
    seconds = max(outcome.sent_at_s + outcome.wall_s for outcome in outcomes) - first
    failures = Counter(f"{outcome.status or 'no answer'}: {outcome.error}" for outcome in outcomes if not outcome.is_ok)
    return Summary(
        offered=(len(outcomes) - 1) / (last - first) if last > first else len(outcomes) / seconds,
        seconds=seconds,
        num_requests=len(outcomes),
        num_ok=len(ok),
        num_good=sum(map(objectives.are_met, outcomes)),
        tokens_per_s=sum(outcome.num_tokens for outcome in ok) / seconds,
        first_token_s=quantiles(outcome.first_token_s for outcome in ok),
        token_s=quantiles(outcome.token_s for outcome in ok),
        wall_s=quantiles(outcome.wall_s for outcome in ok),
        late_s=quantiles(outcome.late_s for outcome in outcomes),
        failures=tuple(failures.most_common()),
    )


def quantiles(values: Iterable[float | None]) -> tuple[float, ...]:
    """Nearest ranks."""
    known = sorted(value for value in values if value is not None)
    return tuple(known[max(0, math.ceil(q * len(known)) - 1)] for q in QUANTILES) if known else ()

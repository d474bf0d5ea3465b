"""Whether speculation pays at all, found out while serving: tokens/s with it against tokens/s without, by level of load and kind of text.

Submissions are sized by what they are worth (`worthwhile`), so speculation does little harm to the rounds themselves. But
the draft takes its share of a machine that it does not have for itself, a busy target has no room for guesses, and a slow
draft may be waited for. All this shows in the rate alone. So the side that is not in use is tried now and then, the more
rarely the more it has lost, and the more often.
"""

from __future__ import annotations

from functools import cache
from math import inf, log2
from typing import NamedTuple

from ssd_core.samples import learns

SETTLE_S = 0.1
"""After a turn, until drafts have caught up: not counted."""
TRIAL_S = 0.4
FIRST_HOLD_S, LONGEST_HOLD_S = 1.0, 64.0
"""Between trials; at least doubled by each that was lost ..."""
TRIAL_COST = 0.01
"""... and so long that the tokens which it lost are no more than this share of all."""
AWAY_S = 1.0
"""Of an absence that counts: what comes back sooner is the same load."""
MEMORY_S = 1.0
"""Of a rate."""
MARGIN = 1.04
"""What speculation must gain in its rounds: a session's lease and opening are not in them."""
HOPELESS = 0.6
"""Plain decoding is not tried where the cost of a pass says that it gives less than this share: a cost learned beside a draft at work."""


class Regime(NamedTuple):
    """Sessions that run now, as far as it matters."""

    level: int
    """Of load: 1, 2, 3 to 5, 6 to 11, 12 to 22, ... sessions."""
    is_sampled: bool
    """Most have a temperature above 0."""


@cache
def load_level(num_sessions: int) -> int:
    """Loads of one level share what is learned. The bounds lie between powers of two, which is what people ask for."""
    return round(log2(max(num_sessions, 1)))


class Rate:
    """Tokens per second lately."""

    def __init__(self) -> None:
        self._tokens = self._seconds = 0.0

    def add(self, num_tokens: int, seconds: float) -> None:
        keep = MEMORY_S / (MEMORY_S + seconds)
        self._tokens = keep * self._tokens + num_tokens
        self._seconds = keep * self._seconds + seconds

    @property
    def value(self) -> float:
        return self._tokens / self._seconds if self._seconds else 0.0


class Switch:
    """Of one regime. Time is that of the rounds it is told of."""

    def __init__(self) -> None:
        self.is_on = True
        self._rates = {True: Rate(), False: Rate()}
        self._is_trial = False
        self._hold_s = FIRST_HOLD_S
        self._cost_s = FIRST_HOLD_S
        """Between trials, for the cost of the last."""
        self._turned_s = 0.0
        """How long it has stood as it stands."""
        self._left_at = -inf

    def leave(self, now: float) -> None:
        """The load is of another regime from now on, or there is none."""
        self._left_at = now

    def enter(self, now: float) -> None:
        """The load is of this regime again. How often trials were lost says little of a load that comes anew: if speculation is off, it is
        tried again once the cost of the last trial allows, and the time away counts."""
        away_s = now - self._left_at
        if not self.is_on and not self._is_trial and away_s > AWAY_S:
            self._hold_s = min(self._hold_s, self._cost_s)
            self._turned_s += away_s

    @learns
    def observe(self, num_tokens: int, seconds: float, plain_rate: float) -> None:
        """A round emitted so many tokens from its launch to the next. `plain_rate`: tokens/s that the cost of a pass promises without
        speculation."""
        self._turned_s += seconds
        if self._turned_s <= SETTLE_S:
            return
        self._rates[self.is_on].add(num_tokens, seconds)
        if self._is_trial and self._turned_s > SETTLE_S + TRIAL_S:
            self._conclude()
        elif not self._is_trial and self._turned_s > self._hold_s and not self._is_hopeless(plain_rate):
            self._turn(is_trial=True)

    def _is_hopeless(self, plain_rate: float) -> bool:
        return self.is_on and plain_rate < HOPELESS * self._rates[True].value

    def _conclude(self) -> None:
        pays = self._rates[True].value > MARGIN * self._rates[False].value
        slow, fast = sorted(rate.value for rate in self._rates.values())
        loss = 1.0 - slow / fast if fast else 0.0
        has_won = pays == self.is_on
        least_s = 0.0 if has_won else 2.0 * self._hold_s
        self._cost_s = min(max(FIRST_HOLD_S, loss * (SETTLE_S + TRIAL_S) / TRIAL_COST), LONGEST_HOLD_S)
        self._hold_s = min(max(least_s, self._cost_s), LONGEST_HOLD_S)
        if has_won:
            self._is_trial = False
        else:
            self._turn(is_trial=False)

    def _turn(self, is_trial: bool) -> None:
        self.is_on = not self.is_on
        self._is_trial = is_trial
        self._turned_s = 0.0
        if is_trial:
            self._rates[self.is_on] = Rate()

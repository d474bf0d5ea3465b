"""Which setting a peer is measured with: the fastest of a few, so that the comparison is with the peer at its best."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from cluster.bench.peer import ASSISTED, Drafting, Models, PeerRequest, Setting
from cluster.bench.workload import Workload, rotated

DRAFTINGS = (
    Drafting(),
    Drafting(5, "constant", 0.0),
    Drafting(20, "constant", 0.6),
    Drafting(5, "heuristic_transient", 0.0),
)
"""transformers' default; the chain of our `sd`; long drafts that end sooner; a length that follows what is accepted."""
TRIAL_PROMPTS = 4
"""A sampled text may be easy to draft by luck: one is too few to choose by."""
WARM_UP_TOKENS = 16
HOPELESS = 3.0
"""A setting this many times slower than the fastest is tried no further: two threads on cores that others use take minutes."""


@dataclass(frozen=True, slots=True)
class Trial:
    setting: Setting
    tokens_per_s: float
    """Of its trial requests together."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was tried for one peer at one temperature."""

    peer: str
    temperature: float
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        return max(self.trials, key=lambda trial: trial.tokens_per_s)

    def __str__(self) -> str:
        return f"{self.peer} at T={self.temperature:g}: {self.best.setting} (the fastest of {len(self.trials)} settings in the warm-up)"


def candidates(peer: str, num_threads: int) -> tuple[Setting, ...]:
    """With one thread and with `num_threads`."""
    draftings: Sequence[Drafting | None] = DRAFTINGS if peer == ASSISTED else (None,)
    return tuple(Setting(threads, drafting) for threads in sorted({1, num_threads}) for drafting in draftings)


def choose(
    peer: str,
    temperature: float,
    settings: Sequence[Setting],
    workload: Workload,
    models: Models,
    clock: Callable[[], float] = time.perf_counter,
) -> Choice:
    """Try every setting on the first prompts, alternating, after a short warm-up of each; the hopeless on one prompt only."""
    prompts = workload.prompts[:TRIAL_PROMPTS]
    seconds: dict[Setting, list[float]] = {setting: [] for setting in settings}
    for setting in settings:
        models.generate(PeerRequest(prompts[0], min(WARM_UP_TOKENS, workload.max_tokens), temperature, 0, setting))
    for i, prompt in enumerate(prompts):
        # Not the seeds of the measurement: what a setting owes to lucky samples must not be measured with it again.
        seed = len(workload.prompts) + i
        for setting in rotated(_hopeful(seconds), i):
            began = clock()
            models.generate(PeerRequest(prompt, workload.max_tokens, temperature, seed, setting))
            seconds[setting].append(clock() - began)
    return Choice(peer, temperature, tuple(Trial(setting, len(own) * workload.max_tokens / sum(own)) for setting, own in seconds.items()))


def _hopeful(seconds: Mapping[Setting, Sequence[float]]) -> tuple[Setting, ...]:
    """The settings worth another trial, given the seconds that each took so far."""
    fastest_s = min((median(own) for own in seconds.values() if own), default=0.0)
    return tuple(setting for setting, own in seconds.items() if not own or median(own) <= HOPELESS * fastest_s)

"""A pair of engines with prompts and costs, on which settings are measured: the real loops, in virtual time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.experiments.costs import Costs
from cluster.experiments.results import Account, Growth, Point
from cluster.experiments.setting import Setting
from ssd_core.config import SamplingParams
from ssd_core.engine.base import Engine
from ssd_core.loop_stats import LoopStats
from ssd_core.simulate import simulate
from ssd_core.types import GenerationRequest, SessionStats


@dataclass(frozen=True, slots=True)
class Rig:
    target: Engine
    draft: Engine
    prompts: Sequence[tuple[int, ...]]
    """All there are, as tokens; a setting uses the first ones."""
    costs: Costs
    num_prompts: int
    max_tokens: int

    def measure(self, setting: Setting) -> Point:
        """Answers have one length, and a prompt's seed is its number: settings differ in nothing but what they say."""
        requests = self._requests(setting)
        done = simulate(
            self.target,
            [self.draft],
            requests,
            target_cost=self.costs.target.pass_cost(),
            draft_cost=self.costs.draft.pass_cost(setting.draft_scale),
            latency_s=self.costs.latency_s,
            concurrency=setting.concurrency,
            max_step_nodes=setting.max_step_nodes,
        )
        served = [done.served[request.session_id] for request in requests]
        return Point(
            setting=setting,
            seconds=_rounded(done.seconds),
            draft_busy_s=_rounded(done.draft_busy_s[0]),
            account=_account([one.stats for one in served], [one.seconds for one in served]),
            growth=_growth(done.stats),
        )

    def _requests(self, setting: Setting) -> list[GenerationRequest]:
        speculation = setting.speculation_config()
        return [
            GenerationRequest(
                str(i),
                self.prompts[i],
                SamplingParams(max_tokens=self.max_tokens, temperature=setting.temperature, seed=i, ignore_eos=True),
                speculation,
            )
            for i in range(setting.num_requests(self.num_prompts))
        ]


def _account(stats: Sequence[SessionStats], seconds: Sequence[float]) -> Account:
    return Account(
        seconds=tuple(map(_rounded, seconds)),
        tokens=tuple(one.num_tokens for one in stats),
        rounds=tuple(one.num_rounds for one in stats),
        drafts=tuple(one.num_drafts for one in stats),
        first_accepted=tuple(sum(one.accepted_per_position[:1]) for one in stats),
        hits=tuple(one.num_hits for one in stats),
        lookups=tuple(one.num_lookups for one in stats),
    )


def _growth(stats: LoopStats) -> Growth:
    return Growth(
        accepted=stats.accepted,
        deep_accepted=stats.deep_accepted,
        hits=stats.hits,
        deep_hits=stats.deep_hits,
        edges=stats.reliability.edges,
        expected=tuple(map(_rounded, stats.reliability.expected)),
        chosen=stats.reliability.chosen,
    )


def _rounded(seconds: float) -> float:
    """To microseconds: more digits only make the file longer."""
    return round(seconds, 6)

"""autoscale/target_scaler.py: as Serve calls it."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from autoscale.config import GuardConfig, TargetPolicyConfig
from autoscale.target_scaler import TargetScaler, autoscaling_stats
from ssd_core.engine.fake import FakeEngine
from ssd_core.errors import CapacityError
from ssd_core.link import NoDraft
from ssd_core.target_loop import TargetLoop
from tests.core.driver import STEP_TIMES, drive, requests

TOTALS = ("tokens", "refused_tokens")
CONFIG = TargetPolicyConfig(guard=GuardConfig(min_size=1, max_size=8, cooldown_s=30.0), outstanding_tokens=1000.0)


def context(now: float, series: dict[str, dict[str, list[Any]]], *, wanted: int, serving: int, queued: float | None = None) -> Any:
    """What Serve hands to a policy. `queued`: at its routers."""
    return SimpleNamespace(
        current_time=now, target_num_replicas=wanted, current_num_replicas=serving, raw_metrics=series, total_queued_requests=queued
    )


class Serve:
    """Replicas that are there at once, ten calls a second, a point of every series each two seconds and a report each ten."""

    def __init__(self, size: int = 1, config: TargetPolicyConfig = CONFIG) -> None:
        self.scaler = TargetScaler(config.model_dump(mode="json"))
        self.size, self.now, self.calls = size, 1000.0, 0
        self.queued: float | None = None
        """At Serve's routers."""
        self.series: dict[str, dict[str, list[Any]]] = defaultdict(dict)

    def run(self, seconds: int, silent: int = 0, **values: float) -> int:
        """`values` of each replica, totals by the second. So many replicas do not report."""
        for _ in range(seconds * 10):
            self.now = round(self.now + 0.1, 1)
            self.calls += 1
            if self.calls % 100 == 0:
                self.series = defaultdict(dict)
                for replica in range(self.size - silent):
                    for i in range(6):
                        at = self.now - 10 + 2 * i
                        for name, value in values.items():
                            point = SimpleNamespace(timestamp=at, value=at * value if name in TOTALS else value)
                            self.series[name].setdefault(f"r{replica}", []).append(point)
            self.size, state = self.scaler(context(self.now, self.series, wanted=self.size, serving=self.size, queued=self.queued))
            assert state == {}
        return self.size


def load(outstanding_tokens: float, queued: float = 0.0, used_share: float = 0.1, refused_tokens: float = 0.0) -> dict[str, float]:
    return {
        "running": 8.0, "queued": queued, "outstanding_tokens": outstanding_tokens, "refused_tokens": refused_tokens,
        "used_share": used_share, "tokens": 100.0,
    }  # fmt: skip


def test_replicas_follow_the_tokens_that_are_outstanding() -> None:
    serve = Serve()
    assert serve.run(5, **load(3000)) == 1, "nothing has been reported yet"
    assert serve.run(25, **load(3000)) > 2
    held = serve.size
    assert serve.run(20, **load(1000)) == held, "full is as it should be"
    assert serve.run(60, **load(10)) < held
    assert serve.run(300, **load(10)) == 1


def test_replicas_follow_the_kv_cells_in_use() -> None:
    assert Serve(2).run(11, **load(100, used_share=1.0)) == 3


def test_a_queue_asks_for_as_many_as_work_it_off() -> None:
    assert Serve(2).run(21, **load(4000, queued=24.0)) >= 4


def test_nothing_is_decided_without_reports() -> None:
    serve = Serve(4)
    serve.run(20, **load(1000))
    assert serve.run(60, silent=4, **load(1000)) == 4
    assert serve.run(60, silent=1, **load(9000)) == 4, "three of four are too few"


def test_requests_that_wait_at_the_routers_are_wanted_as_well() -> None:
    """Eight run at each of two, with 125 tokens to come; 32 more wait. So 4000 more came in a period than the 2000 that were emitted."""
    serve = Serve(2)
    assert serve.run(21, **load(1000)) == 2
    serve.queued = 32.0
    assert serve.run(10, **load(1000)) == 7


def test_what_was_refused_is_wanted_as_well() -> None:
    serve = Serve(2)
    assert serve.run(21, **load(1000)) == 2
    assert serve.run(10, **load(1000, refused_tokens=150)) == 5


def test_a_full_replica_asks_for_what_ten_times_the_load_needs_within_two_decisions() -> None:
    """A real loop, a pass every 20 ms: eight sessions of 100 tokens are four requests a second. Two come each second, and then twenty."""
    now = 0.0
    loop = TargetLoop(FakeEngine(num_cells=2000), NoDraft(), STEP_TIMES, max_sessions=8, max_queued=32, clock=lambda: now)
    scaler = TargetScaler(TargetPolicyConfig(guard=GuardConfig(min_size=1, max_size=20)).model_dump(mode="json"))
    arrivals = deque([*np.arange(0.0, 30.0, 0.5), *np.arange(30.0, 60.0, 0.05)])
    request, sizes, num_refused = requests(1, "ar", max_tokens=100)[0], [1], 0
    series: dict[str, dict[str, list[Any]]] = defaultdict(lambda: {"r": []})
    for i in range(3001):
        now = 0.02 * i
        while arrivals and arrivals[0] <= now:
            try:
                loop.add(replace(request, session_id=str(arrivals.popleft())), lambda emission: None)
            except CapacityError:
                num_refused += 1
        loop.step()
        if i % 100 == 0:
            for name, value in autoscaling_stats(loop.stats()).items():
                series[name]["r"].append(SimpleNamespace(timestamp=now, value=value))
        if i and i % 500 == 0:
            sizes.append(scaler(context(now, series, wanted=sizes[-1], serving=1))[0])
    assert sizes[:5] == [1, 1, 1, 1, 4] and 5 <= sizes[5] <= sizes[6] <= 7
    assert num_refused > 300, "most never saw the queue"


def test_serve_takes_the_class_and_its_arguments() -> None:
    policy = AutoscalingPolicy(
        policy_function="autoscale.target_scaler:TargetScaler", policy_kwargs={"config": CONFIG.model_dump(mode="json")}
    )
    AutoscalingConfig(min_replicas=1, max_replicas=8, policy=policy)
    assert policy.get_policy()(**policy.policy_kwargs)._config == CONFIG


def test_a_replica_tells_what_the_policy_reads() -> None:
    told = autoscaling_stats(drive(requests(2, "ssd-tree")).stats)
    assert set(told) == set(load(1)) and told["tokens"] == 100 and 0 <= told["used_share"] <= 1

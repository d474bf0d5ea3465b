"""What the service itself costs, over 1, 2 and 4 targets on nodes of their own, all on this machine: `python -m tests.bench.nodes`.

The models take their time without computing anything, so what the machine's cores do is all the service's: processor time of every process,
by request and by round. A node a target and a node a draft, with one CPU each; clients that send as soon as they are answered.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import psutil

from cluster.bench.machine import this_machine
from cluster.bench.table import aligned
from cluster.bench.workload import held_out_prompts
from cluster.client import RestClient
from cluster.loadtest.arrivals import Arrival
from cluster.loadtest.requests import Target
from cluster.loadtest.run import ClosedLoop, Workers
from cluster.loadtest.summary import Objectives, Summary, summary
from deployments.config import DraftConfig, ServiceConfig, TargetConfig
from ssd_core.config import EngineConfig
from tests.service.on_ray import running_on_nodes

ROLES = {"ServeReplica:ssd-test:Target": "targets", "ServeReplica:ssd-test:Ingress": "ingress", "DraftActor": "drafts", "haproxy": "proxy"}
"""By a piece of a process's name."""
OTHERS = "Ray"
"""Its raylets, stores, agents, controllers, and the pool."""


@dataclass(frozen=True, slots=True)
class Measured:
    num_targets: int
    preset: str
    seen: Summary
    num_rounds: float
    cpu_s: Mapping[str, float]
    """By role."""

    def cells(self) -> Sequence[str]:
        seen, total_s = self.seen, sum(self.cpu_s.values())
        per_request = [f"{1e3 * self.cpu_s.get(role, 0.0) / seen.num_ok:.1f}" for role in (*ROLES.values(), OTHERS)]
        return (
            str(self.num_targets),
            self.preset,
            f"{seen.tokens_per_s:.0f}",
            f"{seen.throughput:.1f}",
            *(f"{1e3 * value:.0f}" for value in (seen.first_token_s[0], seen.first_token_s[-1])),
            *(f"{1e3 * value:.2f}" for value in (seen.token_s[0], seen.token_s[-1])),
            f"{total_s / seen.seconds:.2f}",
            *per_request,
            f"{1e3 * (self.cpu_s['targets'] + self.cpu_s.get('drafts', 0.0)) / self.num_rounds:.2f}",
        )


HEADER = (
    "targets", "preset", "tokens/s", "requests/s", "first token p50 ms", "p99", "token p50 ms", "p99", "cores busy",
    *(f"{role}: ms/request" for role in (*ROLES.values(), OTHERS)), "targets and drafts: ms/round",
)  # fmt: skip


def measure(num_targets: int, presets: Sequence[str], arguments: argparse.Namespace) -> Iterator[Measured]:
    config = ServiceConfig(
        model_name="m",
        target=TargetConfig(
            engine=EngineConfig(model=f"fake:target:{arguments.pass_ms:g}"), num_replicas=num_targets, num_cpus=1, shutdown_timeout_s=1
        ),
        draft=DraftConfig(engine=EngineConfig(model=f"fake:draft:{arguments.step_ms:g}"), num_actors=num_targets, num_cpus=1),
    )
    asked = tuple(Arrival(0.0, prompt, arguments.max_tokens, i) for i, prompt in enumerate(held_out_prompts(64)))
    with running_on_nodes(config, ["any"] * 2 * num_targets) as (service, _), Workers(1) as workers, RestClient(service.url) as client:
        for preset in presets:
            target = Target(service.url, "m", preset=preset)
            workers.run(target, ClosedLoop(asked, arguments.clients * num_targets, 3.0))  # warms up
            mine = {child.pid for child in psutil.Process().children(recursive=True) if "multiprocessing" in " ".join(_words(child))}
            before, rounds = cpu_seconds(mine), client.counters().total("ssd_rounds_total")
            seen = summary(workers.run(target, ClosedLoop(asked, arguments.clients * num_targets, arguments.seconds)), Objectives(1.0, 0.1))
            after = cpu_seconds(mine)
            spent = {role: after[role] - before[role] for role in after}
            yield Measured(num_targets, preset, seen, client.counters().total("ssd_rounds_total") - rounds, spent)


def cpu_seconds(but: set[int]) -> dict[str, float]:
    """Of all processes that this one has started, and theirs, by role."""
    spent: dict[str, float] = defaultdict(float)
    for child in psutil.Process().children(recursive=True):
        if child.pid not in but:
            name = " ".join(_words(child))
            role = next((role for piece, role in ROLES.items() if piece in name), OTHERS)
            times = child.cpu_times()
            spent[role] += times.user + times.system
    return spent


def _words(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--presets", nargs="+", default=["ar", "ssd-tree"])
    parser.add_argument("--clients", type=int, default=4, help="of each target")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--pass-ms", type=float, default=20.0, help="of the target")
    parser.add_argument("--step-ms", type=float, default=2.0, help="of a draft")
    arguments = parser.parse_args()
    rows = [HEADER]
    for num_targets in arguments.targets:
        rows += [tuple(measured.cells()) for measured in measure(num_targets, arguments.presets, arguments)]
        sys.stdout.write(f"{this_machine()}\n{aligned(rows)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

"""From a workload and a running service to a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cluster.bench.machine import this_machine
from cluster.bench.measure import measure, request_seconds
from cluster.bench.peer import Models, PeerClient
from cluster.bench.peer_check import peer_differences
from cluster.bench.peer_choice import Choice, candidates, choose
from cluster.bench.report import Report, make_report
from cluster.bench.service import service_facts
from cluster.bench.workload import Workload
from cluster.client import RestClient


@dataclass(frozen=True, slots=True)
class PeerRoom:
    """What the workload's peers run with."""

    models: Models
    num_threads: int
    """As many as the service's models have together: a peer gets no fewer."""


def run_bench(
    workload: Workload, client: RestClient, command: str, progress: Callable[[str], None], peer_room: PeerRoom | None = None
) -> Report:
    """`peer_room`: needed when the workload has peers."""
    choices = _choices(workload, peer_room, progress) if peer_room else []
    peers = _peer_clients(workload, peer_room.models, choices) if peer_room else {}
    results = measure(workload, client, progress, peers=peers)
    facts = service_facts(results, request_seconds(workload, client))
    found = peer_differences(results, peer_room.models) if peer_room else []
    return make_report(client.model, this_machine(), command, workload, facts, results, choices, found)


def _choices(workload: Workload, room: PeerRoom, progress: Callable[[str], None]) -> list[Choice]:
    choices = []
    for temperature in workload.temperatures:
        for peer in workload.peers:
            progress(f"trying settings of {peer} at T={temperature:g}")
            choices.append(choose(peer, temperature, candidates(peer, room.num_threads), workload, room.models))
            progress(str(choices[-1]))
    return choices


def _peer_clients(workload: Workload, models: Models, choices: Sequence[Choice]) -> dict[str, PeerClient]:
    return {
        peer: PeerClient(models, {choice.temperature: choice.best.setting for choice in choices if choice.peer == peer})
        for peer in workload.peers
    }

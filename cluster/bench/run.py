"""From a workload and a running service to a report."""

from __future__ import annotations

from collections.abc import Callable

from cluster.bench.machine import this_machine
from cluster.bench.measure import measure, request_seconds
from cluster.bench.report import Report, make_report
from cluster.bench.service import service_facts
from cluster.bench.workload import Workload
from cluster.client import RestClient


def run_bench(workload: Workload, client: RestClient, command: str, progress: Callable[[str], None]) -> Report:
    results = measure(workload, client, progress)
    facts = service_facts(results[-1].counters, request_seconds(workload, client))
    return make_report(client.model, this_machine(), command, workload, facts, results)

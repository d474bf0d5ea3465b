"""Load from several processes, so that the client is never the limit: each takes every n-th request, or its share of the clients."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from cluster.loadtest.arrivals import Arrival
from cluster.loadtest.requests import Outcome, Target, new_client, send

READY_S = 0.5
"""Between the last process's being there and the first request."""


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """Requests come when they come, however long the service takes."""

    arrivals: tuple[Arrival, ...]


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """So many clients, each of which sends its next request when the last is answered."""

    arrivals: tuple[Arrival, ...]
    """What they ask for, again and again; when is up to them."""
    num_clients: int
    seconds: float


Load = OpenLoop | ClosedLoop


class Workers:
    """Processes that stay for several loads."""

    def __init__(self, num_processes: int) -> None:
        self._num_processes = num_processes
        context = multiprocessing.get_context("spawn")
        # Ctrl-C reaches all processes of a terminal: it is ours, and ends them below.
        self._pool = ProcessPoolExecutor(num_processes, context, signal.signal, (signal.SIGINT, signal.SIG_IGN))

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:  # what they are sending is of no use any more
            for process in multiprocessing.active_children():
                process.terminate()
        self._pool.shutdown(cancel_futures=True)

    def run(self, target: Target, load: Load) -> list[Outcome]:
        """Of all requests, by the time they were sent."""
        shares = [share for share in shares_of(load, self._num_processes) if share.arrivals]
        list(self._pool.map(time.sleep, [0.01] * self._num_processes))  # they are there
        start = time.monotonic() + READY_S
        told = self._pool.map(_run_share, *zip(*((target, share, start) for share in shares), strict=True)) if shares else ()
        return sorted((outcome for outcomes in told for outcome in outcomes), key=lambda outcome: outcome.sent_at_s)


def shares_of(load: Load, num_processes: int) -> list[Load]:
    if isinstance(load, OpenLoop):
        return [OpenLoop(load.arrivals[i::num_processes]) for i in range(num_processes)]
    clients = [load.num_clients // num_processes + (i < load.num_clients % num_processes) for i in range(num_processes)]
    return [ClosedLoop(load.arrivals[i:] + load.arrivals[:i], n, load.seconds) for i, n in enumerate(clients) if n]


def _run_share(target: Target, share: Load, start: float) -> list[Outcome]:
    return asyncio.run(_open(target, share.arrivals, start) if isinstance(share, OpenLoop) else _closed(target, share, start))


async def _open(target: Target, arrivals: Sequence[Arrival], start: float) -> list[Outcome]:
    async with new_client(target) as client, asyncio.TaskGroup() as group:
        tasks = []
        for arrival in arrivals:
            await asyncio.sleep(max(0.0, start + arrival.at_s - time.monotonic()))
            tasks.append(group.create_task(send(client, target, arrival, start, arrival.at_s)))
    return [task.result() for task in tasks]


async def _closed(target: Target, load: ClosedLoop, start: float) -> list[Outcome]:
    arrivals = itertools.cycle(load.arrivals)
    outcomes: list[Outcome] = []

    async def one_client() -> None:
        while (now_s := time.monotonic() - start) < load.seconds:
            outcomes.append(await send(client, target, next(arrivals), start, now_s))

    await asyncio.sleep(max(0.0, start - time.monotonic()))
    async with new_client(target) as client, asyncio.TaskGroup() as group:
        for _ in range(load.num_clients):
            group.create_task(one_client())
    return outcomes

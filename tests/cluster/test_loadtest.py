"""The load test, against a service whose times and room are known."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from matplotlib.figure import Figure

from cluster.cli import main
from cluster.loadtest.arrivals import Arrival, poisson, recorded
from cluster.loadtest.ramp import ramp
from cluster.loadtest.requests import Outcome, Target
from cluster.loadtest.run import ClosedLoop, OpenLoop, Workers, shares_of
from cluster.loadtest.summary import Objectives, quantiles, summary
from cluster.ports import free_port
from ssd_core.errors import ConfigError
from ssd_core.pictures import draw_png, log_scale_in_numbers

OBJECTIVES = Objectives(first_token_s=0.5, token_s=0.1)


@dataclass
class Service:
    """Answers with a token at once and the others after `token_s` each, at most `room` requests at a time; the others wait, or with
    `queue` full are refused."""

    room: int = 1000
    queue: int = 1000
    first_token_s: float = 0.02
    token_s: float = 0.005
    breaks_off: bool = False
    url: str = ""
    most_at_once: int = 0
    seeds: list[int] = field(default_factory=list)
    _num_here: int = 0

    def app(self) -> FastAPI:
        app = FastAPI()
        places = asyncio.Semaphore(self.room)

        @app.get("/v1/models")
        async def models() -> dict[str, Any]:
            return {"data": [{"id": "m"}]}

        @app.post("/v1/completions")
        async def completions(request: Request) -> Response:
            body = await request.json()
            assert body["stream"] and body["return_token_ids"] and body["ignore_eos"]
            if self._num_here >= self.room + self.queue:
                return JSONResponse({"error": {"message": "full"}}, 429)
            self.seeds.append(body["seed"])
            self._num_here += 1
            self.most_at_once = max(self.most_at_once, self._num_here)

            async def events() -> AsyncIterator[str]:
                try:
                    async with places:
                        await asyncio.sleep(self.first_token_s)
                        for number in range(body["max_tokens"]):
                            await asyncio.sleep(self.token_s if number else 0.0)
                            yield f"data: {json.dumps({'choices': [{'text': 'x', 'token_ids': [number]}]})}\n\n"
                            if self.breaks_off:
                                return
                    yield "data: [DONE]\n\n"
                finally:
                    self._num_here -= 1

            return StreamingResponse(events(), media_type="text/event-stream")

        return app


@contextmanager
def running(service: Service) -> Iterator[Target]:
    port = free_port("127.0.0.1")
    server = uvicorn.Server(uvicorn.Config(service.app, factory=True, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    service.url = f"http://127.0.0.1:{port}"
    try:
        yield Target(service.url, "m", timeout_s=20)
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(2) as workers:
        yield workers


def every(seconds: float, number: int, max_tokens: int = 3) -> OpenLoop:
    return OpenLoop(tuple(Arrival(i * seconds, "p", max_tokens, i) for i in range(number)))


def outcome(**fields: Any) -> Outcome:
    told: dict[str, Any] = {
        "sent_at_s": 0.0, "late_s": 0.0, "wall_s": 1.0, "first_token_s": 0.1, "num_tokens": 10, "status": 200, **fields,
    }  # fmt: skip
    return Outcome(**told)


# ---------------------------------------------------------------- arrivals


def test_poisson_arrivals_come_at_their_rate_and_independently() -> None:
    arrivals = poisson(50.0, 200.0, ["a", "b"], 8, seed=1)
    gaps = [later.at_s - earlier.at_s for earlier, later in pairwise(arrivals)]
    mean = sum(gaps) / len(gaps)
    assert len(arrivals) == pytest.approx(10_000, rel=0.04) and arrivals[-1].at_s < 200
    assert sum((gap - mean) ** 2 for gap in gaps) / len(gaps) == pytest.approx(mean**2, rel=0.1), "as much as their mean, squared"
    assert [arrival.prompt for arrival in arrivals[:3]] == ["a", "b", "a"]
    assert poisson(50.0, 1.0, ["a"], 8, seed=1) == poisson(50.0, 1.0, ["a"], 8, seed=1) != poisson(50.0, 1.0, ["a"], 8, seed=2)


def test_a_trace_is_read_in_the_order_of_time(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"at_s": 2, "prompt": "late", "max_tokens": 3}\n\n{"at_s": 0.5}\n')
    assert recorded(path, ["shipped"], 9) == [Arrival(0.5, "shipped", 9, 0), Arrival(2.0, "late", 3, 1)]


@pytest.mark.parametrize(
    ("line", "told"),
    [('{"at_s": -1}', "at_s"), ('{"at": 1}', "at"), ("no json", "trace.jsonl:2"), ('{"at_s": 1, "max_tokens": 0}', "max_tokens")],
)
def test_a_bad_line_is_named(line: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"at_s": 0}\n' + line + "\n")
    with pytest.raises(ConfigError, match=told) as refused:
        recorded(path, ["p"], 9)
    assert "trace.jsonl:2" in str(refused.value)


@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_processes_share_all_requests_and_all_clients(num_processes: int) -> None:
    load = every(0.1, 7)
    shares = shares_of(load, num_processes)
    assert sorted((a for share in shares for a in share.arrivals), key=lambda a: a.at_s) == list(load.arrivals)
    clients = [share.num_clients for share in shares_of(ClosedLoop(load.arrivals, 5, 1.0), num_processes) if isinstance(share, ClosedLoop)]
    assert sum(clients) == 5 and max(clients) - min(clients) <= 1


# ---------------------------------------------------------------- load


def test_a_client_sees_the_services_times(workers: Workers) -> None:
    with running(Service(first_token_s=0.1, token_s=0.02)) as target:
        outcomes = workers.run(target, every(0.15, 8, max_tokens=11))
    assert all(o.is_ok and o.num_tokens == 11 for o in outcomes) and len(outcomes) == 8
    told = summary(outcomes, OBJECTIVES)
    assert 0.1 <= told.first_token_s[0] < told.wall_s[0] and told.wall_s[0] >= 0.3, "no sooner than the service sleeps"
    assert all(o.sent_at_s >= 0.15 * i for i, o in enumerate(sorted(outcomes, key=lambda o: o.sent_at_s))), "none before its time"
    assert told.offered == pytest.approx(7 / (max(o.sent_at_s for o in outcomes) - min(o.sent_at_s for o in outcomes)))


def test_an_open_loop_does_not_wait_for_the_service(workers: Workers) -> None:
    """A slow service gets its requests when they come, all at once here: a client that waited would hide how slow it is."""
    service = Service(room=1, first_token_s=0.2)
    with running(service) as target:
        outcomes = workers.run(target, every(0.02, 10, max_tokens=1))
    told = summary(outcomes, OBJECTIVES)
    assert service.most_at_once >= 8 and told.late_s[-1] < 0.15
    assert told.wall_s[-1] > 1.5 and told.num_good < 5, "the last has waited for all before it"


def test_a_closed_loop_has_so_many_requests_under_way_and_no_more(workers: Workers) -> None:
    service = Service(first_token_s=0.05)
    with running(service) as target:
        outcomes = workers.run(target, ClosedLoop(every(0, 4).arrivals, num_clients=3, seconds=1.0))
    assert service.most_at_once == 3 and set(service.seeds) == {0, 1, 2, 3}
    assert 20 <= len(outcomes) <= 3 * 1.0 / 0.05 and all(o.is_ok for o in outcomes)


def test_refusals_and_broken_streams_are_failures_with_their_reason(workers: Workers) -> None:
    with running(Service(room=1, queue=1, first_token_s=0.3)) as target:
        refused = summary(workers.run(target, every(0.01, 6)), OBJECTIVES)
    assert refused.num_ok == 2 and dict(refused.failures) == {'429: {"error":{"message":"full"}}': 4}
    with running(Service(breaks_off=True)) as target:
        broken = summary(workers.run(target, every(0.01, 3)), OBJECTIVES)
    assert broken.num_ok == 0 and dict(broken.failures) == {"200: the stream ended early": 3}
    nobody = summary(workers.run(Target("http://127.0.0.1:9", "m"), every(0.01, 2)), OBJECTIVES)
    assert nobody.num_ok == 0 and all(message.startswith("no answer") for message, _ in nobody.failures)


def test_a_ramp_ends_where_the_service_no_longer_keeps_up(workers: Workers) -> None:
    """One place and 50 ms a request: twenty a second."""
    with running(Service(room=1, first_token_s=0.05, token_s=0.0)) as target:
        steps = [
            step
            for step, _ in ramp(
                lambda load: workers.run(target, load), Objectives(0.4, 0.1), ["p"],
                rate=5.0, factor=2.0, most_steps=10, seconds=2.0, max_tokens=1, seed=3,
            )
        ]  # fmt: skip
    assert 3 <= len(steps) <= 5 and steps[0].attainment == 1.0 and steps[-1].attainment < 0.9
    assert max(step.throughput for step in steps) == pytest.approx(19, rel=0.25)
    assert steps[-1].offered > 1.1 * steps[-1].throughput


# ---------------------------------------------------------------- summary


def test_a_request_is_good_within_both_objectives() -> None:
    outcomes = [
        outcome(),
        outcome(sent_at_s=1.0, first_token_s=0.6),  # late first token
        outcome(sent_at_s=2.0, wall_s=1.9),  # 0.2 s a token
        outcome(sent_at_s=3.0, status=500, error="broken", first_token_s=None, num_tokens=0),
    ]
    told = summary(outcomes, OBJECTIVES)
    assert (told.num_requests, told.num_ok, told.num_good) == (4, 3, 1)
    assert told.seconds == 4.0 and told.offered == 1.0 and told.throughput == 0.75 and told.goodput == 0.25
    assert told.tokens_per_s == 7.5 and told.attainment == 0.25
    assert told.failures == (("500: broken", 1),)


def test_quantiles_are_values_that_occurred() -> None:
    assert quantiles(range(1, 101)) == (50, 90, 99)
    assert quantiles([3.0]) == (3.0, 3.0, 3.0) and quantiles([None]) == ()


# ---------------------------------------------------------------- the pictures


@pytest.mark.parametrize("first_token_s", [(0.61, 0.62), (0.06, 0.35), (0.05, 4.0), (0.001, 60.0)])
def test_a_logarithmic_axis_is_labelled_with_plain_numbers(first_token_s: tuple[float, float]) -> None:
    labels: list[str] = []

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([1, 2], first_token_s)
        log_scale_in_numbers(axes)
        low, high = axes.get_ylim()
        shown = zip(axes.yaxis.get_ticklocs(), axes.yaxis.get_ticklabels(), strict=True)
        labels.extend(label.get_text() for place, label in shown if low <= place <= high)

    draw_png(draw, (5, 4), dpi=100)
    assert len(labels) >= 3
    assert all(f"{float(label):g}" == label for label in labels)


# ---------------------------------------------------------------- the command


def test_the_command_prints_a_table_and_writes_a_page_and_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(Service(room=1, first_token_s=0.05)) as target:
        words = ["--ramp", "10", "--seconds", "1", "--max-tokens", "2", "--first-token-ms", "200", "--out", str(tmp_path)]
        assert main(["loadtest", "--url", target.url, *words]) == 0
    printed = capsys.readouterr().out
    assert "offered/s" in printed and "within 0.2 s" in printed
    told = json.loads((tmp_path / "report.json").read_text())
    assert len(told["steps"]) >= 2 and sum(len(step["outcomes"]) for step in told["steps"]) > 10
    page = (tmp_path / "report.html").read_text()
    assert page.count('<p><img alt="By ') == page.count("<img") == 2 and '<meta name="viewport" content="width=device-width' in page
    assert page.count("data:image/png;base64,") == 2 and page.count("<tr>") == len(told["steps"]) + 1 and "--ramp 10" in page


def test_a_service_that_is_not_there_or_answers_nothing_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loadtest", "--url", "http://127.0.0.1:9", "--rate", "5"]) == 1
    assert "127.0.0.1:9" in capsys.readouterr().err
    with running(Service(breaks_off=True)) as target:
        assert main(["loadtest", "--url", target.url, "--clients", "1", "--seconds", "0.2", "--processes", "1"]) == 1
    assert "the stream ended early" in capsys.readouterr().out


def test_a_load_in_which_nobody_comes_is_said() -> None:
    with running(Service()) as target:
        assert main(["loadtest", "--url", target.url, "--rate", "0.001", "--seconds", "0.1", "--processes", "1"]) == 2

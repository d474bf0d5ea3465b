"""deployments/draft_server.py: the draft without Ray, over the fake engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deployments.codec import decode_report, encode_orders
from deployments.config import DraftConfig
from deployments.draft_server import DraftServer
from ssd_core.config import EngineConfig, SamplingParams, SpeculationConfig
from ssd_core.types import GrowthReport, SessionOpen

CONFIG = DraftConfig(engine=EngineConfig(model="fake:draft", prefill_chunk_tokens=16))


@pytest.fixture
def server() -> Iterator[DraftServer]:
    server = DraftServer(CONFIG)
    yield server
    server.stop()


@pytest.mark.timeout(20)
def test_every_node_is_charged_to_some_target_those_of_a_long_prompt_included(server: DraftServer) -> None:
    first, second = (server.growth(name) for name in ("first", "second"))
    opening = SessionOpen("s", tuple(range(100)), 100, SamplingParams(), SpeculationConfig(preset="sd"))
    server.receive("first", encode_orders([opening], sent_at=0.0))
    reports: list[GrowthReport] = []
    while not any(growth.is_exhausted for report in reports for growth in report.growths):
        reports.append(decode_report(next(first)))
    reports.append(decode_report(next(second)))  # all that gathered there
    assert sum(report.num_nodes for report in reports) == server.num_nodes > 100
    assert sum(report.busy_s for report in reports) == pytest.approx(server.busy_s)

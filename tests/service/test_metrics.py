"""The metrics' tables, the page made of them, and their text."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import deployments.metric_tables as tables
from deployments.messages import PoolStatus, Sample
from deployments.metric_text import prometheus_text
from deployments.metrics import samples
from tests.core.driver import drive, requests

METRICS = [metric for _, metrics in tables.SECTIONS.values() for metric in metrics]
PAGE = Path(tables.__file__).with_name("METRICS.md")


def test_the_page_says_what_the_tables_say() -> None:
    assert PAGE.read_text() == tables.page()


def test_every_table_is_on_the_page() -> None:
    lists = [value for value in vars(tables).values() if isinstance(value, tuple) and value and isinstance(value[0], type(METRICS[0]))]
    assert {metric.name for metrics in lists for metric in metrics} == {metric.name for metric in METRICS}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_are_prometheus_names_and_tell_the_kind(metric: tables.Metric) -> None:
    assert re.fullmatch(r"(vllm:|ssd_)[a-z0-9_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.kind != "histogram" or (metric.name.endswith("_seconds") and metric.unit == "seconds")
    assert metric.meaning and metric.unit and Counter(m.name for m in METRICS)[metric.name] == 1


def test_a_parser_reads_the_text_as_it_was_meant() -> None:
    stats = drive(requests(2, "ssd-tree")).stats
    text = prometheus_text([sample for replica in "ab" for sample in samples(tables.TARGET, stats, (("replica", replica),))])
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert len(families) == len(tables.TARGET), "each metric's lines stand together"
    for metric in tables.TARGET:
        family = families[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, f"{metric.meaning} ({metric.unit})")
        assert all({"replica", *metric.labels} <= set(sample.labels) for sample in family.samples)
    tokens = [sample.value for sample in families["vllm:generation_tokens"].samples]
    assert tokens == [100, 100]


def test_labels_are_escaped_and_large_counts_are_whole() -> None:
    text = prometheus_text([Sample("ssd_rounds_total", 2**53, (("replica", 'q"\\\n'),)), Sample("ssd_pool_drafts", 0.5)])
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines == ['ssd_rounds_total{replica="q\\"\\\\\\n"} 9007199254740992', "ssd_pool_drafts 0.5"]


def test_a_sample_that_no_table_has_is_an_error() -> None:
    with pytest.raises(KeyError, match="ssd_nonesuch"):
        prometheus_text([Sample("ssd_nonesuch_total", 1.0)])


def test_the_pool_counts_drafts_not_their_names() -> None:
    told = samples(tables.POOL, PoolStatus(3, ("a", "b"), 1, 7, 4))
    assert [sample.value for sample in told] == [2, 3, 1, 7, 4]

from __future__ import annotations

import pytest

from cluster.counters import Buckets, parse_metrics

TEXT = """\
# TYPE vllm:spec_decode_num_drafts counter
vllm:spec_decode_num_drafts_total{replica="a"} 3
vllm:spec_decode_num_drafts_total{replica="b"} 4
# TYPE gap_seconds histogram
gap_seconds_bucket{le="0.001"} 5
gap_seconds_bucket{le="0.002"} 7
gap_seconds_bucket{le="+Inf"} 8
gap_seconds_sum 0.01
gap_seconds_count 8
"""


def test_replicas_are_summed() -> None:
    assert parse_metrics(TEXT).total("vllm:spec_decode_num_drafts_total") == 7


def test_gauges_are_summed_and_those_by_nodes_are_told_apart() -> None:
    counters = parse_metrics("""\
# TYPE devices gauge
devices{replica="a"} 1
devices{replica="b"} 2
# TYPE pass_seconds gauge
pass_seconds{replica="a",nodes="1"} 0.002
pass_seconds{replica="b",nodes="1"} 0.003
pass_seconds{replica="a",nodes="8"} 0.004
""")
    later = counters.since(counters)
    assert later.gauges["devices"] == 3 and later.largest["devices"] == 2
    assert later.by_nodes["pass_seconds"] == {1: 0.003, 8: 0.004}


def test_what_is_not_there_is_zero() -> None:
    assert parse_metrics(TEXT).total("nothing") == 0
    assert parse_metrics(TEXT).buckets("nothing") == Buckets()


def test_buckets_are_taken_apart() -> None:
    assert parse_metrics(TEXT).buckets("gap_seconds") == Buckets((0.001, 0.002, float("inf")), (5, 2, 1))


def test_a_difference_counts_what_came_in_between() -> None:
    later = parse_metrics(TEXT.replace("} 4", "} 6").replace('"0.002"} 7', '"0.002"} 8').replace('"+Inf"} 8', '"+Inf"} 9'))
    between = later.since(parse_metrics(TEXT))
    assert between.total("vllm:spec_decode_num_drafts_total") == 2
    assert between.buckets("gap_seconds").counts == (0, 1, 0)


def test_share_within_a_bound() -> None:
    assert parse_metrics(TEXT).buckets("gap_seconds").share_within(0.001) == pytest.approx(5 / 8)
    assert Buckets().share_within(0.001) is None


def test_histograms_add_up() -> None:
    assert Buckets() + Buckets((1.0,), (2,)) + Buckets((1.0,), (3,)) == Buckets((1.0,), (5,))

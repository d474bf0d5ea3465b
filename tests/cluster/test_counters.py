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

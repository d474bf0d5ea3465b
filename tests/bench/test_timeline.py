from __future__ import annotations

from itertools import accumulate, pairwise

import pytest

from ssd_core.timeline import Activity, Span
from tests.bench.timeline import Window, last_second

HOST, LAUNCH, DEVICE, WAIT = Activity


def spans(*parts: tuple[Activity, float]) -> tuple[Span, ...]:
    """One after the other from second 1 on, each so many milliseconds long."""
    turns = accumulate((milliseconds / 1000 for _, milliseconds in parts), initial=1.0)
    return tuple(Span(activity, *turn) for (activity, _), turn in zip(parts, pairwise(turns), strict=True))


def window(seconds: float, **loops: tuple[Span, ...]) -> Window:
    return Window(1.0, 1.0 + seconds, loops)


def picture(of: Window, loop: str) -> list[str]:
    """Its lines, which stand below its name."""
    lines = of.text().splitlines()
    return lines[lines.index(loop) + 1 :]


def test_shares_are_of_the_whole_window_and_sum_to_what_the_spans_cover() -> None:
    shares = window(1.0, target=spans((HOST, 50), (LAUNCH, 100), (DEVICE, 300), (HOST, 50))).shares("target")
    assert shares == pytest.approx({HOST: 0.1, LAUNCH: 0.1, DEVICE: 0.3, WAIT: 0.0})
    assert sum(shares.values()) == pytest.approx(0.5)


def test_the_last_second_ends_with_any_loops_last_pass_and_what_sticks_out_is_cut() -> None:
    of_target = (Span(WAIT, 0.0, 0.25), Span(DEVICE, 0.25, 1.0), Span(HOST, 1.0, 1.25), Span(DEVICE, 1.25, 1.5), Span(HOST, 1.5, 3.0))
    of_draft = (Span(DEVICE, 0.0, 0.5), Span(WAIT, 0.5, 4.0))
    last = last_second({"target": of_target, "draft": of_draft})
    assert last == Window(
        0.5,
        1.5,
        {
            "target": (Span(DEVICE, 0.5, 1.0), Span(HOST, 1.0, 1.25), Span(DEVICE, 1.25, 1.5)),
            "draft": (Span(WAIT, 0.5, 1.5),),
        },
    )
    assert last_second({"target": of_target}, 0.125) == Window(1.375, 1.5, {"target": (Span(DEVICE, 1.375, 1.5),)})


def test_a_gap_is_all_that_lies_between_two_passes() -> None:
    of_target = spans((LAUNCH, 9), (DEVICE, 9), (HOST, 1), (WAIT, 4), (HOST, 1), (LAUNCH, 2), (DEVICE, 9), (LAUNCH, 3), (DEVICE, 9))
    assert window(0.1, target=of_target).gaps_s("target") == pytest.approx([0.008, 0.003])


def test_the_table_counts_passes_and_tells_the_gaps_in_milliseconds() -> None:
    busy = spans((DEVICE, 40), (HOST, 2), (DEVICE, 30), (HOST, 4), (DEVICE, 20), (HOST, 4))
    text = window(0.1, target=busy, once=spans((HOST, 50), (DEVICE, 50)), never=spans((WAIT, 100))).text()
    assert [line.split() for line in text.splitlines()[1:4]] == [
        ["target", "3", "10%", "0%", "90%", "0%", "3.00", "4.00"],
        ["once", "1", "50%", "0%", "50%", "0%", "0.00", "0.00"],
        ["never", "0", "0%", "0%", "0%", "100%", "0.00", "0.00"],
    ]


def test_a_sign_of_the_picture_is_what_took_most_of_its_millisecond() -> None:
    parts = (HOST, 0.3), (LAUNCH, 0.2), (HOST, 0.2), (LAUNCH, 0.3), (DEVICE, 2), (HOST, 0.4), (WAIT, 0.6)
    assert picture(window(0.006, target=spans(*parts)), "target") == ["h##.  "]


def test_a_line_of_the_picture_is_a_hundred_milliseconds() -> None:
    drawn = window(0.25, target=spans((DEVICE, 250)), draft=spans((WAIT, 120), (HOST, 130)))
    assert picture(drawn, "target")[:4] == ["#" * 100, "#" * 100, "#" * 50, "draft"]
    assert picture(drawn, "draft") == ["." * 100, "." * 20 + "h" * 80, "h" * 50]


def test_the_trace_is_in_microseconds_from_the_windows_beginning() -> None:
    events = window(0.1, target=spans((HOST, 2), (DEVICE, 40)), draft=spans((WAIT, 1.5))).trace()
    assert [(event["pid"], event["tid"], event["ph"], event["name"]) for event in events] == [
        ("target", "target", "X", "host"),
        ("target", "target", "X", "device"),
        ("draft", "draft", "X", "wait"),
    ]
    assert [(event["ts"], event["dur"]) for event in events] == [
        pytest.approx((0, 2000)),
        pytest.approx((2000, 40000)),
        pytest.approx((0, 1500)),
    ]

"""When the next poll may be."""

from __future__ import annotations

from itertools import pairwise

import pytest

from pushd.sources import pace

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize(
    ("cache_control", "age", "seconds"),
    [
        ("", "", 0),
        ("max-age=10", "", 10),
        ("public, MAX-AGE = 10", "", 10),
        ("max-age=10, s-maxage=20", "", 20),
        ("max-age=10", "4", 6),
        ("max-age=10", "40", 0),
        ("max-age=10", "nonsense", 10),
        ("max-age=10, no-cache", "", 0),
        ("no-store", "", 0),
        ("max-age=-1", "", 0),
        ("max-age=9999999999", "", pace.LONGEST),
        ("xmax-age=10", "", 0),
        ('max-age="10"', "", 10),
    ],
)
def test_an_answer_is_fresh_for(cache_control: str, age: str, seconds: float) -> None:
    assert pace.fresh_for(cache_control, age) == seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 5 ", 5),
        ("0", 0),
        ("999999999", pace.LONGEST),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60),
        ("Tue, 14 Nov 2023 22:13:00 GMT", 0),
        ("Tue, 14 Nov 2023 22:14:20 -0000", 60),
        ("soon", None),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("Tue, 99 Nov 2023 22:14:20 GMT", None),
        ("²", None),
    ],
)
def test_the_upstream_wants_to_be_left_alone_for(value: str, seconds: float | None) -> None:
    assert pace.retry_after(value, NOW) == seconds


def test_failures_space_polls_out_up_to_a_bound() -> None:
    waits = [pace.back_off(1.0, n, 60.0, 0.0) for n in (1, 2, 3, 4, 7, 1000)]
    assert waits == [1, 2, 4, 8, 30, 30]


def test_the_wait_after_a_failure_is_spread() -> None:
    assert pace.back_off(1.0, 3, 60.0, 0.0) == 4
    assert pace.back_off(1.0, 3, 60.0, 0.999) == pytest.approx(8, abs=0.01)


@pytest.mark.parametrize("failures", [1, 2, 50])
def test_failing_never_makes_polls_more_frequent(failures: int) -> None:
    assert pace.back_off(100.0, failures, 60.0, 0.0) >= 100


def test_sources_that_begin_together_part_within_one_interval() -> None:
    for began in (7.0, 7.3, 1_000_000.9):
        moments = [pace.phase(2.0, slot / 10, began) for slot in range(10)]
        assert all(began <= moment < began + 2 for moment in moments)
        gaps = [(b - a) % 2 for a, b in pairwise(sorted(moments))]
        assert gaps == pytest.approx([0.2] * 9)


def test_a_source_keeps_its_place_in_the_interval() -> None:
    assert pace.phase(2.0, 0.25, 7.0) == 8.5
    assert pace.phase(2.0, 0.25, 8.5) == 8.5
    assert pace.phase(2.0, 0.25, 8.6) == pytest.approx(10.5)


@pytest.mark.parametrize("number", [2, 3, 10, 100, 1000])
@pytest.mark.parametrize("first", [0.0, 0.7])
def test_places_are_spread_evenly_however_many_there_are(number: int, first: float) -> None:
    slots = pace.Slots(first)
    given = sorted(slots.next() for _ in range(number))
    assert given[0] >= 0
    assert given[-1] < 1
    gaps = [b - a for a, b in pairwise([*given, given[0] + 1])]
    assert min(gaps) > 0.35 / number
    assert max(gaps) < 2 / number

"""How many lines of the log anybody can cause."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.logger import formatEvent

from pushd.throttle import MOST, SECONDS, Throttle


def told(capture: list[dict[str, Any]]) -> list[str]:
    events, capture[:] = capture[:], []
    return [formatEvent(event) for event in events]


def allowed(throttle: Throttle, kind: str, asked: int) -> int:
    return sum(throttle.allows(kind) for _ in range(asked))


def test_few_are_all_written_and_leave_nothing_behind(capture: list[dict[str, Any]]) -> None:
    clock = Clock()
    throttle = Throttle(clock)
    for _ in range(5):
        assert allowed(throttle, "a", MOST) == MOST
        assert not clock.getDelayedCalls()
        clock.advance(SECONDS)
    assert told(capture) == []


def test_of_many_it_is_said_how_many_more_there_were(capture: list[dict[str, Any]]) -> None:
    clock = Clock()
    throttle = Throttle(clock)
    for _ in range(3):
        assert allowed(throttle, "a", 100_000) == MOST
        assert told(capture) == []
        clock.advance(SECONDS)
        assert told(capture) == [f"{100_000 - MOST} more within 10 s: a"]
    assert not clock.getDelayedCalls()


def test_each_kind_is_counted_for_itself(capture: list[dict[str, Any]]) -> None:
    clock = Clock()
    throttle = Throttle(clock)
    assert allowed(throttle, "a", MOST + 1) == MOST
    clock.advance(SECONDS / 2)
    assert allowed(throttle, "b", MOST + 2) == MOST
    assert allowed(throttle, "c", MOST) == MOST
    clock.advance(SECONDS / 2)
    assert told(capture) == ["1 more within 10 s: a", "2 more within 10 s: b"]


def test_a_reactor_that_is_late_makes_no_difference(capture: list[dict[str, Any]]) -> None:
    clock = Clock()
    throttle = Throttle(clock)
    allowed(throttle, "a", MOST + 1)
    # Time has passed, and what was due has not been called yet.
    clock.rightNow += 2 * SECONDS
    assert allowed(throttle, "a", MOST + 2) == MOST
    assert told(capture) == ["1 more within 10 s: a"]
    clock.advance(SECONDS)
    assert told(capture) == ["2 more within 10 s: a"]
    assert not clock.getDelayedCalls()


def test_at_the_end_it_is_said_at_once(capture: list[dict[str, Any]]) -> None:
    clock = Clock()
    throttle = Throttle(clock)
    allowed(throttle, "a", MOST + 1)
    throttle.tell()
    assert told(capture) == ["1 more within 10 s: a"]
    assert not clock.getDelayedCalls()
    throttle.tell()
    assert told(capture) == []

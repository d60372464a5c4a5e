"""What the collector looks at: not what stays."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.task import Clock

from pushd import garbage as collecting
from pushd.garbage import INTERVAL, MANY, MUCH, Garbage


class Thing:
    """Something that the collector has to look at."""

    other: Any = None


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def garbage(clock: Clock) -> Iterator[Garbage]:
    garbage = Garbage(clock)
    garbage.start()
    yield garbage
    garbage.stop()


def is_looked_at(thing: Thing) -> bool:
    return any(found is thing for found in gc.get_objects())


def come(number: int) -> list[Thing]:
    return [Thing() for _ in range(number)]


def test_what_the_start_made_is_not_looked_at_again(garbage: Garbage, clock: Clock) -> None:
    early = Thing()
    clock.advance(INTERVAL)
    late = Thing()
    assert not is_looked_at(early)
    assert is_looked_at(late)


def test_the_many_who_came_are_not_looked_at_again(garbage: Garbage, clock: Clock) -> None:
    clock.advance(INTERVAL)
    many = come(2 * MANY)
    assert is_looked_at(many[-1])
    clock.advance(INTERVAL)
    assert not is_looked_at(many[0])
    assert not is_looked_at(many[-1])


def test_a_few_more_are_no_reason_to_freeze_anything(garbage: Garbage, clock: Clock) -> None:
    clock.advance(INTERVAL)
    gc.collect()
    few = come(MANY // 10)
    clock.pump([INTERVAL] * 10)
    assert is_looked_at(few[0])
    assert garbage.frozen == 1


def test_what_is_frozen_goes_with_its_last_reference(garbage: Garbage, clock: Clock) -> None:
    clock.advance(INTERVAL)
    many = come(2 * MANY)
    clock.advance(INTERVAL)
    last = weakref.ref(many[-1])
    del many
    assert last() is None


def test_a_cycle_among_the_new_is_collected_before_anything_is_frozen(
    garbage: Garbage, clock: Clock
) -> None:
    clock.advance(INTERVAL)
    many = come(2 * MANY)
    cycle = Thing()
    cycle.other = cycle
    there = weakref.ref(cycle)
    del cycle
    clock.advance(INTERVAL)
    assert there() is None
    assert many


def test_a_cycle_that_was_frozen_is_collected_when_most_have_left(
    garbage: Garbage, clock: Clock
) -> None:
    clock.advance(INTERVAL)
    many = come(2 * MUCH)
    cycle = Thing()
    cycle.other = cycle
    there = weakref.ref(cycle)
    clock.advance(INTERVAL)
    del cycle
    gc.collect()
    assert there() is not None
    del many
    clock.advance(INTERVAL)
    assert there() is None


def test_a_cycle_that_was_frozen_is_collected_after_a_while_whoever_stays(
    garbage: Garbage, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "OFTEN", 4)
    clock.advance(INTERVAL)
    cycle = Thing()
    cycle.other = cycle
    there = weakref.ref(cycle)
    many = come(2 * MANY)
    clock.advance(INTERVAL)
    del cycle
    for _ in range(2):
        many += come(2 * MANY)
        clock.advance(INTERVAL)
    assert there() is not None
    clock.advance(INTERVAL)
    assert there() is None


def test_what_is_going_on_is_not_frozen_for_the_sake_of_what_goes(
    garbage: Garbage, clock: Clock
) -> None:
    clock.advance(INTERVAL)
    for _ in range(5):
        for _ in range(2 * MANY):
            cycle = Thing()
            cycle.other = cycle
        waiting = Thing()
        clock.advance(INTERVAL)
        assert is_looked_at(waiting)
    assert garbage.frozen == 1


def test_small_comings_and_goings_do_not_have_all_looked_at_again(
    garbage: Garbage, clock: Clock
) -> None:
    many = come(10_000)
    clock.advance(INTERVAL)
    gc.collect()
    del many
    clock.pump([INTERVAL] * 10)
    assert garbage.frozen == 1


def test_it_stops_and_leaves_the_collector_as_it_was(clock: Clock) -> None:
    before = gc.get_threshold()
    garbage = Garbage(clock)
    garbage.start()
    garbage.start()
    assert gc.get_threshold() != before
    assert len(clock.getDelayedCalls()) == 1
    clock.advance(INTERVAL)
    assert gc.get_freeze_count() > 0
    garbage.stop()
    garbage.stop()
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
    assert clock.getDelayedCalls() == []

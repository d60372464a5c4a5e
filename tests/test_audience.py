"""The audience: told once a turn, and how long that took."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock

from pushd.audience import Audience
from pushd.cursor import frame
from pushd.event import Event, Payload
from pushd.topic import MessageTopic, Topic


class Listener:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.offered = self.flushed = 0

    def offer(self, frame: Any) -> None:
        self.offered += 1

    def flush(self) -> None:
        self.flushed += 1


class Hall:
    """An audience, and how long it took each time until what was said had reached it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.audience = Audience(self.clock, self)  # type: ignore[arg-type]
        self.took: list[float] = []

    def work(self, seconds: float) -> None:
        """Take some time."""
        self.clock.rightNow += seconds

    def reached(self, seconds: float) -> None:
        self.took.append(seconds)

    def listen(self, topic: Topic) -> Listener:
        listener = Listener()
        self.audience.add(topic, listener)  # type: ignore[arg-type]
        return listener

    def say(self, topic: Topic, began: float | None = None) -> None:
        self.audience.offer(topic, frame(Event(1, topic.key, Payload(None, b"1"), 0.0), "e"))
        if began is not None:
            self.audience.began(began)


@pytest.fixture
def hall() -> Hall:
    return Hall()


A, B = MessageTopic("a", floor=0), MessageTopic("b", floor=0)


def test_who_was_told_nothing_in_a_turn_has_nothing_to_pass_on(hall: Hall) -> None:
    one, other = hall.listen(A), hall.listen(B)
    for topic in (A, A, B):
        hall.say(topic)
        hall.clock.advance(0)
    assert (one.offered, one.flushed) == (2, 2)
    assert (other.offered, other.flushed) == (1, 1)


def test_what_nobody_listens_to_any_more_is_no_topic_of_the_audience(hall: Hall) -> None:
    first, second, other = hall.listen(A), hall.listen(A), hall.listen(B)
    hall.audience.remove(A, first)  # type: ignore[arg-type]
    assert hall.audience.topics() == (A, B) and hall.audience.of(A) == (second,)
    hall.audience.remove(A, second)  # type: ignore[arg-type]
    assert hall.audience.topics() == (B,) and hall.audience.of(A) == ()
    assert hall.audience.of(B) == (other,)


def test_of_what_is_said_in_one_turn_the_oldest_counts(hall: Hall) -> None:
    hall.listen(A)
    for began in (997.0, 995.0, 999.0):
        hall.say(A, began)
    hall.clock.pump([0, 0])
    assert hall.took == [5.0]


def test_it_has_reached_them_when_the_turn_after_is_there(hall: Hall) -> None:
    hall.listen(A)
    hall.say(A, 999.0)
    hall.clock.callLater(0, hall.work, 0.5)
    hall.clock.advance(0)
    assert hall.took == [1.5], "the reactor sends what is written when it has done all else"


def test_each_turn_has_a_beginning_of_its_own(hall: Hall) -> None:
    hall.listen(A)
    hall.say(A, 990.0)
    hall.clock.pump([0, 0])
    hall.say(A, 999.0)
    hall.clock.pump([0, 0])
    hall.say(A)
    hall.clock.pump([0, 0])
    assert hall.took == [10.0, 1.0]


def test_what_nobody_heard_did_not_take_any_time(hall: Hall) -> None:
    hall.say(A, 0.0)
    hall.listen(A)
    hall.say(A, 999.0)
    hall.clock.pump([0, 0])
    assert hall.took == [1.0]

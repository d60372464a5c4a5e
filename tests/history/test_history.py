"""What every history promises; each backend runs all of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from files import in_file
from house import now
from opened import Open
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from pushd.config import History
from pushd.event import Document, Draft, Payload
from pushd.history.memory import MemoryHistory
from pushd.interfaces import IHistory

Make = Callable[..., Open]


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    made: list[Open] = []

    def make(**keep: Any) -> Open:
        clock = Clock()
        history: IHistory = MemoryHistory(History(**keep), clock.seconds)
        if request.param == "sqlite":
            history = in_file(tmp_path / f"{len(made)}.db", History(**keep), clock)
        made.append(Open(history, clock))
        return made[-1]

    yield make
    for opened in made:
        now(opened.history.close())


def test_it_is_a_history(make: Make) -> None:
    verifyObject(IHistory, make().history)


def test_a_new_history_is_empty_and_has_an_epoch_of_its_own(make: Make) -> None:
    one, other = make(), make()
    assert one.head == 0
    assert one.history.epoch != other.history.epoch
    # One of digits only would be no lower case.
    assert re.fullmatch("[0-9a-z]+", one.history.epoch)


def test_events_of_all_topics_are_in_one_order(make: Make) -> None:
    opened = make()
    assert opened.append("a", b"1") + opened.append("b", b"2", b"3") + opened.append("a", b"4") == [
        1,
        2,
        3,
        4,
    ]
    page = opened.read(["a", "b"], 0)
    assert [(e.seq, e.topic, e.payload.data) for e in page.events] == [
        (1, "a", b"1"),
        (2, "b", b"2"),
        (3, "b", b"3"),
        (4, "a", b"4"),
    ]
    assert page.upto == 4


def test_what_is_recorded_is_told_before_the_publisher_hears_of_it(make: Make) -> None:
    opened = make()
    recorded = opened.history.append(Draft("a", (Payload("n", b"1"),), Document(b"doc")))
    told: list[int] = []
    recorded.addCallback(lambda _: told.append(len(opened.told)))
    assert told == [1]
    ((events, document),) = opened.told
    assert ([e.seq for e in events], document) == ([1], Document(b"doc"))


def test_reading_begins_after_a_position_and_ends_at_a_size(make: Make) -> None:
    opened = make()
    for n in range(6):
        opened.append("a", b"%d" % n)
    opened.append("b", b"other")
    page = opened.read(["a"], 2, size=2)
    assert ([e.seq for e in page.events], page.upto) == ([3, 4], 4)
    page = opened.read(["a"], 4, size=1)
    assert ([e.seq for e in page.events], page.upto) == ([5], 5)
    page = opened.read(["a"], 5, size=1)
    assert ([e.seq for e in page.events], page.upto) == ([6], 7)
    page = opened.read(["a"], 6)
    assert ([e.seq for e in page.events], page.upto) == ([], 7)


def test_only_so_many_messages_are_kept_and_the_floor_tells(make: Make) -> None:
    opened = make(keep_events=2)
    opened.append("a", b"1", b"2", b"3", b"4")
    page = opened.read(["a", "never"], 0)
    assert ([e.seq for e in page.events], page.floors) == ([3, 4], {"a": 2, "never": 0})


def test_only_so_many_bytes_are_kept(make: Make) -> None:
    opened = make(keep_bytes=5)
    opened.append("a", b"123")
    opened.append("a", b"456")
    assert [e.seq for e in opened.read(["a"], 0).events] == [2]


def test_only_what_is_young_enough_is_kept(make: Make) -> None:
    opened = make(keep_seconds=10)
    opened.append("a", b"1")
    opened.clock.advance(6)
    opened.append("a", b"2")
    opened.clock.advance(6)
    page = opened.read(["a"], 0)
    assert ([e.seq for e in page.events], page.floors) == ([2], {"a": 1})
    opened.clock.advance(6)
    page = opened.read(["a"], 0)
    assert ([e.seq for e in page.events], page.floors) == ([], {"a": 2})


def test_the_old_goes_from_quiet_topics_too(make: Make) -> None:
    opened = make(keep_seconds=10)
    for n in range(100):
        opened.append(f"quiet{n}", b"1")
    opened.clock.advance(20)
    for _ in range(120):
        opened.append("a", b"1")
    # Back to when they were young: what is gone is gone.
    opened.clock.rightNow = 0.0
    page = opened.read([f"quiet{n}" for n in range(100)], 0)
    assert page.events == [] and all(page.floors.values())


def test_a_topic_is_loaded_with_its_document_and_the_changes_worth_sending(make: Make) -> None:
    opened = make()
    opened.append("a", b"123456", document=b"123456")
    opened.append("a", b"12", b"34", document=b"567890")
    kept = now(opened.history.load("a"))
    assert ([e.seq for e in kept.events], kept.floor, kept.document) == (
        [2, 3],
        1,
        Document(b"567890"),
    )


def test_a_topic_that_never_was_is_loaded_empty(make: Make) -> None:
    kept = now(make().history.load("a"))
    assert (list(kept.events), kept.floor, kept.document) == ([], 0, None)


def test_a_forgotten_topic_is_gone(make: Make) -> None:
    opened = make()
    opened.append("a", b"1", document=b"1")
    now(opened.history.forget("a"))
    kept = now(opened.history.load("a"))
    assert (list(kept.events), kept.document) == ([], None)
    assert opened.append("a", b"2", document=b"2") == [2]

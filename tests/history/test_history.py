"""What every history promises; each backend runs all of it."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from files import in_file
from opened import Listening, draft
from redis_server import RedisServer, in_redis
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from pushd.config import History
from pushd.event import Document, Draft, Payload
from pushd.history.memory import MemoryHistory
from pushd.history.redis import RedisHistory
from pushd.interfaces import IHistory

Make = Callable[..., Awaitable["Open"]]


class Open(Listening):
    """An open history, which may have to wait."""

    head = 0

    async def begin(self) -> Open:
        self.head = await self.history.open(self)
        return self

    async def append(self, topic: str, *data: bytes, document: bytes | None = None) -> list[int]:
        recorded = await self.history.append(draft(topic, *data, document=document))
        return [event.seq for event in recorded]

    async def read(self, topics: Sequence[str], after: int, size: int = 10**6) -> Any:
        return await self.history.read(topics, after, size)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest_twisted.async_yield_fixture(params=["memory", "sqlite", "redis"])
async def make(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Make]:
    made: list[Open] = []

    async def make(**keep: Any) -> Open:
        clock = Clock()
        history: IHistory = MemoryHistory(History(**keep), clock.seconds)
        if request.param == "sqlite":
            history = in_file(tmp_path / f"{len(made)}.db", History(**keep), clock)
        elif request.param == "redis":
            server = request.getfixturevalue("redis")
            alone = History(**keep, prefix=secrets.token_hex(4))
            history = in_redis(server.url, alone, clock.seconds)
        made.append(Open(history, clock))
        return await made[-1].begin()

    yield make
    for opened in made:
        await opened.history.close()


async def test_it_is_a_history(make: Make) -> None:
    verifyObject(IHistory, (await make()).history)


async def test_a_new_history_is_empty_and_has_an_epoch_of_its_own(make: Make) -> None:
    one, other = await make(), await make()
    assert one.head == 0
    assert one.history.epoch != other.history.epoch
    # One of digits only would be no lower case.
    assert re.fullmatch("[0-9a-z]+", one.history.epoch)


async def test_events_of_all_topics_are_in_one_order(make: Make) -> None:
    opened = await make()
    assert await opened.append("a", b"1") == [1]
    assert await opened.append("b", b"2", b"3") == [2, 3]
    assert await opened.append("a", b"4") == [4]
    page = await opened.read(["a", "b"], 0)
    assert [(e.seq, e.topic, e.payload.data) for e in page.events] == [
        (1, "a", b"1"),
        (2, "b", b"2"),
        (3, "b", b"3"),
        (4, "a", b"4"),
    ]
    assert page.upto == 4


async def test_what_is_recorded_is_told_before_the_publisher_hears_of_it(make: Make) -> None:
    opened = await make()
    recorded = opened.history.append(Draft("a", (Payload("n", b"1"),), Document(b"doc")))
    told: list[int] = []
    recorded.addCallback(lambda _: told.append(len(opened.told)))
    await recorded
    assert told == [1]
    ((events, document),) = opened.told
    assert ([e.seq for e in events], document) == ([1], Document(b"doc"))


async def test_reading_begins_after_a_position_and_ends_at_a_size(make: Make) -> None:
    opened = await make()
    for n in range(6):
        await opened.append("a", b"%d" % n)
    await opened.append("b", b"other")
    page = await opened.read(["a"], 2, size=2)
    assert ([e.seq for e in page.events], page.upto) == ([3, 4], 4)
    page = await opened.read(["a"], 4, size=1)
    assert ([e.seq for e in page.events], page.upto) == ([5], 5)
    page = await opened.read(["a"], 5, size=1)
    assert ([e.seq for e in page.events], page.upto) == ([6], 7)
    page = await opened.read(["a"], 6)
    assert ([e.seq for e in page.events], page.upto) == ([], 7)


async def test_only_so_many_messages_are_kept_and_the_floor_tells(make: Make) -> None:
    opened = await make(keep_events=2)
    await opened.append("a", b"1", b"2", b"3", b"4")
    page = await opened.read(["a", "never"], 0)
    assert ([e.seq for e in page.events], page.floors) == ([3, 4], {"a": 2, "never": 0})


async def test_only_so_many_bytes_are_kept(make: Make) -> None:
    opened = await make(keep_bytes=5)
    await opened.append("a", b"123")
    await opened.append("a", b"456")
    assert [e.seq for e in (await opened.read(["a"], 0)).events] == [2]


async def test_only_what_is_young_enough_is_kept(make: Make) -> None:
    opened = await make(keep_seconds=10)
    await opened.append("a", b"1")
    opened.clock.advance(6)
    await opened.append("a", b"2")
    opened.clock.advance(6)
    page = await opened.read(["a"], 0)
    assert ([e.seq for e in page.events], page.floors) == ([2], {"a": 1})
    opened.clock.advance(6)
    page = await opened.read(["a"], 0)
    assert ([e.seq for e in page.events], page.floors) == ([], {"a": 2})


async def test_the_old_goes_from_quiet_topics_too(make: Make) -> None:
    opened = await make(keep_seconds=10)
    for n in range(100):
        await opened.append(f"quiet{n}", b"1")
    opened.clock.advance(20)
    for _ in range(120):
        await opened.append("a", b"1")
    if not isinstance(opened.history, RedisHistory):
        # Back to when they were young: what is gone is gone. (Redis keeps its own time.)
        opened.clock.rightNow = 0.0
        page = await opened.read([f"quiet{n}" for n in range(100)], 0)
        assert page.events == [] and all(page.floors.values())


async def test_a_topic_is_loaded_with_its_document_and_the_changes_worth_sending(
    make: Make,
) -> None:
    opened = await make()
    await opened.append("a", b"123456", document=b"123456")
    await opened.append("a", b"12", b"34", document=b"567890")
    kept = await opened.history.load("a")
    assert ([e.seq for e in kept.events], kept.floor, kept.document) == (
        [2, 3],
        1,
        Document(b"567890"),
    )


async def test_a_topic_that_never_was_is_loaded_empty(make: Make) -> None:
    kept = await (await make()).history.load("a")
    assert (list(kept.events), kept.floor, kept.document) == ([], 0, None)


async def test_a_forgotten_topic_is_gone(make: Make) -> None:
    opened = await make()
    await opened.append("a", b"1", document=b"1")
    await opened.history.forget("a")
    kept = await opened.history.load("a")
    assert (list(kept.events), kept.document) == ([], None)
    assert await opened.append("a", b"2", document=b"2") == [2]

"""
Every history against a model of a few lines, over random lives: what is kept, what is
given, and under which seqs; over restarts and failures.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from files import FAST, Faults, in_file
from greenlet import greenlet
from house import now
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace
from pytest_twisted import blockon
from redis_server import RedisServer, in_redis
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from pushd.config import History
from pushd.cursor import Page
from pushd.errors import HistoryError
from pushd.event import Document, Draft, Event, Payload
from pushd.history.memory import MemoryHistory
from pushd.interfaces import IHistory, IHistoryListener, Kept

reactor: Any = _reactor

BEGAN = 1_000_000.0
DOCUMENTS, MESSAGES = ("d", "d\0private"), ("m", "mé", "never")


PAYLOADS = st.lists(
    st.builds(
        Payload,
        st.none() | st.sampled_from(["patch", "ü"]),
        st.binary(max_size=20),
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


class InMemory:
    """
    What the machine needs of a backend.

    :ivar lasts: whether what is recorded outlives the history.
    :ivar vouches: whether a document that is new knows that nobody has an older one.
    """

    lasts = False
    vouches = True

    def __init__(self, keep: History) -> None:
        self.keep = keep
        self.clock = Clock()

    def now(self) -> float:
        return BEGAN + self.clock.seconds()

    def make(self) -> IHistory:
        """A history over what is there from the one before, which was closed."""
        return MemoryHistory(self.keep, self.now)

    def wait(self, result: Any) -> Any:
        """What a Deferred gives or raises."""
        return now(result)

    def fail(self, left: int, code: int) -> None:
        """Let something fail after `left` operations."""

    def mend(self) -> None:
        """Let nothing fail any more, and wait until the history knows."""

    def end(self) -> None:
        """Leave nothing behind."""


class InFile(InMemory):
    lasts = True

    def __init__(self, keep: History) -> None:
        super().__init__(keep)
        self.folder = TemporaryDirectory(dir=FAST)
        self.faults = Faults()

    def make(self) -> IHistory:
        path = Path(self.folder.name) / "pushd.db"
        return in_file(path, self.keep, self.clock, self.now, connect=self.faults.connect)

    def fail(self, left: int, code: int) -> None:
        self.faults.arm(left, code=code)

    def mend(self) -> None:
        self.faults.mend()
        self.clock.advance(1.0)

    def end(self) -> None:
        sql = sqlite3.connect(Path(self.folder.name) / "pushd.db")
        for id, count, size in sql.execute("SELECT id, count, size FROM topics").fetchall():
            found = "SELECT count(*), coalesce(sum(length(data)), 0) FROM events WHERE topic = ?"
            assert sql.execute(found, (id,)).fetchone() == (count, size)
        assert sql.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        sql.close()
        self.folder.cleanup()


class InRedis(InMemory):
    """Under keys of its own, on the server at `url`."""

    lasts = True
    vouches = False
    url = ""

    def __init__(self, keep: History) -> None:
        super().__init__(replace(keep, prefix=secrets.token_hex(8)))

    def make(self) -> IHistory:
        return in_redis(self.url, self.keep, self.now)

    def wait(self, result: Any) -> Any:
        return blockon(result)


class Model:
    """What is to be kept, in the simplest way."""

    def __init__(self, keep: History, vouches: bool) -> None:
        self.keep = keep
        self.vouches = vouches
        self.head = 0
        self.events: dict[str, list[Event]] = {}
        self.floors: dict[str, int] = {}
        self.documents: dict[str, Document] = {}

    def append(self, events: Sequence[Event], document: Document | None) -> None:
        topic = events[0].topic
        self.head = events[-1].seq
        self.events.setdefault(topic, []).extend(events)
        if document is not None:
            if topic not in self.documents and not self.vouches:
                self.floors[topic] = events[0].seq - 1
            self.documents[topic] = document

    def trim(self, at: float) -> None:
        for topic, events in self.events.items():
            document = self.documents.get(topic)
            size = self.keep.keep_bytes if document is None else len(document.data)
            while events and (
                len(events) > self.keep.keep_events
                or sum(len(event.payload.data) for event in events) > size
                or events[0].at < at - self.keep.keep_seconds
            ):
                self.floors[topic] = events.pop(0).seq

    def forget(self, topic: str) -> None:
        for of_topics in (self.events, self.floors, self.documents):
            of_topics.pop(topic, None)  # type: ignore[attr-defined]

    def load(self, topic: str) -> Kept:
        return Kept(
            self.events.get(topic, []), self.floors.get(topic, 0), self.documents.get(topic)
        )

    def read(self, topics: Sequence[str], after: int, size: int) -> Page:
        floors = {topic: self.floors.get(topic, 0) for topic in topics}
        found = [e for topic in topics for e in self.events.get(topic, []) if e.seq > after]
        found.sort(key=lambda event: event.seq)
        given = 0
        while given < len(found) and (given == 0 or size > 0):
            size -= len(found[given].payload.data)
            given += 1
        whole = given == len(found)
        return Page(found[:given], self.head if whole else found[given - 1].seq, floors)


@implementer(IHistoryListener)
class Life(RuleBasedStateMachine):
    """One life of a record; `backend` is chosen by the test."""

    backend: type[InMemory]

    @initialize(
        events=st.sampled_from([1, 3, 100]),
        seconds=st.sampled_from([5, 1000]),
        size=st.sampled_from([5, 50, 1000]),
    )
    def begin(self, events: int, seconds: int, size: int) -> None:
        keep = History(keep_events=events, keep_seconds=seconds, keep_bytes=size)
        self.storage = self.backend(keep)
        self.model = Model(keep, self.storage.vouches)
        self.working = True
        self.told: list[tuple[Sequence[Event], Document | None]] = []
        self.epoch = ""
        self.open()

    def open(self) -> None:
        self.history = self.storage.make()
        head = self.storage.wait(self.history.open(self))
        if self.epoch and self.storage.lasts:
            assert self.history.epoch == self.epoch
        else:
            assert self.history.epoch != self.epoch
            self.model = Model(self.model.keep, self.storage.vouches)
        self.epoch = self.history.epoch
        assert head == self.model.head

    # What the history says.

    def committed(self, events: Sequence[Event], document: Document | None) -> None:
        self.told.append((events, document))

    def unavailable(self, reason: str) -> None:
        assert self.working
        self.working = False

    def available(self) -> None:
        assert not self.working
        self.working = True

    def restarted(self, head: int) -> None:
        raise AssertionError("nothing was lost")

    # What is asked of it.

    @rule(topic=st.sampled_from(MESSAGES[:2]), payloads=PAYLOADS)
    def say(self, topic: str, payloads: list[Payload]) -> None:
        self.append(topic, payloads, None)

    @rule(
        topic=st.sampled_from(DOCUMENTS),
        payloads=PAYLOADS,
        document=st.builds(Document, st.binary(max_size=200), st.booleans()),
    )
    def change(self, topic: str, payloads: list[Payload], document: Document) -> None:
        self.append(topic, payloads, document)

    def append(self, topic: str, payloads: list[Payload], document: Document | None) -> None:
        draft = Draft(topic, tuple(payloads), document)
        worked = self.working
        at = self.storage.now()
        try:
            events = self.storage.wait(self.history.append(draft))
        except HistoryError:
            assert not self.working
            assert not self.told
            return
        assert worked
        assert self.told == [(events, document)]
        self.told.clear()
        first = self.model.head + 1
        assert [event.seq for event in events] == list(range(first, first + len(payloads)))
        assert [(event.topic, event.payload) for event in events] == [(topic, p) for p in payloads]
        assert all(abs(event.at - at) < 1 for event in events)
        self.model.append(events, document)
        self.model.trim(at)

    @rule(topic=st.sampled_from(DOCUMENTS))
    def forget(self, topic: str) -> None:
        try:
            self.storage.wait(self.history.forget(topic))
        except HistoryError:
            assert not self.working
        else:
            self.model.forget(topic)

    @rule(seconds=st.sampled_from([0.5, 1, 3, 11]))
    def wait(self, seconds: float) -> None:
        self.storage.clock.advance(seconds)

    @precondition(lambda self: self.working)
    @rule(
        left=st.integers(0, 12), code=st.sampled_from([sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR])
    )
    def fail(self, left: int, code: int) -> None:
        self.storage.fail(left, code)

    @rule()
    def mend(self) -> None:
        self.storage.mend()
        assert self.working

    @rule()
    def restart(self) -> None:
        self.storage.mend()
        self.storage.wait(self.history.close())
        self.open()
        self.look_at_all()

    def look_at_all(self) -> None:
        for topic in DOCUMENTS + MESSAGES:
            self.load(topic)
        for after in range(self.model.head + 1):
            self.read(list(MESSAGES), after, 1)

    # What it gives.

    @rule(topic=st.sampled_from(DOCUMENTS + MESSAGES))
    def load(self, topic: str) -> None:
        self.model.trim(self.storage.now())
        try:
            kept = self.storage.wait(self.history.load(topic))
        except HistoryError:
            assert self.storage.lasts, "reading failed, as it was made to"
        else:
            expected = self.model.load(topic)
            assert (list(kept.events), kept.floor) == (expected.events, expected.floor)
            assert kept.document == expected.document

    @rule(
        topics=st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=3, unique=True),
        after=st.integers(0, 40),
        size=st.integers(1, 60),
    )
    def read(self, topics: list[str], after: int, size: int) -> None:
        self.model.trim(self.storage.now())
        after = min(after, self.model.head)
        try:
            page = self.storage.wait(self.history.read(topics, after, size))
        except HistoryError:
            assert self.storage.lasts, "reading failed, as it was made to"
        else:
            expected = self.model.read(topics, after, size)
            assert (list(page.events), page.upto) == (expected.events, expected.upto)
            assert page.floors == expected.floors

    @invariant()
    def is_quiet(self) -> None:
        """Nothing is told that nobody asked for."""
        assert not getattr(self, "told", None)

    def teardown(self) -> None:
        if hasattr(self, "storage"):
            self.storage.mend()
            self.look_at_all()
            self.storage.wait(self.history.close())
            self.storage.end()


@pytest.mark.parametrize("kind", [InMemory, InFile])
def test_a_history_keeps_and_gives_what_its_model_does(kind: type[InMemory]) -> None:
    class Test(Life):
        backend = kind

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Test, settings=settings(max_examples=200, stateful_step_count=40, deadline=None)
    )


async def test_so_does_one_in_redis(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:

        class OnServer(InRedis):
            url = server.url

        class Test(Life):
            backend = OnServer

        def run() -> None:
            run_state_machine_as_test(  # type: ignore[no-untyped-call]
                Test, settings=settings(max_examples=100, stateful_step_count=40, deadline=None)
            )

        await _waiting(run)


def _waiting(function: Callable[[], None]) -> Deferred[None]:
    """Run what is no coroutine, and waits all the same: the reactor runs meanwhile."""
    ended: Deferred[None] = Deferred()

    def run() -> None:
        try:
            function()
        except BaseException as error:
            reactor.callLater(0, ended.errback, error)
        else:
            reactor.callLater(0, ended.callback, None)

    greenlet(run).switch()
    return ended

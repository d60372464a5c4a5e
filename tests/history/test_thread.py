"""A history in a file with its real threads: how soon, how much, and how it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from opened import draft
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.task import deferLater
from zope.interface import implementer

from pushd.config import History
from pushd.errors import StartError
from pushd.event import Document, Event
from pushd.history.database import LOG_BYTES, Database
from pushd.history.place import Place
from pushd.history.sqlite import SQLiteHistory
from pushd.history.tables import Change
from pushd.history.thread import Thread
from pushd.interfaces import IHistoryListener

reactor: Any = _reactor


@implementer(IHistoryListener)
class Seen:
    """When each seq was told, and what went wrong."""

    def __init__(self) -> None:
        self.at: dict[int, float] = {}
        self.said: list[str] = []

    def committed(self, events: Sequence[Event], document: Document | None) -> None:
        for event in events:
            assert event.seq == len(self.at) + 1
            self.at[event.seq] = time.perf_counter()

    def unavailable(self, reason: str) -> None:
        self.said.append(reason)

    def available(self) -> None:
        self.said.append("available")

    def restarted(self, head: int) -> None:
        self.said.append("restarted")


@asynccontextmanager
async def threaded(path: Path, **keep: Any) -> AsyncIterator[tuple[SQLiteHistory, Seen]]:
    settings = History(**keep)
    history = SQLiteHistory(
        Database(Place(str(path)), settings, "boot"),
        settings,
        reactor,
        time.time,
        Thread(reactor, "history"),
        Thread(reactor, "history pages"),
    )
    seen = Seen()
    await history.open(seen)
    try:
        yield history, seen
    finally:
        await history.close()
    assert not seen.said


@pytest_twisted.ensureDeferred
async def test_one_who_publishes_alone_is_seen_within_5_ms(tmp_path: Path) -> None:
    async with threaded(tmp_path / "pushd.db") as (history, seen):
        took = []
        for n in range(1, 51):
            began = time.perf_counter()
            await history.append(draft("m", b"x" * 1000))
            took.append(seen.at[n] - began)
            await deferLater(reactor, 0.002)
        # Others use the machine too: most of them tell, and the best is not luck.
        assert sorted(took)[len(took) // 2] < 0.005, took


@pytest_twisted.ensureDeferred
async def test_what_is_published_in_one_turn_is_one_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = []
    write = Database.write

    def noted(self: Database, changes: Sequence[Change], before: float) -> None:
        commits.append(len(changes))
        write(self, changes, before)

    monkeypatch.setattr(Database, "write", noted)
    async with threaded(tmp_path / "pushd.db") as (history, _):
        await gatherResults([history.append(draft("m", b"1")) for _ in range(10)])
    assert commits == [10]


@pytest_twisted.ensureDeferred
async def test_thousands_are_recorded_in_order_while_many_read(tmp_path: Path) -> None:
    path = tmp_path / "pushd.db"
    async with threaded(path, keep_events=500) as (history, seen):
        pages = 0
        ended = False

        async def read() -> None:
            nonlocal pages
            after = 0
            while not ended:
                page = await history.read(["m0", "m1"], after, 20_000)
                seqs = [event.seq for event in page.events]
                assert seqs == sorted(seqs) and all(after < seq <= len(seen.at) for seq in seqs)
                assert all(floor <= page.upto for floor in page.floors.values())
                after = page.upto if page.events else 0
                pages += 1

        async def load() -> None:
            while not ended:
                head = len(seen.at)
                kept = await history.load("m0")
                newest = [event.seq for event in kept.events][-1:] or [0]
                assert newest[0] <= len(seen.at) and kept.floor <= newest[0]
                assert newest[0] >= head - 3, "what was told before is in it"

        readers = [Deferred.fromCoroutine(read()) for _ in range(3)]
        readers.append(Deferred.fromCoroutine(load()))
        for _ in range(50):
            await gatherResults(
                [history.append(draft(f"m{n % 3}", b"x" * 100)) for n in range(100)]
            )
        ended = True
        await gatherResults(readers)
        assert len(seen.at) == 5000 and pages > 50
    async with threaded(path, keep_events=500) as (history, _):
        kept = await history.read(["m0", "m1", "m2"], 0, 10**9)
        assert len(kept.events) == 1500 and kept.upto == 5000


@pytest_twisted.ensureDeferred
async def test_what_sqlite_keeps_beside_the_file_is_bounded_whoever_reads(tmp_path: Path) -> None:
    path = tmp_path / "pushd.db"
    log = path.with_name("pushd.db-wal")
    async with threaded(path, keep_events=20) as (history, _):
        ended = False

        async def read(after: int) -> None:
            while not ended:
                await history.read(["m"], after, 10**9)

        # As many wait that one begins as soon as another is done.
        readers = [Deferred.fromCoroutine(read(after)) for after in range(8)]
        largest = 0
        for _ in range(300):
            await history.append(draft("m", b"x" * 500_000))
            largest = max(largest, log.stat().st_size)
        ended = True
        await gatherResults(readers)
        assert largest < LOG_BYTES + 1_000_000
        # Of 150 MB, 10 are kept.
        assert path.stat().st_size < 20_000_000


@pytest_twisted.ensureDeferred
async def test_a_history_that_cannot_have_its_threads_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later, whoever asked first would wait for good, and all behind it."""

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(StartError, match="can't start new thread"):
        async with threaded(tmp_path / "pushd.db"):
            pass


@pytest_twisted.ensureDeferred
async def test_who_reads_while_it_closes_is_told_so_and_no_error_is_logged(
    tmp_path: Path, capture: list[dict[str, Any]]
) -> None:
    async with threaded(tmp_path / "pushd.db") as (history, _):
        await gatherResults([history.append(draft("m", b"x" * 1000)) for _ in range(900)])
        reads = [history.read(["m"], after, 10**6) for after in range(300)]
    reads.append(history.read(["m"], 0, 10**6))
    told = await DeferredList(reads, consumeErrors=True)
    answers = [answer for given, answer in told if not given]
    assert len(answers) > 1
    assert {str(answer.value) for answer in answers} == {"pushd is ending."}
    assert not [event for event in capture if event["log_level"].name in ("error", "critical")]


@pytest_twisted.ensureDeferred
async def test_a_closed_history_leaves_no_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    async with threaded(tmp_path / "pushd.db") as (history, _):
        await history.append(draft("m", b"1"))
        await history.read(["m"], 0, 1)
        assert len(set(threading.enumerate()) - before) == 2
        assert all(thread.daemon for thread in set(threading.enumerate()) - before)
    assert set(threading.enumerate()) == before

"""History in a file: groups, order, and what is told while the file cannot be written."""

from __future__ import annotations

import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from files import FAST, Faults, Later, in_file
from house import now
from opened import Open, draft
from twisted.internet.task import Clock
from twisted.logger import formatEvent

from pushd.config import History
from pushd.errors import HistoryError, StartError
from pushd.event import Document, Event
from pushd.history import batch, database
from pushd.history.sqlite import MORE_SECONDS, RETRY_SECONDS, TIDY_SECONDS, UNUSED_SECONDS
from pushd.throttle import MOST, SECONDS


class File:
    """A file, and the histories that are opened over it one after the other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.faults = Faults()
        self.opened: Open | None = None
        self.later: list[Later] = []

    def open(self, **options: Any) -> Open:
        keep = History(**options.pop("keep", {}))
        options.setdefault("connect", self.faults.connect)
        self.later = [one for one in options.values() if isinstance(one, Later)]
        self.opened = Open(in_file(self.path, keep, self.clock, **options), self.clock)
        return self.opened

    @property
    def writing(self) -> sqlite3.Connection:
        """The connection with which the history writes."""
        assert self.opened is not None
        connection: sqlite3.Connection = self.opened.history._database._writing  # type: ignore[attr-defined]
        return connection

    def close(self) -> None:
        if self.opened is not None:
            closed = self.opened.history.close()
            for later in self.later:
                while later.jobs:
                    later.go_on()
            now(closed)
            self.opened = None

    def crash(self) -> Path:
        """A copy of what a killed process, or one whose machine ended, leaves behind."""
        folder = self.path.parent / "crashed"
        folder.mkdir()
        for name in (self.path.name, f"{self.path.name}-wal"):
            shutil.copy(self.path.parent / name, folder / name)
        return folder / self.path.name

    def copy(self, name: str) -> Path:
        """A backup, as another program makes it while this one runs."""
        copy = self.path.with_name(name)
        with closing(sqlite3.connect(self.path)) as here, closing(sqlite3.connect(copy)) as there:
            here.backup(there)
        return copy

    def ask(self, question: str) -> Any:
        """What another program finds in the file."""
        sql = sqlite3.connect(self.path)
        try:
            return sql.execute(question).fetchall()
        finally:
            sql.close()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[File]:
    file = File(tmp_path / "pushd.db")
    yield file
    file.close()


@pytest.fixture
def fast_folder() -> Iterator[Path]:
    with TemporaryDirectory(dir=FAST) as folder:
        yield Path(folder)


def seqs(events: Any) -> list[int]:
    return [event.seq for event in events]


# Over restarts.


def test_what_was_recorded_is_there_after_a_restart_under_the_same_epoch(file: File) -> None:
    one = file.open()
    one.append("m", b"1", b"2")
    one.append("d\0private", b"3", document=b"whole")
    epoch = one.history.epoch
    file.close()
    other = file.open()
    assert (other.history.epoch, other.head) == (epoch, 3)
    assert [e.payload.data for e in other.read(["m"], 0).events] == [b"1", b"2"]
    assert now(other.history.load("d\0private")).document.data == b"whole"
    assert other.append("m", b"4") == [4]


def test_seqs_are_not_given_twice_though_nothing_is_left(file: File) -> None:
    one = file.open(keep={"keep_seconds": 5})
    one.append("d", b"1", document=b"whole")
    one.append("m", b"2")
    now(one.history.forget("d"))
    file.clock.advance(TIDY_SECONDS)
    assert file.ask("SELECT count(*) FROM events") == [(0,)]
    file.close()
    assert file.open().append("m", b"3") == [3]


@pytest.mark.parametrize(
    ("options", "then", "same"),
    [
        ({"boot": "a"}, "a", True),
        ({"boot": "a"}, "b", False),
        ({"boot": "a", "keep": {"fsync": True}}, "b", True),
        ({"boot": ""}, "", False),
    ],
    ids=["killed", "machine ended", "machine ended, with fsync", "nobody knows"],
)
def test_after_a_power_loss_that_may_have_taken_something_the_epoch_is_another(
    file: File, options: dict[str, Any], then: str, same: bool, capture: list[dict[str, Any]]
) -> None:
    one = file.open(**options)
    one.append("m", b"1")
    left = File(file.crash())
    other = left.open(boot=then)
    assert (other.history.epoch == one.history.epoch) is same
    told = [e for e in capture if "machine ended" in str(e.get("log_format"))]
    assert len(told) == (not same)
    assert seqs(other.read(["m"], 0).events) == [1], "what is there can be read"
    assert other.append("m", b"2") == [2]
    left.close()


def test_a_file_that_was_closed_in_good_order_keeps_its_epoch_on_another_machine(
    file: File,
) -> None:
    epoch = file.open(boot="a").history.epoch
    file.close()
    assert file.open(boot="b").history.epoch == epoch


def test_documents_that_nobody_asks_for_after_a_start_are_forgotten(file: File) -> None:
    one = file.open()
    for n in range(20):
        one.append(f"d{n}", b"1", document=b"whole")
    one.append("m", b"1")
    file.close()
    other = file.open()
    now(other.history.load("d3"))
    other.append("d4", b"1", document=b"other")
    file.clock.pump([TIDY_SECONDS] * int(UNUSED_SECONDS / TIDY_SECONDS - 1))
    assert len(file.ask("SELECT * FROM documents")) == 20
    file.clock.pump([TIDY_SECONDS, MORE_SECONDS, MORE_SECONDS])
    assert file.ask("SELECT key FROM topics ORDER BY key") == [("d3",), ("d4",), ("m",)]
    assert len(file.ask("SELECT * FROM documents")) == 2


def test_a_topic_may_be_forgotten_and_begin_again_in_one_commit(file: File) -> None:
    writer = Later()
    opened = file.open(writer=writer)
    opened.start("m", b"first")
    opened.history.append(draft("d", b"1", document=b"old"))
    opened.history.forget("d")
    opened.history.append(draft("d", b"3", b"4", document=b"new, and larger"))
    writer.go_on()
    writer.go_on()
    assert seqs(event for events, _ in opened.told for event in events) == [1, 2, 3, 4]
    loaded = opened.history.load("d")
    writer.go_on()
    kept = now(loaded)
    assert (seqs(kept.events), kept.floor) == ([3, 4], 0)
    assert kept.document.data == b"new, and larger"


def test_a_message_takes_the_place_of_a_document_of_that_name(file: File) -> None:
    one = file.open()
    one.append("x", b"patch", document=b"document")
    one.append("m", b"2")
    assert seqs(one.read(["x", "m"], 0).events) == [2], "a patch is no message"
    one.append("x", b"message")
    page = one.read(["x"], 0)
    assert ([e.payload.data for e in page.events], page.floors) == ([b"message"], {"x": 0})
    assert now(one.history.load("x")).document is None


# In groups.


def test_what_is_asked_for_during_a_commit_is_the_next_one(file: File) -> None:
    writer = Later()
    opened = file.open(writer=writer)
    alone = opened.start("a", b"1")
    others = [opened.start("b", b"%d" % n) for n in range(5)]
    assert len(writer.jobs) == 1
    writer.go_on()
    assert alone.called and not any(other.called for other in others)
    writer.go_on()
    assert [seqs(now(other)) for other in others] == [[2], [3], [4], [5], [6]]
    assert [seqs(events) for events, _ in opened.told] == [[1], [2], [3], [4], [5], [6]]


def test_a_group_has_its_bounds_and_a_draft_is_whole(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "BATCH_EVENTS", 4)
    monkeypatch.setattr(batch, "BATCH_BYTES", 100)
    writer = Later()
    opened = file.open(writer=writer)
    opened.start("a", b"1")
    for data in [(b"2", b"3"), (b"4", b"5"), (b"6",), (b"x" * 200,), (b"8",), (b"9",) * 6]:
        opened.start("a", *data)
    groups = []
    while writer.jobs:
        before = len(opened.told)
        writer.go_on()
        groups.append([seqs(events) for events, _ in opened.told[before:]])
    assert groups == [[[1]], [[2, 3], [4, 5]], [[6]], [[7]], [[8]], [[9, 10, 11, 12, 13, 14]]]


def test_documents_count_for_the_bounds_of_a_group(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "BATCH_BYTES", 100)
    writer = Later()
    opened = file.open(writer=writer)
    opened.start("a", b"1")
    for size in (40, 40, 40):
        opened.history.append(draft("d", b"x" * 5, document=b"x" * size))
    groups = []
    while writer.jobs:
        writer.go_on()
        groups.append(len(opened.told))
    assert groups == [1, 3, 4]


def test_who_loads_a_topic_is_told_what_was_asked_before_and_nothing_else(file: File) -> None:
    writer = Later()
    opened = file.open(writer=writer)
    opened.start("a", b"1")
    opened.start("a", b"2")
    loaded: list[tuple[list[int], int]] = []
    for _ in range(2):
        opened.history.load("a").addCallback(
            lambda kept: loaded.append((seqs(kept.events), len(opened.told)))
        )
    opened.start("a", b"3")
    while writer.jobs:
        writer.go_on()
    assert loaded == [([1, 2, 3], 3)] * 2


def test_who_publishes_overtakes_hundreds_who_load(file: File) -> None:
    writer = Later()
    opened = file.open(writer=writer)
    opened.start("a", b"1")
    loads = [opened.history.load("a") for _ in range(300)]
    writer.go_on()
    published = opened.start("a", b"2")
    writer.go_on()
    assert sum(load.called for load in loads) == batch.BATCH_LOADS
    writer.go_on()
    assert published.called
    while writer.jobs:
        writer.go_on()
    found = [seqs(now(load).events) for load in loads]
    assert found == [[1]] * batch.BATCH_LOADS + [[1, 2]] * (300 - batch.BATCH_LOADS)


def test_what_is_loaded_is_never_what_was_to_be_forgotten_before(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "BATCH_EVENTS", 1)
    writer = Later()
    opened = file.open(writer=writer)
    opened.history.append(draft("d", b"1", document=b"whole"))
    writer.go_on()
    for _ in range(4):
        opened.start("m", b"1")
    opened.history.forget("d")
    loaded = opened.history.load("d")
    while writer.jobs:
        writer.go_on()
    assert now(loaded).document is None


def test_of_messages_no_more_are_loaded_than_a_log_wants(file: File) -> None:
    opened = file.open()
    for n in range(30):
        opened.append("m", *[b"%d" % n] * 10)
    opened.append("large", b"1")
    for _ in range(3):
        opened.append("large", b"x" * 500_000)
    kept = now(opened.history.load("m"))
    assert (seqs(kept.events), kept.floor) == (list(range(45, 301)), 44)
    kept = now(opened.history.load("large"))
    assert (seqs(kept.events), kept.floor) == ([303, 304], 302)


def test_a_page_holds_nothing_that_is_yet_to_be_told_and_no_gap_behind_it(file: File) -> None:
    """Else a reader would take what went meanwhile for told."""
    writer = Later()
    opened = file.open(writer=writer, keep={"keep_events": 2})
    opened.start("m", b"1")
    writer.go_on()
    opened.start("m", b"2", b"3", b"4")
    job, done = writer.jobs.pop()
    outcome = job()
    page = opened.read(["m"], 0)
    assert (page.events, page.upto, page.floors) == ([], 1, {"m": 1})
    done.callback(outcome)
    page = opened.read(["m"], 1)
    assert (seqs(page.events), page.upto, page.floors) == ([3, 4], 4, {"m": 2})


def test_who_reads_the_same_at_the_same_time_shares_a_page(file: File) -> None:
    reader = Later()
    opened = file.open(reader=reader)
    opened.append("m", b"1", b"2")
    same = [opened.history.read(["m"], 0, 100) for _ in range(3)]
    other = opened.history.read(["m"], 1, 100)
    assert len(reader.jobs) == 2
    reader.go_on()
    assert [seqs(now(page).events) for page in same] == [[1, 2]] * 3
    assert not other.called
    opened.history.read(["m"], 0, 100)
    assert len(reader.jobs) == 2, "what was read before is not given again"
    reader.go_on()
    reader.go_on()


def test_closing_records_what_was_asked_for_and_nothing_later(file: File) -> None:
    writer = Later()
    opened = file.open(writer=writer)
    asked = [opened.start("a", b"%d" % n) for n in range(3)]
    closed = opened.history.close()
    late = opened.start("a", b"late")
    while writer.jobs:
        writer.go_on()
    now(closed)
    assert [seqs(now(one)) for one in asked] == [[1], [2], [3]]
    with pytest.raises(HistoryError, match="ending"):
        now(late)
    assert not file.clock.getDelayedCalls()
    file.opened = None
    assert file.open().head == 3


def test_a_listener_that_breaks_keeps_nobody_from_being_told(
    file: File, capture: list[dict[str, Any]]
) -> None:
    opened = file.open()
    told, opened.told = opened.told, None  # type: ignore[assignment]
    assert opened.append("a", b"1") == [1]
    opened.told = told
    assert opened.append("a", b"2") == [2]
    (failure,) = [e["log_failure"] for e in capture if "log_failure" in e]
    assert failure.check(AttributeError)


# When something is wrong.


def test_what_fails_fails_whole_says_why_and_works_again_by_itself(
    file: File, capture: list[dict[str, Any]]
) -> None:
    writer = Later()
    opened = file.open(writer=writer)
    opened.start("m", b"1")
    writer.go_on()
    file.faults.only = "INSERT"
    file.faults.arm(0, lasting=True)
    failing = [
        opened.start("m", b"2"),
        opened.history.append(draft("d", b"3", document=b"3")),
        opened.start("m", b"4"),
    ]
    forgotten, loaded = opened.history.forget("d"), opened.history.load("m")
    writer.go_on()
    late = opened.start("m", b"5")
    for one in (*failing, forgotten, late):
        with pytest.raises(HistoryError, match=r"^The disk is full\.$"):
            now(one)
    assert opened.said == ["The disk is full."]
    writer.go_on()
    assert seqs(now(loaded).events) == [1], "reading goes on"
    assert seqs(opened.read(["m"], 0).events) == [1]
    assert str(file.path) in str([e for e in capture if e["log_level"].name == "error"])
    for _ in range(3):
        file.clock.advance(RETRY_SECONDS)
        writer.go_on()
    assert opened.said == ["The disk is full."], "it is said once"
    file.faults.mend()
    file.clock.advance(RETRY_SECONDS)
    writer.go_on()
    assert opened.said == ["The disk is full.", "available"]
    again = opened.start("m", b"6")
    writer.go_on()
    assert seqs(now(again)) == [2]
    file.faults.mend()


def test_readers_of_a_file_that_cannot_be_read_do_not_fill_the_log(
    file: File, capture: list[dict[str, Any]]
) -> None:
    opened = file.open()
    opened.append("m", b"1")
    file.faults.only = "SELECT"
    file.faults.arm(0, lasting=True, code=sqlite3.SQLITE_IOERR)
    for _ in range(MOST + 7):
        with pytest.raises(HistoryError):
            opened.read(["m"], 0)
    file.faults.mend()
    assert sum("cannot be read: " in formatEvent(event) for event in capture) == MOST
    file.clock.advance(SECONDS)
    said = f"7 more within 10 s: {file.path} cannot be read"
    assert said in [formatEvent(event) for event in capture]


def test_tidying_up_in_between_does_not_end_the_trying(file: File) -> None:
    writer = Later()
    opened = file.open(writer=writer)
    opened.start("m", b"1").addErrback(lambda _: None)
    file.clock.advance(TIDY_SECONDS)
    file.faults.arm(0)
    writer.go_on()
    writer.go_on()
    assert opened.said == ["The disk is full."]
    file.clock.advance(RETRY_SECONDS)
    writer.go_on()
    assert opened.said[1:] == ["available"]


def test_another_reason_is_told_too(file: File) -> None:
    opened = file.open()
    file.faults.arm(0, lasting=True)
    with pytest.raises(HistoryError):
        opened.append("m", b"1")
    file.faults.arm(0, lasting=True, code=sqlite3.SQLITE_BUSY)
    file.clock.advance(RETRY_SECONDS)
    assert opened.said == ["The disk is full.", "Its file is locked by another program."]
    file.faults.mend()


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR])
def test_whatever_fails_what_was_acknowledged_is_there_once_and_all_goes_on(
    fast_folder: Path, code: int, lasting: bool
) -> None:
    for left in range(1000):
        file = File(fast_folder / f"{left}.db")
        acknowledged: dict[str, list[bytes]] = {"a": [], "b": [], "d": []}
        file.faults.arm(left, lasting=lasting, code=code)
        _live(file, acknowledged)
        failed = file.faults.mend()
        opened = file.opened or file.open()
        file.clock.advance(RETRY_SECONDS)
        assert opened.said[-1:] in ([], ["available"])
        _append(opened, acknowledged, "a", b"again")
        for topic in ("a", "b"):
            page = opened.read([topic], 0)
            assert [e.payload.data for e in page.events] == acknowledged[topic]
        kept = now(opened.history.load("d"))
        assert [kept.document.data] if kept.document else acknowledged["d"][-1:] == []
        told = [event for events, _ in opened.told for event in events]
        assert seqs(told) == list(range(opened.head + 1, opened.head + 1 + len(told)))
        file.close()
        assert file.ask("PRAGMA integrity_check") == [("ok",)]
        assert file.ask("SELECT count, size FROM topics WHERE key = 'a'") == [
            (len(acknowledged["a"]), sum(map(len, acknowledged["a"])))
        ]
        if not failed:
            break
    assert left > 30


def _live(file: File, acknowledged: dict[str, list[bytes]]) -> None:
    """A short life in which anything may fail."""
    try:
        opened = file.open()
    except StartError:
        return
    for n in range(3):
        _append(opened, acknowledged, "a", b"%d" % n)
        _append(opened, acknowledged, "b", b"%d" % n)
        _append(opened, acknowledged, "d", b"%d" % n, b"whole %d" % n)
    try:
        now(opened.history.load("a"))
        opened.read(["a", "b"], 0)
    except HistoryError:
        pass
    file.clock.advance(TIDY_SECONDS)
    _append(opened, acknowledged, "d", b"last", b"whole")


def _append(
    opened: Open,
    acknowledged: dict[str, list[bytes]],
    topic: str,
    data: bytes,
    document: bytes | None = None,
) -> None:
    try:
        opened.append(topic, data, document=document)
    except HistoryError:
        return
    acknowledged[topic].append(data if document is None else document)


def test_what_was_written_though_it_was_said_to_have_failed_is_in_another_epoch(
    file: File,
) -> None:
    """A disk that fails behind the last byte: its seqs would be given twice."""
    opened = file.open()
    opened.append("m", b"1")
    epoch = opened.history.epoch
    file.faults.only, file.faults.after = "COMMIT", True
    file.faults.arm(0, code=sqlite3.SQLITE_IOERR)
    with pytest.raises(HistoryError):
        opened.append("m", b"2")
    file.faults.mend()
    file.clock.advance(RETRY_SECONDS)
    assert opened.said[1:] == ["restarted at 2", "available"]
    assert opened.history.epoch != epoch
    assert opened.append("m", b"3") == [3]


def test_a_full_disk_is_told_and_left(file: File) -> None:
    opened = file.open()
    opened.append("m", b"1")
    sql = file.writing
    sql.execute("PRAGMA max_page_count = 100")
    with pytest.raises(HistoryError, match="The disk is full"):
        opened.append("m", b"x" * 1_000_000)
    file.clock.advance(RETRY_SECONDS)
    assert opened.said == ["The disk is full."], "there is no room for as much as that"
    sql.execute("PRAGMA max_page_count = 10000")
    file.clock.advance(RETRY_SECONDS)
    assert opened.said[1:] == ["available"]
    assert opened.append("m", b"2") == [2]


def test_a_locked_file_is_told_and_read(file: File) -> None:
    opened = file.open()
    opened.append("m", b"1")
    other = sqlite3.connect(file.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(HistoryError, match="locked by another program"):
        opened.append("m", b"2")
    assert seqs(opened.read(["m"], 0).events) == [1]
    assert seqs(now(opened.history.load("m")).events) == [1]
    other.execute("COMMIT")
    other.close()
    file.clock.advance(RETRY_SECONDS)
    assert opened.said[1:] == ["available"]
    assert opened.append("m", b"2") == [2]


def test_nobody_waits_for_another_program_that_reads(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOG_BYTES", 10_000)
    log = file.path.with_name(f"{file.path.name}-wal")
    opened = file.open()
    opened.append("m", b"1")
    other = sqlite3.connect(file.path, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT * FROM events").fetchall()
    began = time.perf_counter()
    for _ in range(5):
        opened.append("m", b"x" * 10_000)
    assert time.perf_counter() - began < database.BUSY_SECONDS
    assert log.stat().st_size > 50_000
    other.close()
    opened.append("m", b"2")
    assert log.stat().st_size == 0


def test_a_file_that_cannot_be_written_any_more_is_told_and_read(file: File) -> None:
    opened = file.open()
    opened.append("m", b"1")
    sql = file.writing
    sql.execute("PRAGMA query_only = 1")
    with pytest.raises(HistoryError, match="cannot be written to"):
        opened.append("m", b"2")
    assert seqs(now(opened.history.load("m")).events) == [1]
    sql.execute("PRAGMA query_only = 0")
    file.clock.advance(RETRY_SECONDS)
    assert opened.append("m", b"2") == [2]


def test_a_file_that_is_damaged_while_it_is_used_is_looked_through_until_it_is_whole(
    file: File,
) -> None:
    opened = file.open(keep={"keep_events": 5})
    for _ in range(200):
        opened.append("m", b"x" * 1000)
    file.close()
    backup = file.path.with_name("backup")
    shutil.copy(file.path, backup)
    opened = file.open(keep={"keep_events": 5})
    sql = file.writing
    sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    _damage(file.path)
    sql.execute("PRAGMA cache_size = 0")
    sql.execute("PRAGMA shrink_memory")
    with pytest.raises(HistoryError, match="damaged"):
        opened.append("m", b"1")
    for _ in range(3):
        file.clock.advance(RETRY_SECONDS)
    assert opened.said == ["Its file is damaged."]
    shutil.copy(backup, file.path)
    file.clock.advance(RETRY_SECONDS)
    assert re.fullmatch("restarted at 200|available", opened.said[1])
    assert opened.said[-1] == "available"
    assert opened.append("m", b"1") == [201]


def test_after_damage_was_seen_the_whole_file_has_to_be_well_not_just_where_it_is_written(
    file: File,
) -> None:
    opened = file.open()
    for _ in range(100):
        opened.append("m", b"x" * 1000)
    sql = file.writing
    sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with file.path.open("r+b") as damaged:
        damaged.seek(4096 * 12)
        damaged.write(b"\xa5" * 4096)
    file.faults.arm(0, code=sqlite3.SQLITE_CORRUPT)
    with pytest.raises(HistoryError, match="damaged"):
        opened.append("m", b"1")
    for _ in range(3):
        file.clock.advance(RETRY_SECONDS)
    assert opened.said == ["Its file is damaged."]


def _damage(path: Path) -> None:
    """Overwrite all but the first page."""
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))


def test_a_file_that_is_moved_away_is_missed_and_taken_back(file: File) -> None:
    opened = file.open()
    opened.append("m", b"1")
    away = file.path.with_name("away.db")
    file.path.rename(away)
    with pytest.raises(HistoryError, match="not in its place"):
        opened.append("m", b"2")
    file.clock.advance(RETRY_SECONDS)
    assert opened.said == ["Its file is not in its place."]
    away.rename(file.path)
    file.clock.advance(RETRY_SECONDS)
    assert opened.said[1:] == ["available"]
    assert opened.append("m", b"2") == [2]


def test_a_quiet_history_misses_its_file_too(file: File) -> None:
    opened = file.open()
    file.path.unlink()
    file.clock.advance(TIDY_SECONDS)
    assert opened.said == ["Its file is not in its place."]


def test_another_file_in_its_place_is_another_record(file: File, tmp_path: Path) -> None:
    other = File(tmp_path / "other.db")
    other.open().append("m", b"o1", b"o2", b"o3")
    theirs = other.opened and other.opened.history.epoch
    other.close()
    opened = file.open()
    ours = opened.history.epoch
    opened.append("m", b"1")
    other.path.rename(file.path)
    with pytest.raises(HistoryError, match="not in its place"):
        opened.append("m", b"2")
    file.clock.advance(RETRY_SECONDS)
    assert opened.said[1:] == ["restarted at 3", "available"]
    assert opened.history.epoch not in (ours, theirs)
    assert [e.payload.data for e in opened.read(["m"], 0).events] == [b"o1", b"o2", b"o3"]
    assert opened.append("m", b"4") == [4]
    file.close()
    assert file.ask("PRAGMA integrity_check") == [("ok",)]


def test_what_another_file_holds_is_given_however_old_this_one_was(
    file: File, tmp_path: Path
) -> None:
    opened = file.open(keep={"keep_seconds": 6})
    opened.append("m", *[b"old"] * 9)
    file.clock.advance(7)
    assert opened.read(["m"], 0).events == []
    other = File(tmp_path / "other.db")
    other.clock.advance(7)
    other.open().append("m", b"o1", b"o2", b"o3")
    other.close()
    other.path.rename(file.path)
    with pytest.raises(HistoryError):
        opened.append("m", b"1")
    file.clock.advance(RETRY_SECONDS)
    assert seqs(opened.read(["m"], 0).events) == [1, 2, 3]
    assert seqs(now(opened.history.load("m")).events) == [1, 2, 3]


def test_an_older_copy_of_itself_is_another_record(file: File) -> None:
    opened = file.open()
    opened.append("m", b"1")
    file.close()
    old = file.path.with_name("old.db")
    shutil.copy(file.path, old)
    opened = file.open()
    epoch = opened.history.epoch
    opened.append("m", b"2")
    old.rename(file.path)
    with pytest.raises(HistoryError):
        opened.append("m", b"3")
    file.clock.advance(RETRY_SECONDS)
    assert opened.said[1:] == ["restarted at 1", "available"]
    assert opened.history.epoch != epoch
    assert opened.append("m", b"other 2") == [2]


def test_a_backup_that_is_put_back_a_second_time_gives_none_of_its_ids_again(file: File) -> None:
    opened = file.open()
    first = opened.history.epoch
    opened.append("m", b"1")
    backup = file.copy("backup.db")
    opened.append("m", b"2")  # whoever was told of it knows 2 of the first epoch
    for _ in range(2):
        backup.with_name("put back.db").write_bytes(backup.read_bytes())
        backup.with_name("put back.db").rename(file.path)
        with pytest.raises(HistoryError, match="not in its place"):
            opened.append("m", b"lost")
        file.clock.advance(RETRY_SECONDS)
        assert opened.append("m", b"other 2") == [2]
        assert opened.history.epoch != first


def test_a_page_of_the_record_before_is_not_given(file: File) -> None:
    reader = Later()
    opened = file.open(reader=reader)
    opened.append("m", b"1")
    asked = opened.history.read(["m"], 0, 100)
    opened.history.epoch = "another"
    reader.go_on()
    with pytest.raises(HistoryError, match="begun anew"):
        now(asked)


def test_what_is_read_of_another_record_before_that_is_told_is_not_given(
    file: File, tmp_path: Path
) -> None:
    other = File(tmp_path / "other.db")
    other.open().append("m", b"o1", b"o2")
    other.close()
    writer = Later()
    opened = file.open(writer=writer)
    opened.start("m", b"1", b"2")
    writer.go_on()
    other.path.rename(file.path)
    file.clock.advance(TIDY_SECONDS)
    writer.go_on()
    assert opened.said == ["Its file is not in its place."]
    file.clock.advance(RETRY_SECONDS)
    job, done = writer.jobs.pop()
    life = job()
    with pytest.raises(HistoryError, match="begun anew"):
        opened.read(["m"], 0)
    done.callback(life)
    assert opened.said[1:] == ["restarted at 2", "available"]
    assert [e.payload.data for e in opened.read(["m"], 0).events] == [b"o1", b"o2"]


def test_what_was_recorded_behind_a_tidying_up_that_failed_is_the_same_record(file: File) -> None:
    """Who tries again may be asked to before that commit is told."""
    writer = Later()
    opened = file.open(writer=writer)
    epoch = opened.history.epoch
    file.clock.advance(TIDY_SECONDS)
    behind = opened.start("m", b"1")
    file.faults.arm(0, code=sqlite3.SQLITE_BUSY)
    writer.go_on()
    file.clock.advance(RETRY_SECONDS)
    assert len(writer.jobs) == 2
    writer.go_on()
    writer.go_on()
    assert seqs(now(behind)) == [1]
    assert opened.said == ["Its file is locked by another program.", "available"]
    assert opened.history.epoch == epoch


def test_documents_in_use_are_kept_though_the_file_is_opened_anew(file: File) -> None:
    """Else the next change would be all that is left of them, as if there had been no other."""
    opened = file.open()
    for n in range(3):
        opened.append("d", b"%d" % n, document=b"whole")
    file.clock.pump([TIDY_SECONDS] * int(UNUSED_SECONDS / TIDY_SECONDS))
    file.faults.arm(0, code=sqlite3.SQLITE_IOERR)
    with pytest.raises(HistoryError):
        opened.append("m", b"x")
    file.faults.mend()
    file.clock.advance(RETRY_SECONDS)
    assert opened.said[1:] == ["available"]
    file.clock.pump([TIDY_SECONDS] * 2)
    kept = now(opened.history.load("d"))
    assert (seqs(kept.events), kept.document) == ([1, 2, 3], Document(b"whole"))


# What is too old.


def test_what_is_too_old_goes_though_nobody_publishes_little_by_little(file: File) -> None:
    opened = file.open(keep={"keep_seconds": 5, "keep_events": 10_000})
    for _ in range(12):
        opened.append("m", *[b"four"] * 100)
    file.clock.advance(TIDY_SECONDS)
    assert file.ask("SELECT count(*) FROM events") == [(700,)]
    page = opened.read(["m"], 0)
    assert (page.events, page.floors) == ([], {"m": 1200}), "nor is it given"
    kept = now(opened.history.load("m"))
    assert (kept.events, kept.floor) == ([], 1200)
    file.clock.pump([0.1, 0.1])
    assert file.ask("SELECT floor, count, size FROM topics") == [(1200, 0, 0)]


def test_what_is_published_takes_the_place_of_what_is_too_old(file: File) -> None:
    opened = file.open(keep={"keep_seconds": 5})
    for _ in range(6):
        opened.append("m", b"1")
    file.clock.advance(6)
    opened.append("m", b"1")
    assert file.ask("SELECT min(seq), max(seq) FROM events") == [(3, 7)], "two for each"


def test_a_topic_that_has_much_too_much_is_trimmed_little_by_little(file: File) -> None:
    opened = file.open(keep={"keep_events": 100_000})
    opened.append("m", *[b"1"] * 2000)
    file.close()
    opened = file.open(keep={"keep_events": 10})
    opened.append("m", b"1")
    assert file.ask("SELECT count FROM topics") == [(1501,)]
    for _ in range(3):
        opened.append("m", b"1")
    assert file.ask("SELECT floor, count, size FROM topics") == [(1994, 10, 10)]
    assert len(opened.read(["m"], 0).events) == 10


def test_a_topic_never_grows_by_more_than_is_kept_however_much_comes_at_once(file: File) -> None:
    opened = file.open(keep={"keep_events": 1000})
    for _ in range(5):
        opened.append("d", *[b"item"] * 1200, document=b"x" * 100_000)
    assert file.ask("SELECT count, size FROM topics") == [(1000, 4000)]


def test_told_events_are_as_they_were_recorded(file: File) -> None:
    opened = file.open()
    opened.append("m", b"1")
    ((told,), _) = opened.told[0]
    (read,) = opened.read(["m"], 0).events
    assert told == read == Event(1, "m", told.payload, file.clock.seconds())

"""
What is in the tables: changes that are written, and what is read of topics.

Functions of a connection, inside of somebody's transaction. What is too old is
not given any more from that moment on, and is removed little by little.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import TypeAlias

import msgspec

from pushd.config import History
from pushd.cursor import Page
from pushd.event import Document, Event, Payload
from pushd.interfaces import Kept
from pushd.topic import MessageTopic

TRIM_EVENTS = 500
"""
How many events are removed at once, of those that are too old or of one topic; or
twice as many as are added, if those are more.
"""

_EVENT = "SELECT seq, at, name, is_json, data FROM events WHERE topic = ? AND seq > ?"
_ROW = """SELECT id, floor, count, size, EXISTS (SELECT 1 FROM documents WHERE topic = id)
FROM topics WHERE key = ?"""
_Said: TypeAlias = tuple[int, float, str | None, int, bytes]


class Change(msgspec.Struct, frozen=True):
    """
    What is to be written of one topic.

    :ivar events: none, if the topic is to be forgotten.
    :ivar document: None for a message topic.
    """

    topic: str
    events: tuple[Event, ...] = ()
    document: Document | None = None


class Row:
    """A topic's row, for the time of a write; see :mod:`pushd.history.schema`."""

    def __init__(self, id: int, floor: int, count: int, size: int, has_document: int) -> None:
        self.id = id
        self.floor = floor
        self.count = count
        self.size = size
        self.has_document = bool(has_document)
        self.document: Document | None = None
        self.added = 0

    def take(self, change: Change) -> None:
        """Count what is added."""
        self.added += len(change.events)
        self.count += len(change.events)
        self.size += sum(len(event.payload.data) for event in change.events)
        self.document = change.document

    def lose(self, seq: int, size: int) -> None:
        """Count what is removed: the oldest event."""
        self.floor = seq
        self.count -= 1
        self.size -= size


def write(sql: sqlite3.Connection, changes: Sequence[Change], keep: History) -> Iterable[int]:
    """
    Write `changes`, whose seqs follow the newest, and remove what need not be kept.

    :returns: the ids of the topics that have new events.
    """
    rows: dict[str, Row] = {}
    events: list[tuple[object, ...]] = []
    head = 0
    for change in changes:
        if not change.events:
            _insert(sql, events)
            rows.pop(change.topic, None)
            forget(sql, _id(sql, change.topic))
            continue
        row = rows.get(change.topic)
        if row is None:
            row = _row(sql, change.topic)
            if row.has_document and change.document is None:
                # What changed a document, under another configuration, is no message.
                forget(sql, row.id)
                row = _row(sql, change.topic)
            rows[change.topic] = row
        row.take(change)
        for event in change.events:
            said = event.payload
            events.append((event.seq, row.id, event.at, said.name, said.is_json, said.data))
        head = change.events[-1].seq
    _insert(sql, events)
    for row in rows.values():
        _finish(sql, row, keep)
    if head:
        sql.execute("UPDATE life SET head = ?", (head,))
    return [row.id for row in rows.values()]


def _insert(sql: sqlite3.Connection, events: list[tuple[object, ...]]) -> None:
    """Write `events`, and empty it."""
    sql.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", events)
    events.clear()


def _id(sql: sqlite3.Connection, topic: str) -> int | None:
    row = sql.execute("SELECT id FROM topics WHERE key = ?", (topic,)).fetchone()
    return None if row is None else int(row[0])


def _row(sql: sqlite3.Connection, topic: str) -> Row:
    row = sql.execute(_ROW, (topic,)).fetchone()
    if row is None:
        sql.execute("INSERT INTO topics (key, floor, count, size) VALUES (?, 0, 0, 0)", (topic,))
        row = sql.execute(_ROW, (topic,)).fetchone()
    return Row(*row)


def forget(sql: sqlite3.Connection, id: int | None) -> None:
    """Remove all that there is of a topic; None is one that is not there."""
    sql.execute("DELETE FROM events WHERE topic = ?", (id,))
    sql.execute("DELETE FROM documents WHERE topic = ?", (id,))
    sql.execute("DELETE FROM topics WHERE id = ?", (id,))


def _finish(sql: sqlite3.Connection, row: Row, keep: History) -> None:
    """Write a topic's row and its document, without what need not be kept."""
    document = row.document
    if document is not None:
        sql.execute(
            "INSERT OR REPLACE INTO documents VALUES (?, ?, ?)",
            (row.id, document.is_json, document.data),
        )
    # Patches that outweigh their document are never asked for.
    size = keep.keep_bytes if document is None else len(document.data)
    if row.count > keep.keep_events or row.size > size:
        _trim(sql, row, keep.keep_events, size)
    sql.execute(
        "UPDATE topics SET floor = ?, count = ?, size = ? WHERE id = ?",
        (row.floor, row.count, row.size, row.id),
    )


def _trim(sql: sqlite3.Connection, row: Row, count: int, size: int) -> None:
    oldest = sql.execute(
        "SELECT seq, length(data) FROM events WHERE topic = ? ORDER BY seq LIMIT ?",
        (row.id, max(TRIM_EVENTS, 2 * row.added)),
    )
    for seq, length in oldest:
        row.lose(seq, length)
        if row.count <= count and row.size <= size:
            break
    oldest.close()
    sql.execute("DELETE FROM events WHERE topic = ? AND seq <= ?", (row.id, row.floor))


def remove_old(sql: sqlite3.Connection, before: float, most: int) -> int:
    """
    Remove events that are too old, the oldest of all topics first.

    :param before: seconds since 1970.
    :param most: how many at once.
    :returns: how many there were.
    """
    oldest = sql.execute(
        "SELECT at, seq, topic, length(data) FROM events ORDER BY seq LIMIT ?", (most,)
    )
    last = removed = 0
    lost: dict[int, tuple[int, int, int]] = {}
    for at, seq, topic, length in oldest:
        if at >= before:
            break
        last = seq
        removed += 1
        count, size, _ = lost.get(topic, (0, 0, 0))
        lost[topic] = count + 1, size + length, seq
    oldest.close()
    if removed:
        sql.execute("DELETE FROM events WHERE seq <= ?", (last,))
        sql.executemany(
            "UPDATE topics SET count = count - ?, size = size - ?, floor = ? WHERE id = ?",
            [(*of_topic, topic) for topic, of_topic in lost.items()],
        )
    return removed


def first_young(sql: sqlite3.Connection, before: float, known: int) -> int:
    """
    The seq of the first event that is not too old, or one behind all.

    :param before: seconds since 1970.
    :param known: what this said before: a file that rested for long has many to pass over.
    """
    young = "SELECT seq FROM events WHERE seq >= ? AND at >= ? ORDER BY seq LIMIT 1"
    row = sql.execute(young, (known, before)).fetchone()
    if row is None:
        row = sql.execute("SELECT coalesce(max(seq), 0) + 1 FROM events").fetchone()
    return int(row[0])


def load(sql: sqlite3.Connection, topic: str, young: int) -> tuple[int | None, Kept]:
    """
    What is held of a topic, of its events those that a log wants; and its id.

    :param young: as :func:`first_young` says.
    """
    id, floor = _floor(sql, topic, young)
    found = sql.execute("SELECT data, is_json FROM documents WHERE topic = ?", (id,)).fetchone()
    document = None if found is None else Document(found[0], bool(found[1]))
    size = MessageTopic.LOG_BYTES if document is None else len(document.data)
    newest = sql.execute(f"{_EVENT} ORDER BY seq DESC", (id, floor))
    events: list[Event] = []
    for event in _events(topic, newest):
        size -= len(event.payload.data)
        if size < 0 or (document is None and len(events) == MessageTopic.LOG_EVENTS):
            floor = event.seq
            break
        events.append(event)
    newest.close()
    events.reverse()
    return id, Kept(events, floor, document)


def page(
    sql: sqlite3.Connection, topics: Sequence[str], after: int, size: int, upto: int, young: int
) -> Page:
    """
    See :meth:`IHistory.read`. Topics with documents have no messages.

    :param upto: the seq of the last event that may be given.
    :param young: as :func:`first_young` says.
    """
    floors: dict[str, int] = {}
    # A cursor that is left open, in some error's traceback, would keep its view of the file.
    with ExitStack() as cursors:
        parts = []
        for topic in topics:
            id, floor = _floor(sql, topic, young)
            if id is not None and _has_document(sql, id):
                id, floor = None, 0
            # What went since this was asked for is not this page's to tell.
            floors[topic] = floor = min(floor, upto)
            found = sql.execute(
                f"{_EVENT} AND seq <= ? ORDER BY seq", (id, max(after, floor), upto)
            )
            parts.append(_events(topic, cursors.enter_context(closing(found))))
        events: list[Event] = []
        for event in heapq.merge(*parts, key=lambda event: event.seq):
            if events and size <= 0:
                return Page(events, events[-1].seq, floors)
            events.append(event)
            size -= len(event.payload.data)
    return Page(events, upto, floors)


def _floor(sql: sqlite3.Connection, topic: str, young: int) -> tuple[int | None, int]:
    """A topic's id, None if it is not there, and the seq of its last event that is gone."""
    row = sql.execute("SELECT id, floor FROM topics WHERE key = ?", (topic,)).fetchone()
    if row is None:
        return None, 0
    id, floor = row
    old = "SELECT coalesce(max(seq), 0) FROM events WHERE topic = ? AND seq < ?"
    return id, max(floor, *sql.execute(old, (id, young)).fetchone())


def _has_document(sql: sqlite3.Connection, id: int) -> bool:
    found = sql.execute("SELECT 1 FROM documents WHERE topic = ?", (id,))
    return found.fetchone() is not None


def _events(topic: str, rows: Iterable[_Said]) -> Iterator[Event]:
    for seq, at, name, is_json, data in rows:
        yield Event(seq, topic, Payload(name, data, bool(is_json)), at)

"""
A history's file: open, closed, damaged, moved, written to and read.

Everything here takes its time, and is done in threads: :meth:`Database.read` in
one, all else in another, one call at a time. A write is whole or not at all.
What goes wrong is a :class:`sqlite3.Error`, an OSError or an error of this
package; the words for them are :mod:`pushd.history.reasons`.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from threading import Lock
from typing import TypeAlias
from urllib.parse import quote

import msgspec

from pushd.config import History
from pushd.cursor import Page
from pushd.history import tables
from pushd.history.place import Place
from pushd.history.schema import ForeignError, migrate
from pushd.history.tables import TRIM_EVENTS, Change
from pushd.interfaces import Kept

Connect: TypeAlias = Callable[..., sqlite3.Connection]

BUSY_SECONDS = 1.0
"""How long to wait for another program that writes to the file."""

UNUSED_DOCUMENTS = 8
"""How many documents are removed at once that nobody asks for any more."""

CHECKED_BYTES = 268_435_456
"""Files up to this size are looked through when they are opened."""

LOG_BYTES = 33_554_432
"""The size of SQLite's write-ahead log at which writers empty it."""

_BROKEN = frozenset(
    {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN}
)
"""Errors after which the file is opened anew, and looked through."""


class Life(msgspec.Struct, frozen=True):
    """
    What a file says of itself.

    :ivar head: the seq of the newest event that it ever held.
    :ivar cut_off: whether its end may be missing, and so another epoch had to begin.
    """

    epoch: str
    head: int
    cut_off: bool = False


class MovedError(Exception):
    """The file is not where it was."""


class NotOpenError(Exception):
    """The file was closed as it did not work, and could not be opened since."""


class DamagedError(Exception):
    """The file was looked through, and is not whole; the message is SQLite's."""


class Database:
    """
    :param boot: what tells this start of the machine from others; "" if that is not known.
    :param connect: :func:`sqlite3.connect`.
    """

    def __init__(
        self, place: Place, keep: History, boot: str, connect: Connect = sqlite3.connect
    ) -> None:
        self.place = place
        self._keep = keep
        self._boot = boot
        self._connect = connect
        self._writing: sqlite3.Connection | None = None
        self._reading: sqlite3.Connection | None = None
        # Held while `_reading` is used: the other thread may close it.
        self._reader = Lock()
        self._suspect = False
        # What is known of the file outside: a failed write may be in it nevertheless.
        self._epoch, self._head = "", 0
        # The ids of documents that are there from before, and nobody has asked for.
        self._unused: set[int] = set()
        self._young = 0
        self._log = f"{place.path}-wal"

    # Opening and closing.

    def open(self) -> Life:
        """
        The file, made if there is none. It is this process's until :meth:`close`.

        Raises TakenError, ForeignError and DamagedError too.
        """
        self.place.hold()
        try:
            self.place.make()
            return self._know(self._open())
        except BaseException:
            self._disconnect()
            self.place.release()
            raise

    def _open(self) -> Life:
        try:
            self.place.remember()
            life = self._prepare(self._connection("rw"))
            with self._reader:
                self._reading = self._connection("ro")
        except BaseException:
            self._disconnect()
            raise
        self._suspect = False
        return life

    def _connection(self, mode: str) -> sqlite3.Connection:
        # Python is not to begin transactions; and threads take turns.
        return self._connect(
            f"file:{quote(str(self.place.path))}?mode={mode}",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )

    def _prepare(self, sql: sqlite3.Connection) -> Life:
        self._writing = sql
        migrate(sql)
        if sql.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
            raise ForeignError("SQLite cannot keep a write-ahead log there")
        if self.place.path.stat().st_size <= CHECKED_BYTES:
            (found,) = sql.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                # The first line names the database, of which there is one.
                raise DamagedError(found.splitlines()[-1])
        # That this life began has to outlive a power loss: it tells of it.
        sql.execute("PRAGMA synchronous = FULL")
        with self._transaction():
            life = self._begin(sql)
        if not self._keep.fsync:
            sql.execute("PRAGMA synchronous = NORMAL")
        self._young = 0
        return life

    def _begin(self, sql: sqlite3.Connection) -> Life:
        """
        A power loss takes back what was not synced, and its seqs would be given twice:
        in another epoch, then.
        """
        row = sql.execute("SELECT epoch, head, boot, in_order, safe FROM life").fetchone()
        epoch, head, boot, in_order, safe = row or ("", 0, "", True, True)
        cut_off = not (in_order or safe or (boot == self._boot != ""))
        if not epoch or cut_off:
            epoch = secrets.token_hex(5)
        sql.execute("DELETE FROM life")
        sql.execute(
            "INSERT INTO life VALUES (?, ?, ?, 0, ?)", (epoch, head, self._boot, self._keep.fsync)
        )
        return Life(epoch, head, cut_off)

    def _know(self, life: Life) -> Life:
        """Take a record for one whose documents nobody has asked for yet."""
        assert self._writing is not None
        found = self._writing.execute("SELECT topic FROM documents")
        self._unused = {topic for (topic,) in found}
        self._epoch, self._head = life.epoch, life.head
        return life

    def close(self) -> None:
        """Raises nothing: what is not in order is found when the file is opened."""
        if self._writing is not None:
            with suppress(sqlite3.Error):
                self._writing.execute("PRAGMA synchronous = FULL")
                self._writing.execute("UPDATE life SET in_order = 1")
        self._disconnect()
        self.place.release()

    def _disconnect(self) -> None:
        with self._reader:
            if self._reading is not None:
                with suppress(sqlite3.Error):
                    self._reading.close()
                self._reading = None
        if self._writing is not None:
            with suppress(sqlite3.Error):
                if not self.place.unchanged:
                    # A new file would be given what is in the log of this one.
                    self._writing.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            with suppress(sqlite3.Error):
                self._writing.close()
            self._writing = None

    # Writing.

    def write(self, changes: Sequence[Change], before: float) -> None:
        """
        Record changes, all or none of them.

        :param before: seconds since 1970; what is older may be removed.
        """
        added = sum(len(change.events) for change in changes)
        with self._transaction() as sql:
            tables.remove_old(sql, before, 2 * added)
            written = tables.write(sql, changes, self._keep)
        self._head += added
        self._unused.difference_update(written)
        self._bound_log()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        sql = self._writing
        if sql is None:
            raise NotOpenError
        if not self.place.unchanged:
            # Writing to a file that is not there any more never fails.
            raise MovedError
        try:
            sql.execute("BEGIN IMMEDIATE")
            yield sql
            sql.execute("COMMIT")
        except BaseException as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _BROKEN:
                self._suspect = True
            _roll_back(sql)
            if sql.in_transaction:
                # It would be loaded.
                self._disconnect()
            raise

    def tidy(self, before: float, *, unused: bool) -> bool:
        """
        Remove some of what need not be kept any more.

        :param before: seconds since 1970; what is older is removed.
        :param unused: whether documents are to go that nobody has asked for so far.
        :returns: whether there is more of it.
        """
        documents = list(islice(self._unused, UNUSED_DOCUMENTS)) if unused else []
        with self._transaction() as sql:
            removed = tables.remove_old(sql, before, TRIM_EVENTS)
            for topic in documents:
                tables.forget(sql, topic)
        self._unused.difference_update(documents)
        return removed == TRIM_EVENTS or len(documents) == UNUSED_DOCUMENTS

    def _bound_log(self) -> None:
        """
        Readers who come one after another would keep the log from being begun anew, and
        SQLite, which looks only now and then whether one is there, would give up.
        For another program that reads nobody waits: it may read for hours.
        """
        sql = self._writing
        with suppress(OSError, sqlite3.Error):
            if sql is not None and os.stat(self._log).st_size > LOG_BYTES:
                sql.execute("PRAGMA busy_timeout = 0")
                try:
                    with self._reader:
                        sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                finally:
                    sql.execute(f"PRAGMA busy_timeout = {1000 * BUSY_SECONDS:.0f}")

    def attempt(self, size: int) -> Life:
        """
        See whether writing works (again). If the file has become another, or may be
        broken, the one that is there now is opened. It gets a new epoch unless it ends with
        what was last written: in its own, seqs may have been given since it was copied.

        :param size: bytes to be written.
        """
        if self._writing is None or self._suspect or not self.place.unchanged:
            self._disconnect()
            self._open()
        for step, values in (
            ("DELETE FROM attempts", ()),
            ("INSERT INTO attempts VALUES (zeroblob(?))", (size,)),
            ("DELETE FROM attempts", ()),
        ):
            with self._transaction() as sql:
                sql.execute(step, values)
        with self._transaction() as sql:
            found = Life(*sql.execute("SELECT epoch, head FROM life").fetchone())
            if (found.epoch, found.head) != (self._epoch, self._head):
                found = Life(secrets.token_hex(5), found.head)
                sql.execute("UPDATE life SET epoch = ?", (found.epoch,))
        return found if found.epoch == self._epoch else self._know(found)

    # Reading.

    def load(self, topic: str, before: float) -> Kept:
        """
        See :meth:`IHistory.load`.

        :param before: seconds since 1970; what is older is gone.
        """
        if self._writing is None:
            raise NotOpenError
        id, kept = tables.load(self._writing, topic, self._first_young(self._writing, before))
        if id is not None:
            self._unused.discard(id)
        return kept

    def read(
        self, topics: Sequence[str], after: int, size: int, upto: int, before: float
    ) -> tuple[str, Page]:
        """
        See :meth:`IHistory.read`; in a thread of its own. A page, and the epoch that it is of.

        :param upto: the seq of the last event that may be given.
        :param before: seconds since 1970; what is older is gone.
        """
        with self._reader:
            sql = self._reading
            if sql is None:
                raise NotOpenError
            _roll_back(sql)
            sql.execute("BEGIN")
            try:
                (epoch,) = sql.execute("SELECT epoch FROM life").fetchone()
                young = self._first_young(sql, before)
                return epoch, tables.page(sql, topics, after, size, upto, young)
            finally:
                _roll_back(sql)

    def _first_young(self, sql: sqlite3.Connection, before: float) -> int:
        young = self._young = tables.first_young(sql, before, self._young)
        return young


def _roll_back(sql: sqlite3.Connection) -> None:
    with suppress(sqlite3.Error):
        # Some errors do it by themselves.
        if sql.in_transaction:
            sql.execute("ROLLBACK")

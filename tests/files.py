"""Histories in files, whose jobs are done at once or when a test says so."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime

from pushd.config import History
from pushd.history.database import Database
from pushd.history.place import Place
from pushd.history.sqlite import SQLiteHistory

T = TypeVar("T")

FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""A folder in memory, for tests that open hundreds of files: disks take their time to be sure."""


class AtOnce:
    """Does a job when it is asked to."""

    def start(self) -> None:
        pass

    def soon(self, call: Callable[[], None]) -> None:
        call()

    def do(self, job: Callable[[], T]) -> Deferred[T]:
        return maybeDeferred(job)

    def stop(self) -> None:
        pass


class Later:
    """Does the next job when :meth:`go_on` is called."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Callable[[], Any], Deferred[Any]]] = []

    def start(self) -> None:
        pass

    def soon(self, call: Callable[[], None]) -> None:
        call()

    def do(self, job: Callable[[], T]) -> Deferred[T]:
        done: Deferred[T] = Deferred()
        self.jobs.append((job, done))
        return done

    def go_on(self) -> None:
        job, done = self.jobs.pop(0)
        maybeDeferred(job).chainDeferred(done)

    def stop(self) -> None:
        assert not self.jobs


def in_file(
    path: Path, keep: History, clock: Any, now: Callable[[], float] | None = None, **options: Any
) -> SQLiteHistory:
    """
    :param options: ``boot`` and ``connect`` of the database, ``writer`` and ``reader``.
    """
    assert IReactorTime.providedBy(clock)
    writer, reader = options.pop("writer", AtOnce()), options.pop("reader", AtOnce())
    database = Database(Place(str(path)), keep, options.pop("boot", "a"), **options)
    return SQLiteHistory(database, keep, clock, now or clock.seconds, writer, reader)


class Faults:
    """
    Lets operations of all connections fail: the one after `left` others, or all from
    there on if `lasting`.

    :ivar only: how the statements begin that may fail; None for all.
    :ivar after: whether what fails was done nevertheless.
    """

    def __init__(self) -> None:
        self.left: int | None = None
        self.lasting = False
        self.after = False
        self.code = sqlite3.SQLITE_FULL
        self.only: str | None = None

    def arm(self, left: int, *, lasting: bool = False, code: int = sqlite3.SQLITE_FULL) -> None:
        self.left, self.lasting, self.code = left, lasting, code

    def mend(self) -> bool:
        """Let nothing fail any more; whether something did."""
        failed = self.left is None or self.left < 0
        self.left = None
        return failed

    def due(self) -> bool:
        if self.left is None:
            return False
        self.left -= 1
        return self.left < 0 and (self.lasting or self.left == -1)

    def connect(self, *arguments: Any, **options: Any) -> sqlite3.Connection:
        faults = self

        class Faulty(sqlite3.Connection):
            def execute(self, *arguments: Any) -> sqlite3.Cursor:
                return faults.run(super().execute, *arguments)

            def executemany(self, *arguments: Any) -> sqlite3.Cursor:
                return faults.run(super().executemany, *arguments)

        if self.due():
            raise self.error()
        return sqlite3.connect(*arguments, **options, factory=Faulty)

    def run(self, call: Callable[..., sqlite3.Cursor], *arguments: Any) -> sqlite3.Cursor:
        if arguments[0].startswith(self.only or "") and self.due():
            if self.after:
                call(*arguments)
            raise self.error()
        return call(*arguments)

    def error(self) -> sqlite3.Error:
        error = sqlite3.OperationalError("made to fail")
        error.sqlite_errorcode = self.code
        error.sqlite_errorname = "SQLITE_MADE"
        return error

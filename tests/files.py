"""Histories in files, whose jobs are done at once or when a test says so."""

from __future__ import annotations

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


class AtOnce:
    """Does a job when it is asked to."""

    def do(self, job: Callable[[], T]) -> Deferred[T]:
        return maybeDeferred(job)

    def stop(self) -> None:
        pass


class Later:
    """Does the next job when :meth:`go_on` is called."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Callable[[], Any], Deferred[Any]]] = []

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

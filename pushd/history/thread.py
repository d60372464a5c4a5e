"""A thread for what would make the reactor wait: one job at a time, in their order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

T = TypeVar("T")


class Jobs(Protocol):
    """Whoever does jobs for a history. Tests do them at once."""

    def start(self) -> None:
        """Begin; before the first job, as what cannot begin then would never answer."""

    def soon(self, call: Callable[[], None]) -> None:
        """Call it when the reactor's turn is over: more may be asked for in it."""

    def do(self, job: Callable[[], T]) -> Deferred[T]:
        """What `job` gives or raises."""

    def stop(self) -> None:
        """There will be none any more."""


class Thread:
    """
    Twisted's own pool, of one.

    :param reactor: where the results are told, in the order of the jobs.
    """

    def __init__(self, reactor: Any, name: str) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(minthreads=1, maxthreads=1, name=name)
        # A process that ends does not wait for a disk that hangs.
        self._pool.threadFactory = partial(threading.Thread, daemon=True)  # type: ignore[assignment]

    def start(self) -> None:
        """See :meth:`Jobs.start`. Raises RuntimeError if there can be no more threads."""
        self._pool.start()

    def soon(self, call: Callable[[], None]) -> None:
        """See :meth:`Jobs.soon`."""
        self._reactor.callLater(0, call)

    def do(self, job: Callable[[], T]) -> Deferred[T]:
        """See :meth:`Jobs.do`."""
        return deferToThreadPool(self._reactor, self._pool, job)

    def stop(self) -> None:
        """Wait for the jobs that were asked for."""
        if self._pool.started:
            self._pool.stop()

"""
What many ask for at the same time is done once.

After a start all clients come at once, and ask for the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

WOKEN_AT_ONCE = 128
"""How many go on in one turn who waited for the same: some 15 ms of letting clients in."""


class Once(Generic[K, V]):
    """Jobs by what they are for, while they are being done."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: dict[K, list[Deferred[V]]] = {}

    def ask(self, key: K, job: Callable[[], Deferred[V]]) -> Deferred[V]:
        """
        Fires with what `job` gives, or with what the one gives that is being done for
        this key. The job is nobody's own: who cancels stops waiting, and no more.
        """
        one: Deferred[V] = Deferred()
        if key in self._waiting:
            self._waiting[key].append(one)
        else:
            self._waiting[key] = [one]
            job().addBoth(lambda result: self._wake(self._waiting.pop(key), result))
        return one

    def _wake(self, waiting: Sequence[Deferred[V]], result: V | Failure) -> None:
        # Not one by another: Python would soon have enough of it.
        for one in waiting[:WOKEN_AT_ONCE]:
            if isinstance(result, Failure):
                one.errback(result)
            else:
                one.callback(result)
        if len(waiting) > WOKEN_AT_ONCE:
            self._clock.callLater(0, self._wake, waiting[WOKEN_AT_ONCE:], result)

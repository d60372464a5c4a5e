"""
The garbage collector, kept from looking at what stays.

Idle clients are hundreds of thousands of objects. Each collection of all of
them holds the reactor up for a tenth of a second and more, and while clients
come, that happens again and again; it takes a third of what letting them in
costs. So what has stayed for a while is frozen: it is looked at no more. It is
freed all the same when the last reference to it goes. Only cycles that were
frozen and then given up have to wait until all is looked at once more: a
request that waited for something just then is one, a stream is none.
"""

from __future__ import annotations

import gc
import sys

from twisted.internet.interfaces import IDelayedCall, IReactorTime

INTERVAL = 0.5
"""Seconds between two looks."""

YOUNG = 20_000
"""
How many objects come, more than go, between two collections of the youngest:
about 1,000 clients, and 2 ms.
"""

MANY = 20_000
"""
How many of those have to stay, for them to be frozen. If fewer did, what was going on
just then would be frozen for too little.
"""

OFTEN = 50
"""How many times something is frozen before all is looked at again."""

MUCH = 100_000
"""How many blocks of memory have to have come for their going to matter: about 1,500 clients."""

LEFT = 4
"""When less than one in so many of them are left, all is looked at again."""


class Garbage:
    """
    Decides what the collector of this process looks at, while it is started.

    :ivar frozen: how many times what stays was frozen.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._call: IDelayedCall | None = None
        self._threshold = gc.get_threshold()
        self._base = self._most = 0
        self._times = 0
        self.frozen = 0

    def start(self) -> None:
        """Begin; nothing is changed if it has begun."""
        if self._call is None:
            self._threshold = gc.get_threshold()
            gc.set_threshold(YOUNG, *self._threshold[1:])
            self._call = self._clock.callLater(INTERVAL, self._first)

    def stop(self) -> None:
        """Leave the collector as it was."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
            gc.set_threshold(*self._threshold)
            gc.unfreeze()

    def _first(self) -> None:
        """What was made at the start stays for good."""
        self._thaw()
        self._base = sys.getallocatedblocks()
        self._again()

    def _again(self) -> None:
        self._call = self._clock.callLater(INTERVAL, self._look)

    def _look(self) -> None:
        young, middle, _ = gc.get_count()
        if self._few_are_left() or self._times >= OFTEN:
            self._thaw()
        elif middle or young >= YOUNG / 2:
            # What is new is looked at for the last time, if it is to be frozen.
            gc.collect(1)
            if len(gc.get_objects(2)) >= MANY:
                self._freeze()
        self._again()

    def _few_are_left(self) -> bool:
        much = self._most - self._base
        return much > MUCH and sys.getallocatedblocks() - self._base < much / LEFT

    def _thaw(self) -> None:
        """Look at all there is once more."""
        gc.unfreeze()
        gc.collect()
        self._most = self._times = 0
        self._freeze()

    def _freeze(self) -> None:
        gc.freeze()
        self._most = max(self._most, sys.getallocatedblocks())
        self._times += 1
        self.frozen += 1

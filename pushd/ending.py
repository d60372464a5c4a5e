"""
The end of a daemon: part by part, whatever becomes of the others, and in time.

Which parts there are, and in which order, is the daemon's to say.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from twisted.internet.defer import CancelledError, Deferred, TimeoutError, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pushd.config import Server
from pushd.feed import Feeds
from pushd.web.site import PushSite

DRAIN_SHARE = 0.7
"""The part of the time for ending that clients may take; the rest is for what comes after."""

REQUEST_SECONDS = 0.5
"""How long a connection may take to send its request, when it was the last to be accepted."""

LEAST_SECONDS = 0.5
"""What each part may take, however little time is left."""


class Ending:
    """
    :param server: says how long it may take, and when clients are to come back.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, server: Server, feeds: Feeds, site: PushSite) -> None:
        self._clock = clock
        self._server = server
        self._feeds = feeds
        self._site = site
        self._hurried: Deferred[None] = Deferred()

    def hurry(self) -> None:
        """Wait for no client any more."""
        if not self._hurried.called:
            self._hurried.callback(None)

    async def run(self, parts: Sequence[tuple[str, Callable[[], Awaitable[None] | None]]]) -> None:
        """End each of `parts`: what it is, and how it is ended."""
        until = self._clock.seconds() + self._server.drain
        for what, end in parts:
            left = max(LEAST_SECONDS, until - self._clock.seconds())
            try:
                await maybeDeferred(end).addTimeout(left, self._clock)
            except Exception:
                self.log.failure("ending: {what} failed", what=what)

    async def drain(self) -> None:
        """Send the readers of streams away, and let what else is asked be answered."""
        seconds = DRAIN_SHARE * self._server.drain
        answered = Deferred.fromCoroutine(self._site.drain(self._clock, REQUEST_SECONDS))
        answered.addTimeout(max(LEAST_SECONDS, seconds), self._clock)
        sent_away = Deferred.fromCoroutine(self._feeds.drain(seconds, self._retry))

        def hurry(_: None) -> None:
            sent_away.cancel()
            answered.cancel()

        self._hurried.addCallback(hurry)
        try:
            with suppress(CancelledError):
                await sent_away
        finally:
            self._feeds.close()
            with suppress(TimeoutError, CancelledError):
                await answered

    def _retry(self) -> float:
        return self._server.retry + self._server.retry_spread * random.random()

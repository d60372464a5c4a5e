"""
The lines of the log that anybody can cause, as often as they like: how many are written.

Of each kind a few are as good as all of them, if it is said how many there were. What
was done for a client is none of these: each has its line.
"""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

MOST = 10
"""How many lines of a kind are written within :data:`SECONDS`."""

SECONDS = 10.0
"""After what time it is said how many more there were, and lines are written again."""


class Throttle:
    """Asked before each line of these whether it is to be written."""

    log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._counts: dict[str, int] = {}
        self._until = 0.0
        self._telling: IDelayedCall | None = None

    def allows(self, kind: str) -> bool:
        """
        Whether a line is to be written; if not, it is counted.

        :param kind: what it says, without what a client can choose: it is written, and
            there must not be more than a few of them.
        """
        now = self._clock.seconds()
        if now >= self._until:
            self.tell()
            self._until = now + SECONDS
        count = self._counts[kind] = self._counts.get(kind, 0) + 1
        if count > MOST and self._telling is None:
            self._telling = self._clock.callLater(self._until - now, self.tell)
        return count <= MOST

    def tell(self) -> None:
        """Say how many were not written, and begin anew. To be called at the end, too."""
        telling, self._telling = self._telling, None
        if telling is not None and telling.active():
            telling.cancel()
        counts, self._counts = self._counts, {}
        for kind, count in counts.items():
            if count > MOST:
                self.log.info(
                    "{more} more within {seconds:g} s: {kind}",
                    more=count - MOST,
                    seconds=SECONDS,
                    kind=kind,
                )

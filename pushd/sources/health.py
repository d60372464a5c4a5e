"""
How a source is doing, as its topic's readers are told it.

A source is ok, or its last answer was of no use (error), or there has been no
good one for too long (stale). Nothing here polls.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from pushd.interfaces import IHub
from pushd.topic import DocumentTopic, State

GRACE = 1.0
"""
Seconds in which a source may answer whom nobody had watched for long. A page
need not hear that its document is old and at once that it no longer is.
"""


class Health:
    """
    The health of one topic's source.

    :param patience: seconds without a good answer after which the topic is stale.
    :param may_say: whether the log is to say that it is in this state now.
    :param before: how the one was doing whose place the source takes, if there was one.
    """

    log = Logger()

    def __init__(
        self,
        topic: DocumentTopic,
        hub: IHub,
        clock: IReactorTime,
        patience: float,
        may_say: Callable[[State], bool] = lambda _: True,
        before: Health | None = None,
    ) -> None:
        self._topic = topic
        self._hub = hub
        self._clock = clock
        self._patience = patience
        self._may_say = may_say
        self._watched = False
        self._good_until: float | None = None if before is None else before._good_until
        self._waiting: IDelayedCall | None = None

    def watched(self) -> None:
        """Somebody listens from now on, and the source is about to be asked."""
        self._watched = True
        self._wait(GRACE)

    def unwatched(self) -> None:
        """Nobody listens any more; a source that is not polled is not ill."""
        self._watched = False
        self._wait()

    def answered(self, fresh: float) -> None:
        """
        There was a good answer.

        :param fresh: seconds for which it said that there will be no other.
        """
        self._good_until = self._clock.seconds() + fresh
        self._tell("ok", None)
        self._wait()

    def failed(self, reason: str) -> None:
        """
        There was none.

        :param reason: a sentence for the readers.
        """
        self._tell("error", reason)

    def heard(self, state: State, reason: str | None) -> None:
        """Another node says how the source does, which asked it until now."""
        if state == "ok":
            self._good_until = self._clock.seconds()
        self._tell(state, reason)
        self._wait()

    def _wait(self, least: float = 0.0) -> None:
        """For the moment at which the last good answer will be too old, and `least` seconds."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        if self._watched and self._good_until is not None:
            wait = max(least, self._good_until + self._patience - self._clock.seconds())
            self._waiting = self._clock.callLater(wait, self._went_stale)

    def _went_stale(self) -> None:
        self._waiting = None
        if self._topic.health[0] == "ok":
            self._tell("stale", f"No good answer for {self._patience:g} s or more.")

    def _tell(self, state: State, reason: str | None) -> None:
        before, _ = self._topic.health
        if state != before and "error" in (state, before) and self._may_say(state):
            self.log.info(
                "source of {topic!r}: {state}. {reason}"
                if reason
                else "source of {topic!r}: {state}",
                topic=self._topic.name,
                state=state,
                reason=reason or "",
            )
        self._hub.tell(self._topic, state, reason)

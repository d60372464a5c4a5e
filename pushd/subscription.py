"""
Subscriptions: one client's reading of a feed.

While it is live it has no state at all: its place is the feed's, and it gets
the shared bytes. When its transport has had enough it is behind: it leaves the
live ones with a cursor of its own, and pulls when it can take more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.cursor import Cursor, Older, Page
from pushd.interfaces import ISubscriber, Why
from pushd.wire import Pieces

if TYPE_CHECKING:
    from pushd.feed import Feed

NOTHING = Pieces(b"", 1, lambda data, before: data)

# Of the module: a class's own would keep each subscription that it logs.
_log = Logger()


class Subscription:
    """
    One client's reading of a feed.

    It is live when `_cursor` is None; otherwise it is behind, and all that it
    remembers is `_cursor` and how much of the bytes that lead there, which it
    shares with others, the transport has taken.
    """

    __slots__ = (
        "_asking",
        "_began",
        "_cursor",
        "_events",
        "_gone",
        "_paused",
        "_sent",
        "_size",
        "_unsent",
        "feed",
        "subscriber",
    )

    def __init__(self, feed: Feed, subscriber: ISubscriber, cursor: Cursor) -> None:
        self.feed = feed
        self.subscriber = subscriber
        self._cursor: Cursor | None = cursor
        self._unsent = NOTHING
        self._sent = 0
        self._paused = False
        self._asking = False
        self._gone = False
        self._began = feed.seconds()
        self._events = self._size = 0

    # What the transport says.

    def pause(self) -> None:
        """It has had enough for now."""
        self._paused = True
        if self._cursor is None:
            self._stand_at(self.feed.place())

    def resume(self) -> None:
        """It can take more."""
        self._paused = False
        if not self._asking:
            self.pull()

    def leave(self, why: Why) -> None:
        """The client has gone."""
        if self._gone:
            return
        if self._cursor is None:
            self._stand_at(self.feed.place())
        self._gone = True
        self._unsent = NOTHING
        self.feed.leave(self, why)
        _log.info(
            "{transport} stream of {topics} to {peer} ended after {duration} s, "
            "{events} events, {size} bytes: {why}",
            transport=self.feed.wire.transport,
            topics=[topic.name for topic in self.feed.topics],
            client=self.subscriber.client,
            peer=self.subscriber.peer,
            duration=round(self.feed.seconds() - self._began, 3),
            events=self._events,
            size=self._size,
            why=why,
        )

    # What the feed says.

    def fall_behind(self, cursor: Cursor) -> None:
        """There is more than a transport should be given at once."""
        self._stand_at(cursor)
        self.feed.wait(self)

    def finish(self) -> None:
        """There is nothing more to read: the topics have ended."""
        self.leave("topic ended")
        self.subscriber.finish()

    def cut(self, why: Why) -> None:
        """There is nothing more to be had here, for now."""
        self.leave(why)
        self.subscriber.cut()

    def send_away(self, retry: float) -> None:
        """
        There will be nothing more to be had here: come back, or go to another node.

        :param retry: seconds to wait before.
        """
        self.feed.settle()
        if self._gone:
            return
        if self._cursor is None:
            # Whoever is in the middle of something would take it for a part of that.
            wire = self.feed.wire
            self.subscriber.write(wire.pack(wire.retry(retry), b""))
        self.cut("drained")

    # Catching up.

    def pull(self, page: Page | None = None) -> None:
        """Give the client what it missed, as much as it takes; then it is live."""
        complete = False
        while not (self._cursor is None or self._paused or self._gone):
            if self._sent < len(self._unsent):
                piece = self._unsent[self._sent]
                self._sent += 1
                self._count(0, len(piece))
                self.subscriber.write(piece)
                continue
            self._unsent, self._sent = NOTHING, 0
            if page is None and self.feed.between:
                # A page is given all the same: it would be asked for again and again.
                self.feed.wait(self)
                return
            if complete:
                self._go_live()
                return
            reply = self.feed.next(self._cursor, page)
            page = None
            if isinstance(reply, Older):
                self._ask(reply)
                return
            self._unsent, step = reply
            # Asked for in this turn: if it is whole, nothing has come in between.
            self._cursor, complete = step.cursor, step.complete
            self._count(sum(frame.payload is not None for frame in step.frames), 0)

    def _count(self, events: int, size: int) -> None:
        self._events += events
        self._size += size
        self.feed.count(1, events, size)

    def _stand_at(self, cursor: Cursor) -> None:
        self.feed.live.discard(self)
        self._cursor = cursor
        # What the feed wrote while this one was live went here too.
        self._events += self.feed.events
        self._size += self.feed.size

    def _go_live(self) -> None:
        """In the turn in which it caught up: nothing can come between."""
        self._cursor = None
        self.feed.welcome(self)
        self._events -= self.feed.events
        self._size -= self.feed.size
        if self.feed.over:
            self.finish()

    def _ask(self, older: Older) -> None:
        self._asking = True
        self.feed.older(older).addCallbacks(self._answered, self._unanswered)

    def _answered(self, page: Page) -> None:
        self._asking = False
        self.pull(page)

    def _unanswered(self, failure: Failure) -> None:
        """The client comes back with its last id, and nothing is lost."""
        self._asking = False
        if not self._gone:
            if self.feed.throttle.allows("history cannot be read; a client is sent away"):
                _log.failure("history cannot be read; a client is sent away", failure)
            self.cut("history failed")

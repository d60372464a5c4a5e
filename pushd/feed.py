"""
Feeds: what is said, to those who listen.

A feed is what all subscribers with the same selection of topics and the same
wire format see, encoded once for all of them. Nothing is ever queued for one
client: see :mod:`pushd.subscription`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from operator import length_hint

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from zope.interface import implementer

from pushd.cursor import STEP_BYTES, Cursor, Older, Page, Step, advance, arrive, documents
from pushd.event import mark
from pushd.interfaces import IHub, IListener, ISubscriber, Why
from pushd.metrics import Metrics
from pushd.subscription import Subscription
from pushd.throttle import Throttle
from pushd.topic import DocumentTopic, Topic
from pushd.wire import Frame, Pieces, WireFormat

BURST_BYTES = 4 * STEP_BYTES
"""What the events of one turn may weigh, to be written as they are to all."""

SHARED_BYTES = 1_048_576
"""How much a feed keeps of the bytes that lead from some place to now; one such at least."""

REPLY_BYTES = 1_000
"""What keeping a reply takes besides."""

AT_ONCE = 1024
"""
To how many clients a feed writes before it lets others have their turn: some 5
to 15 ms of writing.
"""

PULLS_AT_ONCE = 256
"""How many pull before others have their turn; each may be given much."""

LEAVING_PER_SECOND = 1000
"""How many clients are sent away at most, as they will all come to another node, or back."""

LEAVING_STEP = 0.05
"""Seconds between one bunch of those and the next."""


class Feeds:
    """
    All feeds of a hub; each lives as long as somebody reads it.

    :param heartbeat: seconds of quiet after which a feed says that it lives.
    :ivar closed: whether streams end as soon as they have been given what there is.
    """

    def __init__(self, hub: IHub, clock: IReactorTime, heartbeat: float, metrics: Metrics) -> None:
        self.hub = hub
        self.clock = clock
        self.heartbeat = heartbeat
        self.metrics = metrics
        self.closed = False
        self.throttle = Throttle(clock)
        self._feeds: dict[tuple[tuple[str, ...], str], Feed] = {}

    def subscribe(
        self, topics: Sequence[Topic], wire: WireFormat, subscriber: ISubscriber, given: str | None
    ) -> Subscription:
        """
        A reader of `topics`, which gets nothing before its first :meth:`Subscription.pull`.

        :param given: the client's last event id; None if it has none.
        """
        key = (tuple(sorted(topic.key for topic in topics)), wire.name)
        feed = self._feeds.get(key)
        if feed is None:
            feed = self._feeds[key] = Feed(self, topics, wire)
        feed.flush()
        hub = self.hub
        cursor = arrive(feed.topics, given, hub.epoch, hub.head, feed.position)
        return feed.join(subscriber, cursor)

    def __len__(self) -> int:
        """How many subscriptions there are."""
        return sum(len(feed.members) for feed in self._feeds.values())

    async def drain(self, seconds: float, retry: Callable[[], float]) -> None:
        """
        Send all clients away, a few at a time, so that they don't come back all at once.

        :param seconds: how long that may take.
        :param retry: seconds after which one more is to come back.
        """
        leaving = [member for feed in self._feeds.values() for member in feed.members]
        seconds = min(seconds, len(leaving) / LEAVING_PER_SECOND)
        began = self.clock.seconds()
        gone = 0
        while gone < len(leaving):
            # By the clock: a busy reactor comes late to each step.
            part = (self.clock.seconds() - began + LEAVING_STEP) / max(seconds, LEAVING_STEP)
            due = math.ceil(len(leaving) * min(part, 1.0))
            for member in leaving[gone:due]:
                member.send_away(retry())
            gone = due
            await deferLater(self.clock, LEAVING_STEP)

    def close(self) -> None:
        """End all streams; what was offered to them is sent. Those that come later end at once."""
        self.closed = True
        for feed in tuple(self._feeds.values()):
            feed.settle()
            for member in tuple(feed.members):
                member.cut("stopped")
        self.throttle.tell()

    def drop(self, feed: Feed) -> None:
        """The last reader of `feed` has left."""
        del self._feeds[tuple(sorted(topic.key for topic in feed.topics)), feed.wire.name]


@implementer(IListener)
class Feed:
    """
    :ivar topics: in the order in which their snapshots are sent.
    :ivar live: the subscriptions that have everything up to `position`.
    :ivar members: all subscriptions, live and behind.
    :ivar position: the seq up to which the live ones have everything.
    :ivar events: how many a client that was live all the time would have been sent.
    :ivar size: the bytes of those, and of heartbeats.
    :ivar throttle: all feeds', of what goes wrong with single clients.
    """

    def __init__(self, feeds: Feeds, topics: Sequence[Topic], wire: WireFormat) -> None:
        self.topics = tuple(topics)
        self.wire = wire
        self.throttle = feeds.throttle
        self.mark = mark(documents(topics))
        self.live: set[Subscription] = set()
        self.members: set[Subscription] = set()
        self.position = feeds.hub.head
        self.events = 0
        self.size = 0
        self._heard = self._newest_status()
        self._feeds = feeds
        self._pending: list[Frame] = []
        # The end of what all live ones have been sent.
        self._before = b""
        self._writing: tuple[bytes, Iterator[Subscription]] | None = None
        self._waiting: list[Subscription] = []
        self._call: IDelayedCall | None = None
        self._replies: dict[Cursor, tuple[Pieces, Step]] = {}
        self._shared = 0
        self._spoke = feeds.clock.seconds()
        self._beat: IDelayedCall = feeds.clock.callLater(feeds.heartbeat, self._heartbeat)
        for topic in self.topics:
            feeds.hub.listen(topic, self)
            feeds.hub.watch(topic)

    # What the hub tells.

    def offer(self, frame: Frame) -> None:
        """See :meth:`IListener.offer`."""
        self._pending.append(frame)

    def flush(self) -> None:
        """See :meth:`IListener.flush`."""
        if not self._pending or self._writing is not None:
            return
        frames, self._pending = self._pending, []
        data = self._encoded(frames)
        self._replies.clear()
        self._shared = 0
        before = self.place()
        self.position = self._feeds.hub.head
        self._heard = self._newest_status()
        if len(data) > BURST_BYTES:
            # More than a transport should hold: each takes it step by step.
            for member in tuple(self.live):
                member.fall_behind(before)
        else:
            packed = self._pack(data)
            self._feeds.metrics.saved(len(self.live) * self._lighter(frames, len(packed)))
            self._write(packed, len(frames))

    def ended(self) -> None:
        """See :meth:`IListener.ended`."""
        # Its document may be in them, and is not to be sent any more.
        self._replies.clear()
        self._shared = 0
        if self.over:
            self.settle()
            for member in tuple(self.live):
                member.finish()

    def cut(self) -> None:
        """See :meth:`IListener.cut`."""
        self.flush()
        for member in tuple(self.members):
            member.cut("rerouted")

    @property
    def over(self) -> bool:
        """Whether all topics have ended."""
        return all(topic.ended for topic in self.topics)

    def _heartbeat(self) -> None:
        """Speak if it has been quiet; proxies and clients give up on silence."""
        clock = self._feeds.clock
        quiet = clock.seconds() - self._spoke
        if quiet >= self._feeds.heartbeat and self._writing is None:
            self._write(self._pack(self.wire.heartbeat), 0)
            quiet = 0
        # Not less than a moment: seconds are not exact.
        wait = max(0.001, self._feeds.heartbeat - quiet)
        self._beat = clock.callLater(wait, self._heartbeat)

    def _pack(self, data: bytes) -> bytes:
        """What all live ones are to be sent, and nobody else."""
        packed = self.wire.pack(data, self._before)
        if recall := self.wire.recall:
            self._before = (self._before + data[-recall:])[-recall:]
        return packed

    def _write(self, data: bytes, events: int) -> None:
        self._spoke = self._feeds.clock.seconds()
        self.events += events
        self.size += len(data)
        self.count(len(self.live), events, len(data))
        if self._call is not None:
            # Who waits for a turn gets one behind this.
            self._call.cancel()
        self._writing = data, iter(tuple(self.live))
        self._write_some()

    def _write_some(self) -> None:
        """Write to the next of those who are to be written to; the others are for the next turn."""
        self._call = None
        assert self._writing is not None
        data, waiting = self._writing
        members = self.members
        for member in islice(waiting, AT_ONCE):
            # Who has had enough since stands behind this.
            if member in members:
                member.subscriber.write(data)
        if length_hint(waiting):
            self._call = self._feeds.clock.callLater(0, self._write_some)
            return
        self._writing = None
        # Before the next broadcast: where one follows another, they would wait for good.
        self._wake_some()
        self.flush()

    def _wake_some(self) -> None:
        """Let the next of those catch up who wait for their turn."""
        self._call = None
        some, self._waiting = self._waiting[:PULLS_AT_ONCE], self._waiting[PULLS_AT_ONCE:]
        for member in some:
            member.pull()
        if self._waiting and self._call is None:
            self._call = self._feeds.clock.callLater(0, self._wake_some)

    def settle(self) -> None:
        """Write all that there is now, however long that takes."""
        self.flush()
        while self._call is not None:
            self._call.cancel()
            (self._wake_some if self._writing is None else self._write_some)()

    @property
    def between(self) -> bool:
        """Whether there is more than what is being written: nobody can catch up with that now."""
        return self._writing is not None and bool(self._pending)

    def wait(self, subscription: Subscription) -> None:
        """Have `subscription` pull in some later turn, when it can catch up."""
        self._waiting.append(subscription)
        if self._call is None:
            self._call = self._feeds.clock.callLater(0, self._wake_some)

    def count(self, clients: int, events: int, size: int) -> None:
        """Each of `clients` is sent `events`, `size` bytes altogether."""
        self._feeds.metrics.delivered(self.wire.transport, clients, events, size)

    def _lighter(self, frames: Sequence[Frame], size: int) -> int:
        """By how much `frames` weigh less than their documents: what one who polls would get."""
        changed = {frame.topic for frame in frames if frame.id is not None}
        polled = sum(
            len(topic.document.data)
            for topic in self.topics
            if topic.name in changed and isinstance(topic, DocumentTopic) and topic.document
        )
        return max(0, polled - size)

    # What subscriptions ask.

    def join(self, subscriber: ISubscriber, cursor: Cursor) -> Subscription:
        """A new reader, at `cursor`."""
        subscription = Subscription(self, subscriber, cursor)
        self.members.add(subscription)
        self._feeds.metrics.opened(self.wire.transport)
        return subscription

    def welcome(self, subscription: Subscription) -> None:
        """A reader has caught up: one more that gets what all live ones get."""
        self.live.add(subscription)
        # It has not been sent the same as the others.
        self._before = b""

    def leave(self, subscription: Subscription, why: Why) -> None:
        """A reader has gone."""
        self.live.discard(subscription)
        self.members.discard(subscription)
        self._feeds.metrics.closed(self.wire.transport, why)
        if not self.members:
            self._beat.cancel()
            if self._call is not None:
                self._call.cancel()
            for topic in self.topics:
                self._feeds.hub.unlisten(topic, self)
                self._feeds.hub.unwatch(topic)
            self._feeds.drop(self)

    def place(self) -> Cursor:
        """Where the live ones are."""
        return Cursor(self.position, heard=self._heard)

    def _newest_status(self) -> int:
        return max(topic.status.number for topic in self.topics)

    def next(self, cursor: Cursor, page: Page | None) -> tuple[Pieces, Step] | Older:
        """
        What a reader at `cursor` gets next, as bytes too: in pieces, each as much as
        a transport should be given at once. The many who come back to the same
        place at once share them.
        """
        self.flush()
        reply = self._replies.get(cursor) if page is None else None
        if reply is None:
            hub = self._feeds.hub
            step = advance(self.topics, cursor, hub.epoch, hub.head, page)
            if isinstance(step, Older):
                return step
            reply = self._pieces(self._encoded(step.frames)), step
            if page is None:
                self._share(cursor, reply)
        return reply

    def _encoded(self, frames: Sequence[Frame]) -> bytes:
        return b"".join([frame.on(self.wire, self.mark) for frame in frames])

    def _pieces(self, data: bytes) -> Pieces:
        size = STEP_BYTES if len(data) > BURST_BYTES else BURST_BYTES
        return Pieces(data, size, self.wire.pack)

    def _share(self, cursor: Cursor, reply: tuple[Pieces, Step]) -> None:
        """Keep a reply for others at the same place, and not too many."""
        size = reply[0].size + REPLY_BYTES
        self._shared += size
        if self._shared > SHARED_BYTES:
            self._replies.clear()
            self._shared = size
        self._replies[cursor] = reply

    def seconds(self) -> float:
        """The time."""
        return self._feeds.clock.seconds()

    def older(self, older: Older) -> Deferred[Page]:
        """Ask the history for messages that the logs no longer hold."""
        return self._feeds.hub.read(older.topics, older.after, STEP_BYTES)

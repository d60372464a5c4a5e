"""
The hub: where everything that is said comes by, once.

One path for all: publish, history, committed, the topic's log, the listeners.
An event is told only after the history holds it, so that no client ever knows
an id that could be forgotten and given to another event.

The hub knows who watches what. It does not know clients, sources or storage.
While nothing can be recorded, that is the status of all topics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pushd.audience import Audience
from pushd.cursor import Page, frame, status_frame
from pushd.errors import HistoryError
from pushd.event import Document, Draft, Event
from pushd.interfaces import IHistory, IHistoryListener, IHub, IListener, ISource, Kept
from pushd.metrics import Metrics
from pushd.once import Once
from pushd.topic import DocumentTopic, MessageTopic, State, Status, Topic

T = TypeVar("T", bound=Topic)

MESSAGES_LINGER = 10.0
"""Seconds for which the log of a message topic outlives its last reader."""


REACH_SECONDS = 2.0
"""How long one waits who has been told more by another node than is known here."""


@implementer(IHub, IHistoryListener)
class Hub:
    """
    :param history: where events are recorded.
    :param clock: tells intervals and ends turns.
    :param now: seconds since 1970, for the eyes of people.
    :param metrics: count what is recorded, and how long it takes to the clients.
    :ivar trouble: why nothing can be recorded for now; None if all is well.
    :ivar came_back: called when a history that was not available, or not the same, is so again.
    """

    log = Logger()

    def __init__(
        self,
        history: IHistory,
        clock: IReactorTime,
        now: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self.epoch = ""
        self.head = 0
        self.topics: dict[str, Topic] = {}
        self.dropped: dict[str, Topic] = {}
        self._history = history
        self._clock = clock
        self._now = now
        self._metrics = metrics
        self._opening: Once[str, Topic] = Once(clock)
        self._audience = Audience(clock, self._metrics)
        self._watchers: dict[Topic, int] = {}
        self._sources: dict[str, tuple[ISource, float | None]] = {}
        self._lingering: dict[str, IDelayedCall] = {}
        self._changes_of_status = 0
        self._awaited: list[tuple[int, Deferred[None]]] = []
        self.trouble: str | None = None
        self._closed = False
        self.came_back: Callable[[], object] = lambda: None

    # From publishers to listeners.

    async def open(self) -> None:
        """Open the history; nothing works before."""
        self.head = await self._history.open(self)
        self.epoch = self._history.epoch

    def publish(self, draft: Draft) -> Deferred[tuple[Event, ...]]:
        """See :meth:`IHub.publish`."""
        # A client that hangs up cancels what it waits for (klein #546). That
        # must not reach the history: the waiting ends, the recording does not.
        waiting: Deferred[tuple[Event, ...]] = Deferred()
        began = self._clock.seconds() if draft.began is None else draft.began
        self._history.append(draft).addCallbacks(
            self._recorded,
            self._not_recorded,
            callbackArgs=(waiting, began),
            errbackArgs=(waiting,),
        )
        return waiting

    def _recorded(
        self, events: tuple[Event, ...], waiting: Deferred[tuple[Event, ...]], began: float
    ) -> None:
        self._metrics.recorded(len(events))
        self._audience.began(began)
        if not waiting.called:
            waiting.callback(events)

    def _not_recorded(self, failure: Failure, waiting: Deferred[tuple[Event, ...]]) -> None:
        if waiting.called:
            self.log.failure("what nobody waits for any more was not recorded", failure)
        else:
            waiting.errback(failure)

    def tell(self, topic: Topic, state: State, reason: str | None) -> None:
        """See :meth:`IHub.tell`."""
        topic.health = state, reason
        self._tell(topic)

    def _tell(self, topic: Topic) -> None:
        state, reason = topic.health
        if self.trouble is not None:
            state, reason = "error", f"The history is not available: {self.trouble}"
        if (topic.status.state, topic.status.reason) == (state, reason):
            return
        since = topic.status.since if topic.status.state == state else self._now()
        self._changes_of_status += 1
        topic.status = Status(state, since, reason, self._changes_of_status)
        self._audience.offer(topic, status_frame(topic))

    def end(self, topic: Topic) -> None:
        """See :meth:`IHub.end`."""
        topic.ended = True
        for listener in self._audience.of(topic):
            listener.ended()

    def cut(self, topic: Topic) -> None:
        """See :meth:`IHub.cut`."""
        for listener in self._audience.of(topic):
            listener.cut()

    # What the history tells.

    def committed(self, events: Sequence[Event], document: Document | None) -> None:
        """See :meth:`IHistoryListener.committed`."""
        self.head = events[-1].seq
        topic = self.topics.get(events[0].topic)
        # Nobody may read it, or its name may have become something else meanwhile.
        if topic is not None and isinstance(topic, DocumentTopic) is (document is not None):
            _record(topic, events, document)
            for event in events:
                self._audience.offer(topic, frame(event, self.epoch))
        if self._awaited:
            for waiting in [one for seq, one in self._awaited if seq <= self.head]:
                waiting.callback(None)

    async def reach(self, seq: int) -> None:
        """See :meth:`IHub.reach`."""
        if seq <= self.head:
            return
        waiting: Deferred[None] = Deferred()
        awaited = seq, waiting
        self._awaited.append(awaited)
        try:
            with suppress(TimeoutError):
                await waiting.addTimeout(REACH_SECONDS, self._clock)
        finally:
            # Who leaves cancels this.
            self._awaited.remove(awaited)

    def unavailable(self, reason: str) -> None:
        """See :meth:`IHistoryListener.unavailable`."""
        if self.trouble is None:
            self.log.error("the history is not available: {reason}", reason=reason)
        self.trouble = reason
        self._tell_all()

    def available(self) -> None:
        """See :meth:`IHistoryListener.available`."""
        if self.trouble is not None:
            self.log.info("the history is available again")
            self.trouble = None
            self._tell_all()
            self.came_back()

    def _tell_all(self) -> None:
        for topic in (*self.topics.values(), *self.dropped.values()):
            self._tell(topic)

    def restarted(self, head: int) -> None:
        """See :meth:`IHistoryListener.restarted`. All readers come back, and are told so."""
        if self.epoch == self._history.epoch:
            self.log.warn("the history was not heard for too long: all clients come back")
        else:
            self.log.warn("the history was lost: all clients begin anew")
        self.epoch, self.head = self._history.epoch, head
        for topic in tuple(self.topics.values()):
            self._drop(topic)
        for topic in self._audience.topics():
            self.cut(topic)
        self.came_back()

    def listen(self, topic: Topic, listener: IListener) -> None:
        """See :meth:`IHub.listen`."""
        self._audience.add(topic, listener)
        if self.topics.get(topic.key) is not topic:
            self.dropped[topic.key] = topic

    def unlisten(self, topic: Topic, listener: IListener) -> None:
        """See :meth:`IHub.unlisten`."""
        self._audience.remove(topic, listener)
        if not self._audience.of(topic) and self.dropped.get(topic.key) is topic:
            del self.dropped[topic.key]

    # Topics, opened from the history when they are first asked for.

    async def document_topic(
        self, key: str, fill: Callable[[DocumentTopic], ISource], linger: float | None
    ) -> DocumentTopic:
        """See :meth:`IHub.document_topic`."""

        def make(key: str, kept: Kept) -> DocumentTopic:
            topic = _document_topic(key, kept, self.head)
            self._sources[key] = (fill(topic), linger)
            return topic

        return await self._topic(key, DocumentTopic, make)

    async def message_topic(self, key: str) -> MessageTopic:
        """See :meth:`IHub.message_topic`."""
        return await self._topic(key, MessageTopic, _message_topic)

    async def recorded(self, key: str) -> bool:
        """See :meth:`IHub.recorded`."""
        if key in self.topics:
            return True
        kept = await self._history.load(key)
        return kept.document is None and (bool(kept.events) or kept.floor > 0)

    async def _topic(self, key: str, kind: type[T], make: Callable[[str, Kept], T]) -> T:
        topic = self.topics.get(key)
        while not isinstance(topic, kind):
            if topic is not None:
                # The name was something else before.
                self.drop(topic)
            # Whoever waited too may have dropped it by now. That is the caller's to see.
            topic = await self._opening.ask(
                key, lambda: Deferred.fromCoroutine(self._open(key, make))
            )
        return topic

    async def _open(self, key: str, make: Callable[[str, Kept], Topic]) -> Topic:
        topic = make(key, await self._history.load(key))
        self.topics[key] = topic
        self._tell(topic)
        self._linger(topic)
        if key in self.dropped:
            # Who read it in its former life comes back to this one.
            self.cut(self.dropped[key])
        return topic

    def refill(
        self, topic: DocumentTopic, fill: Callable[[ISource], ISource], linger: float | None
    ) -> None:
        """See :meth:`IHub.refill`."""
        before, _ = self._sources[topic.key]
        source = fill(before)
        self._sources[topic.key] = source, linger
        if topic in self._watchers:
            before.unwatched()
            # Who waited for its answer may have been the last to watch.
            if topic in self._watchers:
                source.watched()
        elif topic.key in self._lingering:
            self._lingering.pop(topic.key).cancel()
            self._linger(topic)

    def drop(self, topic: Topic) -> None:
        """See :meth:`IHub.drop`."""
        if self.topics.get(topic.key) is topic:
            is_filled = topic.key in self._sources
            self._drop(topic)
            if is_filled:
                self._history.forget(topic.key).addErrback(self._not_forgotten, topic)

    def _not_forgotten(self, failure: Failure, topic: Topic) -> None:
        failure.trap(HistoryError)
        self.log.warn(
            "{topic!r} is not forgotten: {reason}", topic=topic.name, reason=str(failure.value)
        )

    def _drop(self, topic: Topic) -> None:
        del self.topics[topic.key]
        lingering = self._lingering.pop(topic.key, None)
        if lingering is not None:
            lingering.cancel()
        if self._audience.of(topic):
            self.dropped[topic.key] = topic
        if isinstance(topic, DocumentTopic):
            # Whoever comes to it together with others is not to be sent it.
            topic.document = None
        if topic.key in self._sources:
            source, _ = self._sources.pop(topic.key)
            if topic in self._watchers:
                source.unwatched()
            source.forgotten()

    # Watching.

    def watch(self, topic: Topic) -> None:
        """See :meth:`IHub.watch`."""
        is_there = self.topics.get(topic.key) is topic
        assert is_there or topic.ended, "a topic that was forgotten"
        watchers = self._watchers.get(topic, 0)
        self._watchers[topic] = watchers + 1
        if watchers == 0 and is_there:
            lingering = self._lingering.pop(topic.key, None)
            if lingering is not None:
                lingering.cancel()
            if topic.key in self._sources:
                self._sources[topic.key][0].watched()

    def unwatch(self, topic: Topic) -> None:
        """See :meth:`IHub.unwatch`."""
        self._watchers[topic] -= 1
        if self._watchers[topic] > 0:
            return
        del self._watchers[topic]
        if self.topics.get(topic.key) is not topic:
            return
        if topic.key in self._sources:
            self._sources[topic.key][0].unwatched()
        self._linger(topic)

    def release(self, key: str) -> bool:
        """See :meth:`IHub.release`."""
        lingering = self._lingering.get(key)
        if lingering is None:
            return False
        lingering.cancel()
        self._forget(self.topics[key])
        return True

    def watched(self, topic: Topic) -> bool:
        """See :meth:`IHub.watched`."""
        return topic in self._watchers

    def refresh(self, topic: DocumentTopic) -> Deferred[None]:
        """See :meth:`IHub.refresh`."""
        return Deferred.fromCoroutine(self._refresh(topic))

    async def _refresh(self, topic: DocumentTopic) -> None:
        """Of the source that it has in the end: another may take over meanwhile."""
        asked: ISource | None = None
        while self.topics.get(topic.key) is topic and self._sources[topic.key][0] is not asked:
            asked = self._sources[topic.key][0]
            await asked.refresh()

    def _linger(self, topic: Topic) -> None:
        """
        Keep an unwatched topic for a while: a page that is reloaded comes back
        to its place. Messages are in the history in any case.
        """
        source = self._sources.get(topic.key)
        linger = MESSAGES_LINGER if source is None else source[1]
        if linger is not None and not self._closed:
            self._lingering[topic.key] = self._clock.callLater(linger, self._forget, topic)

    def _forget(self, topic: Topic) -> None:
        del self._lingering[topic.key]
        self.drop(topic)

    # Reading and closing.

    def read(self, topics: Sequence[str], after: int, size: int) -> Deferred[Page]:
        """See :meth:`IHub.read`."""
        return self._history.read(topics, after, size)

    async def close(self) -> None:
        """Stop all sources, and record what is under way."""
        self._closed = True
        # Stopping a source wakes those who wait for it, and they stop watching.
        for topic in tuple(self._watchers):
            if self.topics.get(topic.key) is topic and topic.key in self._sources:
                self._sources[topic.key][0].unwatched()
        for lingering in self._lingering.values():
            lingering.cancel()
        self._lingering.clear()
        await self._history.close()


def _document_topic(key: str, kept: Kept, head: int) -> DocumentTopic:
    if kept.document is None:
        # What an earlier life of this topic said is not known any more.
        return DocumentTopic(key, floor=head)
    topic = DocumentTopic(key, floor=kept.floor)
    topic.restore(kept.events, kept.document)
    return topic


def _message_topic(key: str, kept: Kept) -> MessageTopic:
    if kept.document is not None:
        # It was another kind of topic, under another configuration.
        return MessageTopic(key, floor=0)
    topic = MessageTopic(key, floor=kept.floor)
    topic.record(kept.events)
    return topic


def _record(topic: Topic, events: Sequence[Event], document: Document | None) -> None:
    if isinstance(topic, DocumentTopic):
        assert document is not None
        topic.record(events, document)
    else:
        assert isinstance(topic, MessageTopic)
        topic.record(events)

"""
History in Redis: one record for several nodes, in one order.

Two connections: over one is recorded and read, over the other the log is
followed. What comes by there is told, our own drafts like those of others; so
all nodes tell the same in the same order, and an append is done when its draft
came by. Only storage; what is done in Redis is in :mod:`pushd.history.scripts`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pushd.config import History
from pushd.cursor import Page
from pushd.errors import HistoryError, OvertakenError
from pushd.event import Document, Draft, Event
from pushd.history import scripts
from pushd.history.scripts import LOST, OUTRUN, UNHELD
from pushd.history.stored import event, kind, packed, page
from pushd.history.tail import Entry, Tail
from pushd.interfaces import IHistory, IHistoryListener, Kept
from pushd.redis.client import Redis, UnknownOutcomeError
from pushd.topic import MessageTopic

GRACE_SECONDS = 1.0
"""How long Redis may be away before anybody is told."""

DOCUMENT_SECONDS = 21_600
"""
For how long a document outlives the last node that had it open: one that is
ended properly forgets its documents, one that is killed does not.
"""

LONGEST_SECONDS = 1e11
"""
Three thousand years. A time to live of 300 million is refused by Redis, and that
would be in the middle of an append.
"""

_TICK_SECONDS = 0.5
"""How often is looked whether Redis is away, and what waits for too long."""

_ANEW = "The history was lost, or could not be followed; another one has begun."


class _Loading(msgspec.Struct, eq=False):
    """
    A topic on its way here.

    :ivar asked: when, in seconds of the reactor's clock.
    :ivar told: what the listener was told of it since it was asked for.
    :ivar base: what came, as of the event `head`.
    """

    topic: str
    asked: float
    result: Deferred[Kept]
    told: list[Entry]
    head: int = 0
    base: Kept | None = None


class _Appending(msgspec.Struct, eq=False):
    """
    A draft on its way.

    :ivar asked: when, in seconds of the reactor's clock.
    :ivar at: when, in seconds since 1970.
    :ivar last: the seq of its last event, once Redis has said it.
    """

    draft: Draft
    epoch: str
    asked: float
    at: float
    result: Deferred[tuple[Event, ...]]
    last: int | None = None

    @property
    def events(self) -> tuple[Event, ...]:
        """What became of it."""
        assert self.last is not None
        first = self.last - len(self.draft.payloads) + 1
        return tuple(
            Event(seq, self.draft.topic, payload, self.at)
            for seq, payload in enumerate(self.draft.payloads, start=first)
        )


@implementer(IHistory)
class RedisHistory:
    """
    :param keep: how much is kept of each topic.
    :param redis: to record and to read; started and stopped here, like `tail`.
    :param tail: to follow the log.
    :param now: seconds since 1970.
    :param fenced: whether a document topic may only be written to by the node that holds
        its lease.
    :ivar node: tells this process from others.
    """

    log = Logger()

    def __init__(
        self,
        keep: History,
        redis: Redis,
        tail: Redis,
        clock: IReactorTime,
        now: Callable[[], float],
        *,
        fenced: bool = False,
    ) -> None:
        self.node = secrets.token_hex(8)
        self._keep = keep
        self._redis = redis
        self._tail_redis = tail
        self._clock = clock
        self._now = now
        self._fenced = fenced
        self._tail = Tail(tail, clock, now, self)
        self._listener: IHistoryListener | None = None
        self._opened: Deferred[int] = Deferred()
        self._appending: dict[bytes, _Appending] = {}
        self._passed_over = 0
        self._loading: dict[_Loading, None] = {}
        self._used: set[str] = set()
        self._problem: str | None = None
        self._well = 0.0
        self._kept = 0.0
        self._complaint: str | None = None
        self._ticking = LoopingCall(self._tick)
        self._ticking.clock = clock

    @property
    def epoch(self) -> str:
        """The life of what is in Redis."""
        return self._tail.epoch

    def open(self, listener: IHistoryListener) -> Deferred[int]:
        """See :meth:`IHistory.open`. Waits until Redis is there."""
        self._listener = listener
        self._well = self._kept = self._clock.seconds()
        self._redis.start()
        self._tail_redis.start()
        self._tail.start()
        self._ticking.start(_TICK_SECONDS, now=False)
        return self._opened

    # Recording.

    def append(self, draft: Draft) -> Deferred[tuple[Event, ...]]:
        """See :meth:`IHistory.append`."""
        nonce = secrets.token_hex(8).encode()
        result: Deferred[tuple[Event, ...]] = Deferred()
        asked, at = self._clock.seconds(), self._now()
        self._appending[nonce] = _Appending(draft, self.epoch, asked, at, result)
        keep, document = self._keep, draft.document
        keys = [self._redis.key("state"), self._redis.key("log"), *self._keys(draft.topic)]
        self._redis.run(
            scripts.APPEND,
            [*keys, self._redis.key("lease", draft.topic)],
            self.epoch,
            nonce,
            draft.topic,
            repr(at),
            b"" if document is None else kind(document),
            b"" if document is None else document.data,
            *packed(draft.payloads),
            self.node if self._fenced else "",
            "" if draft.after is None else draft.after,
            keep.keep_events,
            keep.keep_bytes,
            _milliseconds(keep.keep_seconds),
            _milliseconds(DOCUMENT_SECONDS),
            scripts.LOG_EVENTS,
            scripts.LOG_BYTES,
        ).addCallbacks(
            self._answered, self._not_appended, callbackArgs=(nonce,), errbackArgs=(nonce,)
        )
        return result

    def _answered(self, reply: Any, nonce: bytes) -> None:
        """It is done when the tail has told it, or cannot."""
        if reply == LOST:
            self._fail(nonce, HistoryError(_ANEW))
        elif reply == UNHELD:
            self._fail(nonce, OvertakenError("Another node fills this topic."))
        elif reply == OUTRUN:
            self._fail(nonce, OvertakenError("Another node has changed this topic."))
        elif nonce in self._appending:
            self._appending[nonce].last = reply
            self._pass_over(nonce)

    def _pass_over(self, nonce: bytes) -> None:
        """What was recorded behind the back of the tail is done: readers load it."""
        last = self._appending[nonce].last
        if last is not None and last <= self._passed_over:
            appending = self._appending.pop(nonce)
            appending.result.callback(appending.events)

    def _not_appended(self, failure: Failure, nonce: bytes) -> None:
        # If nobody knows what became of it, the tail may yet tell.
        if not failure.check(UnknownOutcomeError):
            self._fail(nonce, failure.value)

    def _fail(self, nonce: bytes, error: BaseException | None) -> None:
        appending = self._appending.pop(nonce, None)
        if appending is not None:
            appending.result.errback(error)

    # Reading.

    def load(self, topic: str) -> Deferred[Kept]:
        """See :meth:`IHistory.load`."""
        loading = _Loading(topic, self._clock.seconds(), Deferred(), [])
        self._loading[loading] = None
        keep = self._keep
        self._redis.run(
            scripts.LOAD,
            [self._redis.key("state"), *self._keys(topic)],
            self.epoch,
            keep.keep_events,
            keep.keep_bytes,
            repr(self._now() - keep.keep_seconds),
            MessageTopic.LOG_EVENTS,
            MessageTopic.LOG_BYTES,
            _milliseconds(DOCUMENT_SECONDS),
        ).addCallback(self._loaded, loading).addErrback(self._not_loaded, loading)
        return loading.result

    def _loaded(self, reply: Any, loading: _Loading) -> None:
        if reply == LOST:
            raise HistoryError(_ANEW)
        if loading not in self._loading:
            return
        loading.head, floor, held, document, found = reply
        loading.base = Kept(
            [event(loading.topic, entry) for entry in reversed(found)],
            floor,
            None if held is None else Document(document, held == b"j"),
        )
        self._settle(loading)

    def _settle(self, loading: _Loading) -> None:
        """Give what has come when it is what the listener was told, no more and no less."""
        if loading.base is None or loading.head > self._tail.seq:
            return
        del self._loading[loading]
        events, document = [*loading.base.events], loading.base.document
        for entry in loading.told:
            if entry.events[0].seq > loading.head:
                events += entry.events
                document = entry.document
        self._used.add(loading.topic)
        loading.result.callback(Kept(events, loading.base.floor, document))

    def _not_loaded(self, failure: Failure, loading: _Loading) -> None:
        if loading in self._loading:
            del self._loading[loading]
            loading.result.errback(failure)

    def read(self, topics: Sequence[str], after: int, size: int) -> Deferred[Page]:
        """See :meth:`IHistory.read`."""
        keep, upto = self._keep, self._tail.seq
        return self._redis.run(
            scripts.READ,
            [self._redis.key("state"), *(key for topic in topics for key in self._keys(topic))],
            self.epoch,
            after,
            upto,
            size,
            keep.keep_events,
            keep.keep_bytes,
            repr(self._now() - keep.keep_seconds),
        ).addCallback(self._given, topics, upto, size)

    def _given(self, reply: Any, topics: Sequence[str], upto: int, size: int) -> Page:
        if reply == LOST:
            raise HistoryError(_ANEW)
        return page(reply, topics, upto, size)

    def forget(self, topic: str) -> Deferred[None]:
        """See :meth:`IHistory.forget`. What another node fills is left alone."""
        self._used.discard(topic)
        keys = [*self._keys(topic), self._redis.key("lease", topic)]
        return self._redis.run(scripts.FORGET, keys, self.node).addCallback(lambda _: None)

    def _keys(self, topic: str) -> list[str]:
        return [self._redis.key("topic", topic), self._redis.key("events", topic)]

    # What the tail sees.

    def told(self, entry: Entry) -> None:
        """See :class:`Follower`."""
        assert self._listener is not None
        topic = entry.events[0].topic
        self._listener.committed(entry.events, entry.document)
        if entry.nonce in self._appending:
            if entry.document is not None:
                self._used.add(topic)
            self._appending.pop(entry.nonce).result.callback(entry.events)
        for loading in tuple(self._loading):
            if loading.topic == topic:
                loading.told.append(entry)
            if loading.head == self._tail.seq:
                self._settle(loading)

    def began(self, head: int) -> None:
        """See :class:`Follower`."""
        assert self._listener is not None
        if not self._opened.called:
            self._opened.callback(head)
            return
        self._give_up(UnknownOutcomeError(_ANEW), spared=self.epoch)
        self._used.clear()
        self._listener.restarted(head)
        self._passed_over = head
        for nonce in tuple(self._appending):
            self._pass_over(nonce)

    def _give_up(self, error: HistoryError, spared: str | None = None) -> None:
        """
        Fail all that waits to be told something by the tail.

        :param spared: the epoch whose appends go on: they will be told, or have been recorded.
        """
        for nonce, appending in tuple(self._appending.items()):
            if appending.epoch != spared:
                self._fail(nonce, error)
        for loading in tuple(self._loading):
            self._not_loaded(Failure(error), loading)

    def looked(self, problem: str | None) -> None:
        """See :class:`Follower`."""
        self._problem = problem
        self._see()

    # Whether anything can be recorded.

    def _see(self) -> None:
        """Tell when it has become impossible for longer than a moment, or possible."""
        assert self._listener is not None
        problem = self._problem
        if problem is None and not self._redis.connected:
            problem = "Redis cannot be reached."
        if problem is None:
            self._well = self._clock.seconds()
            if self._complaint is not None:
                self._complaint = None
                self._listener.available()
        elif problem == self._complaint or not self._opened.called:
            return
        elif self._clock.seconds() - self._well >= GRACE_SECONDS:
            self._complaint = problem
            self._listener.unavailable(problem)

    def _tick(self) -> None:
        self._see()
        now = self._clock.seconds()
        late = now - self._redis.timeout
        for nonce, appending in tuple(self._appending.items()):
            if appending.asked > late:
                break
            if appending.last is not None and self._problem is None:
                # One of the two connections leads to a Redis that is no longer the one.
                self._redis.reconnect()
            self._fail(nonce, UnknownOutcomeError("Redis has not answered in time."))
        for loading in tuple(self._loading):
            if loading.asked <= late:
                # The log cannot be followed to where the topic is.
                self._not_loaded(Failure(HistoryError("Redis has not answered in time.")), loading)
        if now - self._kept >= DOCUMENT_SECONDS / 6:
            self._kept = now
            for topic in self._used:
                self._touch(topic)

    def _touch(self, topic: str) -> None:
        """A document that is in use does not expire."""
        key, _ = self._keys(topic)

        def touched(is_document: int) -> None:
            if not is_document:
                self._used.discard(topic)

        self._redis.run(scripts.TOUCH, [key], _milliseconds(DOCUMENT_SECONDS)).addCallbacks(
            touched, lambda failure: failure.trap(HistoryError)
        )

    def close(self) -> Deferred[None]:
        """See :meth:`IHistory.close`."""
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        try:
            # Each has its deadline.
            await DeferredList([_ended(one.result) for one in self._appending.values()])
            # The tail may have brought us here, and cannot be stopped before it has returned.
            await deferLater(self._clock, 0)
        finally:
            if self._ticking.running:
                self._ticking.stop()
            self._tail.stop()
            self._opened.cancel()
            self._give_up(UnknownOutcomeError("pushd is ending."))
            await self._tail_redis.stop()
            await self._redis.stop()


def _milliseconds(seconds: float) -> int:
    """As Redis takes a time to live, which cannot be for ever."""
    return max(1, int(1000 * min(seconds, LONGEST_SECONDS)))


def _ended(result: Deferred[Any]) -> Deferred[None]:
    """Fires when `result` has, and leaves it as it is."""
    ended: Deferred[None] = Deferred()

    def end(outcome: Any) -> Any:
        ended.callback(None)
        return outcome

    result.addBoth(end)
    return ended

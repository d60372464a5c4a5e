"""A hub with everything around it that has no socket: for tests that turn the clock themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from reader import Page, Parser
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from pushd.config import History
from pushd.event import Document, Draft, Payload
from pushd.feed import Feeds
from pushd.history.memory import MemoryHistory
from pushd.hub import Hub
from pushd.interfaces import IHistory, ISource, ISubscriber
from pushd.metrics import Metrics
from pushd.subscription import Subscription
from pushd.topic import DocumentTopic, Topic
from pushd.wire import SSE, SSE_WITH_TOPIC


def dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


@implementer(ISource)
class Silent:
    """A source that only notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def watched(self) -> None:
        self.told.append("watched")

    def unwatched(self) -> None:
        self.told.append("unwatched")

    def refresh(self) -> Deferred[None]:
        return succeed(None)

    def forgotten(self) -> None:
        self.told.append("forgotten")


class House:
    """
    A hub over a history, its feeds, and a clock.

    :param history: makes one, of what is to be kept, the clock, and the time; in memory
        if none is given.
    """

    def __init__(
        self,
        keep: History | None = None,
        heartbeat: float = 15.0,
        history: Callable[[History, Clock, Callable[[], float]], IHistory] | None = None,
    ) -> None:
        self.clock = Clock()
        make = history or (lambda keep, _, now: MemoryHistory(keep, now))
        self.history: Any = make(keep or History(), self.clock, self.now)
        self.metrics = Metrics()
        self.hub = Hub(self.history, self.clock, self.now, self.metrics)
        now(self.hub.open())
        self.feeds = Feeds(self.hub, self.clock, heartbeat, self.metrics)
        self.source = Silent()

    def now(self) -> float:
        return 1_000_000 + self.clock.seconds()

    def turn(self) -> None:
        """Let the reactor's turn end."""
        self.clock.advance(0)

    def document(self, key: str, linger: float | None = None) -> DocumentTopic:
        return now(self.hub.document_topic(key, lambda _: self.source, linger))

    def messages(self, key: str) -> Topic:
        return now(self.hub.message_topic(key))

    def change(self, key: str, payload: Payload, value: Any) -> None:
        now(self.hub.publish(Draft(key, (payload,), Document(dumps(value)))))

    def snapshot(self, key: str, value: Any) -> None:
        self.change(key, Payload("snapshot", dumps(value)), value)

    def say(self, key: str, value: Any, name: str | None = None) -> None:
        now(self.hub.publish(Draft(key, (Payload(name, dumps(value)),))))

    def client(self, *topics: Topic, envelope: bool | None = None) -> Client:
        return Client(self, topics, len(topics) > 1 if envelope is None else envelope)


@implementer(ISubscriber)
class Client:
    """
    A page and its connection. `room` is how many bytes the connection takes
    before it says that it has enough; None for any number.
    """

    client: str | None = None
    peer = "192.0.2.1"

    def __init__(self, house: House, topics: tuple[Topic, ...], envelope: bool) -> None:
        self.house = house
        self.topics = topics
        self.page = Page(envelope)
        self.parser = Parser()
        self.room: int | None = None
        self.buffer = b""
        self.finished = False
        self.subscription: Subscription | None = None

    def connect(self, given: str | None = None, pull: bool = True) -> Client:
        format = SSE_WITH_TOPIC if self.page.envelope else SSE
        self.finished = False
        self.subscription = self.house.feeds.subscribe(
            self.topics, format, self, given or self.parser.last_id or None
        )
        if pull:
            self.subscription.pull()
        return self

    def write(self, data: bytes) -> None:
        self.buffer += data
        if self.room is not None and len(self.buffer) >= self.room and self.subscription:
            self.subscription.pause()

    def finish(self) -> None:
        self.finished = True
        self.subscription = None

    cut = finish

    def receive(self, size: int | None = None) -> Client:
        """Take what has been sent, or the first `size` bytes of it."""
        data, self.buffer = self.buffer[:size], b"" if size is None else self.buffer[size:]
        for event in self.parser.feed(data):
            self.page.take(event)
        if not self.buffer and self.subscription is not None and self.room is not None:
            self.subscription.resume()
        return self

    def drop(self) -> Client:
        """Lose the connection, and all that is on the way."""
        if self.subscription is not None:
            self.subscription.leave("client left")
        self.subscription = None
        self.buffer = b""
        self.parser.drop()
        return self


def now(awaited: Any) -> Any:
    """The result of what does not have to wait."""
    results: list[Any] = []
    Deferred.fromCoroutine(_await(awaited)).addBoth(results.append)
    assert results, "not yet"
    if hasattr(results[0], "raiseException"):
        results[0].raiseException()
    return results[0]


async def _await(awaited: Any) -> Any:
    return await awaited

"""
Readers: pages that check what they are told, on connections that don't last.

A reader comes back with its last id until the soak is over. What it knows it
keeps, as a page does, whatever becomes of its connections.
"""

from __future__ import annotations

import random
from typing import Any, Literal
from urllib.parse import urlencode

from reader import Parser, Received
from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater

from soak.documents import Built, WrongError, version
from soak.http import Response, connect
from soak.publisher import Publisher, Said
from soak.tally import Tally

reactor: Any = _reactor

Temper = Literal["steady", "dropping", "slow", "vanishing"]
SMALL_ROOM = 4096
VANISHED = 8.0
"""Seconds after which one who does not read any more really goes; pushd cuts it off before."""


def _epoch(id: str) -> str:
    return id.partition("-")[0]


class Messages:
    """
    What a reader knows of a message topic.

    :ivar last: the last that it got; None before it knows where it began.
    """

    def __init__(self, publisher: Publisher, tally: Tally) -> None:
        self.publisher = publisher
        self.last: Said | None = None
        self._tally = tally
        self._began: str | None = None
        self._gap = False

    def begin(self, id: str) -> None:
        """Everything behind this id counts."""
        self._began = self._began or id

    def forget(self) -> None:
        """It is somebody else who comes."""
        self.last, self._began, self._gap = None, None, False

    def _settle(self) -> None:
        """
        Find out where it began. Not before the next message is there: a reader may
        hear of the one before that earlier than its publisher does.
        """
        if self.last is None and self._began is not None:
            self.last = self.publisher.last_before(self._began)

    def gap(self, data: Any) -> None:
        self._gap = True
        self._tally.count("gaps told")
        if _epoch(data["after"]) == _epoch(data["resumed"]):
            self._tally.count("gaps told without a restart")

    def take(self, data: Any) -> None:
        said = Said(data["number"], data["attempt"])
        self._settle()
        if self.last is not None:
            if said <= self.last:
                self._tally.wrong(
                    "messages doubled or out of order",
                    f"{self.publisher.topic}: {said} after {self.last}",
                )
                return
            self._missed(said)
        self.last = said
        self._gap = False
        self._tally.count("messages delivered")

    def _missed(self, said: Said) -> None:
        assert self.last is not None
        missed = self.publisher.between(self.last, said)
        if missed and self._gap:
            self._tally.count("messages told as a gap", len(missed))
        elif missed:
            note = f"{self.publisher.topic}: {len(missed)} from {missed[0]}, before {said}"
            self._tally.wrong("messages lost", note, len(missed))

    def end(self) -> None:
        """Nothing comes any more."""
        self._settle()
        if self.last is not None:
            self._missed(Said(10**9, 0))

    @property
    def complete(self) -> bool:
        """Whether it has the newest. One who never began waits for nothing."""
        self._settle()
        answered = self.publisher.answered
        return self.last is None or not answered or self.last >= answered[-1]


class Stream(Response):
    """
    One connection of a reader.

    :ivar left: whether it was the reader who left, in whatever state it was.
    """

    def __init__(self, reader: Reader, request: bytes) -> None:
        super().__init__(request)
        self.reader = reader
        self._drop_at = random.randrange(20_000) if reader.temper == "dropping" else None
        self._dropped = False
        self.left = False

    def answered(self) -> None:
        if self.status == 200:
            self.reader.connected = True
            self.rest()

    def received(self, data: bytes) -> None:
        if self.status != 200 or self._dropped:
            return
        if self._drop_at is not None and not self.reader.over:
            self._drop_at -= len(data)
            if self._drop_at < 0:
                # In the middle of whatever it is.
                data = data[: len(data) + self._drop_at]
                self._dropped = True
                self.transport.abortConnection()
        self.reader.receive(data)

    def connectionMade(self) -> None:
        super().connectionMade()
        if self.left:
            self.transport.abortConnection()

    def leave(self) -> None:
        self.left = True
        if self.transport is not None:
            self.transport.abortConnection()

    def rest(self) -> None:
        """Some are slow, and some don't read on at all."""
        if self.reader.over or not self.transport.connected:
            return
        if self.reader.temper == "slow":
            self.transport.pauseProducing()
            reactor.callLater(random.random() * 0.7, self._go_on)
        elif self.reader.temper == "vanishing":
            reactor.callLater(random.random() * 3, self._vanish)

    def _go_on(self) -> None:
        if self.transport.connected:
            self.transport.resumeProducing()
            reactor.callLater(0.01, self.rest)

    def _vanish(self) -> None:
        if self.transport.connected and not self.reader.over:
            self.transport.pauseProducing()
            reactor.callLater(VANISHED, self.transport.abortConnection)


class Reader:
    """
    :param topics: which it reads; several in one stream.
    :param publishers: of those that are message topics, by name.
    """

    def __init__(
        self,
        port: int,
        topics: list[str],
        temper: Temper,
        publishers: dict[str, Publisher],
        tally: Tally,
    ) -> None:
        self.topics = topics
        self.temper = temper
        self.over = False
        self.connected = False
        self.built = {topic: Built() for topic in topics if topic not in publishers}
        self.messages = {
            topic: Messages(publishers[topic], tally) for topic in topics if topic in publishers
        }
        self._port = port
        self._tally = tally
        self._parser = Parser()
        self._stream: Stream | None = None

    async def read(self) -> None:
        """Until it is over."""
        while not self.over:
            self._stream = stream = Stream(self, self._request())
            room = SMALL_ROOM if self.temper in ("slow", "vanishing") else None
            if await connect(self._port, stream, self._tally, room):
                await stream.over
            self.connected = False
            self._parser.drop()
            self._tally.count("reconnects")
            self._judge(stream)
            if self.temper == "vanishing":
                # It is somebody else who comes.
                self.forget()
            retry = (self._parser.retry or 500) / 1000
            if not self.over:
                await deferLater(reactor, retry * random.random())

    def forget(self) -> None:
        self._parser = Parser()
        for topic in self.built:
            self.built[topic] = Built()
        for known in self.messages.values():
            known.forget()

    def _judge(self, stream: Stream) -> None:
        """How a connection came to its end."""
        if stream.status is None and not stream.left:
            self._tally.wrong("requests without an answer", f"{self.topics}")
        elif stream.status is None:
            return
        elif stream.status in (204, 404) and self.topics == ["extra"]:
            # There is none just now. When it comes back, it is another.
            self._tally.count("topics that had ended")
            self.forget()
        elif stream.status != 200:
            self._tally.wrong("answers that are wrong", f"{stream.status} for {self.topics}")
        elif stream.whole and self.topics != ["extra"]:
            self._tally.wrong("answers that are wrong", f"the end of {self.topics}")

    def _request(self) -> bytes:
        query = {"hello": "1", "chunked": random.choice("01")}
        if len(self.topics) == 1:
            target = f"/topics/{self.topics[0]}?{urlencode(query)}"
        else:
            pairs = [*(("topic", topic) for topic in self.topics), *query.items()]
            target = f"/events?{urlencode(pairs)}"
        lines = [f"GET {target} HTTP/1.1", "Host: soak", "Accept: text/event-stream"]
        if self._parser.last_id:
            lines.append(f"Last-Event-ID: {self._parser.last_id}")
        return "\r\n".join([*lines, "", ""]).encode()

    def receive(self, data: bytes) -> None:
        for event in self._parser.feed(data):
            self._tally.count("events delivered")
            try:
                self._take(event)
            except WrongError as error:
                self._tally.wrong("wrong documents", f"{self.topics} {event.id}: {error}")
            except Exception as error:
                self._tally.wrong("wrong documents", f"{self.topics} {event!r}: {error!r}"[:300])

    def _take(self, event: Received) -> None:
        if event.name == "hello":
            if event.id:
                for known in self.messages.values():
                    known.begin(event.id)
            return
        topic, data = self.topics[0], event.data
        if len(self.topics) > 1:
            topic, data = event.json["topic"], event.json["data"]
        elif topic != "text" or event.name == "status":
            data = event.json
        if event.name == "status":
            self._tally.count("statuses told")
        elif event.name == "gap":
            self.messages[topic].gap(data)
        elif topic in self.messages:
            self.messages[topic].take(data)
        else:
            self.built[topic].take(topic, event.name, data, event.data)

    # The end.

    def hurry(self) -> None:
        """There is nothing more to come but what is on its way: take it as it comes."""
        was, self.temper = self.temper, "steady"
        if was != "steady" and self._stream is not None:
            self._stream.leave()

    def complete(self, versions: dict[str, int]) -> bool:
        """Whether it has everything there is."""
        return all(known.complete for known in self.messages.values()) and all(
            built.version == versions[topic] for topic, built in self.built.items()
        )

    def end(self, versions: dict[str, int]) -> None:
        """Leave, and say what is missing."""
        self.over = True
        if self._stream is not None:
            self._stream.leave()
        for known in self.messages.values():
            known.end()
        for topic, built in self.built.items():
            if topic == "extra" and built.version is None:
                continue
            if built.version != versions[topic]:
                note = f"{topic}: {built.version} and not {versions[topic]} ({self.topics})"
                self._tally.wrong("documents that are not the newest", note)
                continue
            try:
                version(built.document)
            except WrongError as error:
                self._tally.wrong("wrong documents", f"{topic} in the end: {error}")

"""
Readers: an EventSource each, and a page that keeps all that it is told.

They come back with their last id, whether it was they who left or the process that died.
"""

from __future__ import annotations

import random
from typing import Any, Literal
from urllib.parse import urlencode

from reader import Parser, Received
from soak.documents import Built, WrongError
from soak.http import reach
from soak.reader import SMALL_ROOM, Stream
from soak.tally import Tally
from twisted.internet import reactor as _reactor
from twisted.internet.error import ConnectError
from twisted.internet.task import deferLater

from killed.ledger import Ledger, Message, Seen
from killed.nodes import TOPICS, Nodes
from killed.upstream import Changing

reactor: Any = _reactor

Temper = Literal["steady", "dropping", "slow", "resting"]
LONGEST_REST = 3.0
"""Seconds for which those stay away who rest; more is said meanwhile than a log holds."""


class Reader:
    """
    :param number: which one it is.
    :param topics: which it reads; several in one stream.
    :param since: an id to begin with; None for what is new.
    :ivar seen: what it was told.
    :ivar built: the document, if it reads that.
    :ivar connected: whether it has a stream just now.
    :ivar over: whether it has left for good.
    """

    def __init__(
        self,
        number: int,
        topics: list[str],
        temper: Temper,
        nodes: Nodes,
        ledger: Ledger,
        tally: Tally,
        since: str = "",
    ) -> None:
        self.who = f"reader {number} ({temper}, of {' and '.join(topics)})"
        self.topics = topics
        self.temper = temper
        self.over = False
        self.connected = False
        self._ledger = ledger
        self.seen = Seen(self.who, [topic for topic in topics if topic in TOPICS], ledger)
        self.built = Built() if "board" in topics else None
        self._parser = Parser(last_id=since)
        self._nodes = nodes
        self._tally = tally
        self._stream: Stream | None = None
        self._life: tuple[int, int] | None = None
        self._crossed = False
        self._resumes = False

    @property
    def last_id(self) -> str:
        return self._parser.last_id

    async def read(self) -> None:
        """Until it is over."""
        port: int | None = None
        while not self.over:
            port = self._nodes.port(port)
            await self._connect(port)
            if not self.over:
                await deferLater(reactor, self._pause())

    async def _connect(self, port: int) -> None:
        """One connection, if there is one, to its end."""
        life = self._nodes.life(port)
        self._crossed = self._life not in (None, life)
        self._resumes = bool(self.last_id)
        self._stream = stream = Stream(self, self._request())
        try:
            await reach(port, stream, SMALL_ROOM if self.temper == "slow" else None)
        except ConnectError:
            self._tally.count("readers' connections refused")
            return
        await stream.over
        self.connected = False
        self._parser.drop()
        if stream.status == 200:
            self._life = life
            self._tally.count("streams that ended")
        if stream.status not in (None, 200) or stream.whole:
            note = f"{stream.status} for {self.who}, {'whole' if stream.whole else 'broken off'}"
            self._tally.wrong("answers that are wrong", note)

    def _pause(self) -> float:
        """As a browser; some are away for longer."""
        if self.temper == "resting":
            return random.random() * LONGEST_REST
        return (self._parser.retry or 100) / 1000

    def _request(self) -> bytes:
        if len(self.topics) == 1:
            target = f"/topics/{self.topics[0]}"
        else:
            target = f"/events?{urlencode([('topic', topic) for topic in self.topics])}"
        lines = [f"GET {target} HTTP/1.1", "Host: killed", "Accept: text/event-stream"]
        if self.last_id:
            lines.append(f"Last-Event-ID: {self.last_id}")
        return "\r\n".join([*lines, "", ""]).encode()

    # What it is told.

    def receive(self, data: bytes) -> None:
        for event in self._parser.feed(data):
            try:
                self._take(event)
            except WrongError as error:
                note = f"{self.who} {event.id}: {error}"
                self._tally.wrong("documents that are wrong", note[:300])

    def _take(self, event: Received) -> None:
        topic, data = self.topics[0], event.json
        if len(self.topics) > 1:
            topic, data = data["topic"], data["data"]
        if event.name == "gap":
            self._tally.wrong("gaps told", f"{self.who}: {data} of {topic}")
        elif event.name == "status":
            self._tally.count("statuses told")
        elif topic in TOPICS:
            self.seen.take(Message.of(topic, data), event.id)
        else:
            assert self.built is not None
            self._note_resumption(event.name)
            if event.name == "patch":
                self._ledger.change(data, event.id)
            self.built.take(topic, event.name, data, event.data)

    def _note_resumption(self, name: str) -> None:
        """How the first thing that it is told of the document takes up what was before."""
        if self._crossed and self._resumes:
            self._tally.count(f"resumed in another process, with a {name}")
        self._crossed = False

    # The end.

    def hurry(self) -> None:
        """There is nothing more to come but what is on its way: take it as it comes."""
        was, self.temper = self.temper, "steady"
        if was != "steady" and self._stream is not None:
            self._stream.leave()

    def complete(self, newest: dict[str, int], changing: Changing) -> bool:
        """
        Whether it has everything there is.

        :param newest: the place of the newest message of each topic.
        """
        places = self.seen.places
        due = max((newest.get(topic, -1) for topic in self.seen.topics), default=-1)
        if due >= 0 and (not places or places[-1] < due):
            return False
        return self.built is None or self.built.version == changing.version

    def end(self) -> None:
        self.over = True
        if self._stream is not None:
            self._stream.leave()

    def judge(self, changing: Changing) -> None:
        """Whether the document that it has built is the upstream's."""
        if self.built is not None and self.built.document != changing.document:
            note = f"{self.who} has version {self.built.version}, and not {changing.version}"
            self._tally.wrong("documents that are not the newest", note)

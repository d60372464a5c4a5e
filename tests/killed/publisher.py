"""Whoever publishes, on a connection that is kept: the next number once the last is answered."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from soak.http import Response, reach
from soak.tally import Tally
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.task import deferLater

from killed.ledger import Ledger, Message

reactor: Any = _reactor

PATIENCE = 8.0
"""Seconds for an answer."""

PAUSE = 0.1
"""Seconds after which one who has lost the connection looks for another, at the longest."""


class Line(Response):
    """
    A connection for one request after the other.

    :ivar body: of the response.
    """

    body = b""

    def ask(self, request: bytes) -> Deferred[bool]:
        """Fires when the response is whole, or with False if it will never be."""
        self.body = b""
        self._answered: Deferred[bool] | None = Deferred()
        self.again(request)
        return self._answered

    def received(self, data: bytes) -> None:
        self.body += data

    def ended(self) -> None:
        self._settle(True)

    def connectionLost(self, reason: Any) -> None:  # type: ignore[override]
        super().connectionLost(reason)
        self._settle(False)

    def _settle(self, whole: bool) -> None:
        answered, self._answered = self._answered, None
        if answered is not None:
            answered.callback(whole)


class Publisher:
    """
    :param by: which one it is.
    :param topics: it publishes to any of them.
    :param port: tells where to, before each connection.
    :param every: seconds from one message to the next, if the answers come in time.
    """

    def __init__(
        self,
        by: int,
        topics: Sequence[str],
        port: Callable[[int | None], int],
        every: float,
        ledger: Ledger,
        tally: Tally,
    ) -> None:
        self.over = False
        self._by = by
        self._topics = topics
        self._where = port
        self._every = every
        self._ledger = ledger
        self._tally = tally
        self._number = 0

    async def publish(self) -> None:
        """Until it is over, and the last one is answered."""
        port: int | None = None
        while not self.over:
            port = self._where(port)
            line = Line(b"")
            try:
                await reach(port, line)
            except ConnectError:
                self._tally.count("publishers' connections refused")
            else:
                await self._talk(line)
            await deferLater(reactor, random.random() * PAUSE)

    async def _talk(self, line: Line) -> None:
        """As long as the connection lasts."""
        due = reactor.seconds()
        while not self.over and line.transport.connected:
            self._number += 1
            await self._say(line, Message(random.choice(self._topics), self._by, self._number))
            # What could not be said in time is not made up for.
            now = reactor.seconds()
            due = max(due + self._every, now)
            await deferLater(reactor, due - now)
        line.transport.loseConnection()

    async def _say(self, line: Line, message: Message) -> None:
        self._tally.count("asked")
        impatient = reactor.callLater(PATIENCE, self._give_up, line, message)
        whole = await line.ask(_request(message))
        if impatient.active():
            impatient.cancel()
        if whole and line.status == 201:
            id = json.loads(line.body)["id"]
            self._ledger.acknowledge(message, id, reactor.seconds())
            return
        self._tally.count("not acknowledged")
        if whole and line.status != 503:
            self._tally.wrong("answers that are wrong", f"{line.status} {line.body!r}")

    def _give_up(self, line: Line, message: Message) -> None:
        note = f"{message} was not answered within {PATIENCE} s"
        self._tally.wrong("requests without an answer", note)
        line.transport.abortConnection()


def _request(message: Message) -> bytes:
    body = json.dumps(message.content).encode()
    return (
        b"POST /topics/%b HTTP/1.1\r\nHost: killed\r\nAuthorization: Bearer secret\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    ) % (message.topic.encode(), len(body), body)

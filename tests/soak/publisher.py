"""Whoever publishes: numbers, one after the other, each until it is answered."""

from __future__ import annotations

import bisect
import json
import random
from typing import Any, NamedTuple

from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater

from soak.http import Response, connect
from soak.tally import Tally

reactor: Any = _reactor

PATIENCE = 8.0
"""Seconds for an answer; a restart is in it."""


class Said(NamedTuple):
    """
    A message as it was sent; sent again, it is another.

    :ivar number: consecutive.
    :ivar attempt: the how-manieth of this number.
    """

    number: int
    attempt: int


class Answered(Response):
    body = b""

    def received(self, data: bytes) -> None:
        self.body += data


class Publisher:
    """
    Of one topic.

    :ivar answered: what was, in order.
    :ivar ids: the id that each of them got.
    """

    def __init__(self, topic: str, port: int, pause: float, tally: Tally) -> None:
        self.topic = topic
        self.answered: list[Said] = []
        self.ids: list[str] = []
        self.over = False
        self._port = port
        self._pause = pause
        self._tally = tally

    async def publish(self) -> None:
        number = 0
        while not self.over:
            number += 1
            await self._until_answered(number)
            await deferLater(reactor, self._pause * random.random() * 2)

    async def _until_answered(self, number: int) -> None:
        attempt = 0
        while True:
            attempt += 1
            said = Said(number, attempt)
            answer = await self._ask(said)
            if answer is not None and answer.status == 201:
                self.answered.append(said)
                self.ids.append(json.loads(answer.body)["id"])
                self._tally.count("messages published")
                return
            self._tally.count("messages uncertain")
            await deferLater(reactor, 0.1)

    async def _ask(self, said: Said) -> Answered | None:
        """The answer, if it came whole."""
        padding = "x" * random.choice([0, 0, 10, 1000])
        body = json.dumps({**said._asdict(), "padding": padding}).encode()
        head = (
            f"POST /topics/{self.topic} HTTP/1.1\r\nHost: soak\r\nAuthorization: Bearer secret\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n"
        )
        answer = Answered(head.encode() + body)
        if not await connect(self._port, answer, self._tally):
            return None
        impatient = reactor.callLater(PATIENCE, answer.transport.abortConnection)
        await answer.over
        if impatient.active():
            impatient.cancel()
        if answer.status is None or not answer.whole:
            self._tally.wrong("requests without an answer", f"{self.topic}: {said}")
            return None
        if answer.status not in (201, 503):
            self._tally.wrong("answers that are wrong", f"{answer.status} {answer.body!r}")
        return answer

    def between(self, after: Said, before: Said) -> list[Said]:
        """What was answered between two messages."""
        start = bisect.bisect_right(self.answered, after)
        return self.answered[start : bisect.bisect_left(self.answered, before)]

    def last_before(self, id: str) -> Said:
        """The last that was answered, as far as the reader with this id can know it."""
        epoch, _, seq = id.partition("-")
        place = int(seq.partition(".")[0].rstrip("w"))
        found = Said(0, 0)
        for said, one in zip(self.answered, self.ids, strict=True):
            its_epoch, _, its_seq = one.partition("-")
            if its_epoch == epoch and int(its_seq) > place:
                break
            found = said
        return found

"""
A daemon and an upstream that has everything that upstreams can have, end to end.

What the fetch makes of each is told in :mod:`tests.sources.test_fetch`; here it
is what the readers of a stream see of it, and those of another source.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_twisted
from faults.ailments import (
    AILMENTS,
    JSON,
    MAX_BYTES,
    TIMEOUT,
    Ailment,
    bomb,
    status_ailments,
)
from served import Connection, Served
from twisted.internet import reactor as _reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHostnameResolver, IOpenSSLContextFactory
from twisted.internet.task import deferLater
from upstream import Request, Step, Upstream, answer, close, until
from upstream.certificates import Authority
from zope.interface import implementer

reactor: Any = _reactor

LONGEST_PAUSE = 0.5
"""Seconds; the well source is polled each 0.05 s, by a process that does all of this at once."""

MOST_MEMORY = 64 << 20
"""Bytes that all of those may cost together: some hold an answer of a megabyte, and parse it."""

SETTINGS = f"""
    timeout = {TIMEOUT}
    max_bytes = {MAX_BYTES}
    every = 0.05
    max_backoff = 0.1
"""


def document(version: int, *headers: str) -> bytes:
    return answer(json.dumps({"version": version}).encode(), "200 OK", JSON, *headers)


class Stream:
    """A stream, and what it has heard."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.reasons: list[str | None] = []
        self.times: list[float] = []

    @classmethod
    async def of(cls, served: Served, topic: str) -> Stream:
        return cls(await served.stream(f"/topics/{quote(topic)}"))

    def listen(self) -> None:
        for event in self.connection.events():
            self.times.append(reactor.seconds())
            if event.name == "status":
                assert (event.json["state"] == "ok") == (event.json["reason"] is None)
                self.reasons.append(event.json["reason"])

    @property
    def document(self) -> Any:
        return self.connection.page.documents.get("")

    @property
    def version(self) -> Any:
        return (self.document or {}).get("version")


class Patient:
    """
    One topic's source.

    :ivar ill: whether it is just now.
    :ivar asked: how often it was asked since that changed.
    """

    def __init__(self, name: str, ailment: Ailment) -> None:
        self.name = name
        self.ailment = ailment
        self.ill = False
        self.asked = 0
        self.version = 1

    def script(self, request: Request) -> Any:
        self.asked += 1
        if self.ill:
            return self.ailment.script(request)
        return [document(self.version)]

    def turn(self, *, ill: bool) -> None:
        self.ill, self.asked = ill, 0

    async def goes_through_it(self, served: Served) -> str | None:
        """Fall ill and get well, before the eyes of a reader. What the reader did not get."""
        stream = await Stream.of(served, self.topic)
        await _heard(stream, lambda: stream.version == 1)
        self.turn(ill=True)
        says = self.ailment.says
        if says is None:
            await _heard(stream, lambda: self.asked > 2)
            if stream.reasons:
                return f"told without need: {stream.reasons}"
        elif not await _heard(stream, lambda: stream.reasons):
            return "told nothing"
        elif not re.fullmatch(says, stream.reasons[-1] or ""):
            return f"told {stream.reasons}"
        elif stream.version != 1:
            return f"lost its document for {stream.document}"
        kept = await served.ask(f"/topics/{quote(self.topic)}", accept="application/json")
        if kept.json != stream.document:
            return f"another reader gets {kept.status} {kept.body!r}"
        self.version = 2
        self.turn(ill=False)
        if not await _heard(stream, lambda: stream.version == 2):
            return f"does not get well: {stream.reasons}"
        if says is not None and not await _heard(stream, lambda: stream.reasons[-1] is None):
            return "was not told that all is well"
        return None if stream.connection.open else "the stream ended"

    @property
    def topic(self) -> str:
        # Unprintable ones and slashes cannot be in a topic's name.
        return f"ill/{re.sub('[^a-z0-9.+]', '-', self.name.lower())}"


async def _heard(stream: Stream, condition: Any) -> bool:
    """Whether it came true in time."""

    deadline = reactor.seconds() + 5.0
    while reactor.seconds() < deadline:
        stream.listen()
        if condition():
            return True
        await deferLater(reactor, 0.01)
    return False


class Round:
    """What became of many patients."""

    def __init__(self) -> None:
        self.problems: dict[str, str | None] = {}
        self.longest_pause = 0.0
        self.memory = 0


async def examine(ailments: dict[str, Ailment], at_once: int) -> Round:
    """All `ailments`, some at a time, in one daemon that has another source."""
    for wbits in (15, 31):
        # It takes a second to make one, in which the reactor would stand still.
        bomb(wbits)
    round = Round()
    ticks = itertools.count()
    patients = {p.topic: p for p in (Patient(*item) for item in ailments.items())}
    assert len(patients) == len(ailments)
    async with (
        Upstream(lambda request: patients[request.target[1:].rstrip("x")].script(request)) as ill,
        Upstream(lambda request: [document(next(ticks))]) as well,
        Served(
            f"""
            [sources.ill]
            topic = "ill/{{name}}"
            url = "{ill.url("/ill/{name}")}"
            {SETTINGS}
            [sources.well]
            url = "{well.url("/")}"
            {SETTINGS}
            """
        ) as served,
    ):
        calm = await Stream.of(served, "well")
        await _heard(calm, lambda: calm.version is not None)
        before = _reset_peak()
        left = list(patients.values())
        while left:
            some, left = left[:at_once], left[at_once:]
            going = [(p.name, Deferred.fromCoroutine(p.goes_through_it(served))) for p in some]
            for name, result in going:
                await _heard(calm, lambda result=result: result.called)
                round.problems[name] = await result
        round.memory = _peak() - before
        assert calm.connection.open
        assert calm.reasons == []
        round.longest_pause = max(b - a for a, b in itertools.pairwise(calm.times))
    return round


def _reset_peak() -> int:
    """The memory in use; :func:`_peak` counts from now (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    (line,) = (
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024


@pytest.fixture(scope="module")
def answers() -> Round:
    return pytest_twisted.blockon(Deferred.fromCoroutine(examine(AILMENTS, 12)))


@pytest.fixture(scope="module")
def statuses() -> Round:
    return pytest_twisted.blockon(Deferred.fromCoroutine(examine(status_ailments(), 50)))


@pytest.mark.parametrize("name", AILMENTS)
def test_readers_are_told_keep_their_document_and_get_the_next(answers: Round, name: str) -> None:
    assert answers.problems[name] is None


def test_every_status_is_told_or_is_fine(statuses: Round) -> None:
    wrong = {name: problem for name, problem in statuses.problems.items() if problem is not None}
    assert wrong == {}
    assert len(statuses.problems) > 500


def test_another_source_is_served_meanwhile(answers: Round, statuses: Round) -> None:
    assert answers.longest_pause < LONGEST_PAUSE
    assert statuses.longest_pause < LONGEST_PAUSE


def test_memory_is_bounded_meanwhile(answers: Round, statuses: Round) -> None:
    assert answers.memory < MOST_MEMORY
    assert statuses.memory < MOST_MEMORY

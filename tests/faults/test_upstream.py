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
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
import pytest_twisted
from faults.ailments import (
    AILMENTS,
    JSON,
    MAX_BYTES,
    TIMEOUT,
    TOO_LATE,
    Ailment,
    bomb,
    status_ailments,
)
from faults.tracebacks import none_logged
from served import Connection, Served
from twisted.internet import reactor as _reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IHostnameResolver, IOpenSSLContextFactory
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from upstream import Request, Step, Upstream, answer, close, until
from upstream.certificates import Authority
from zope.interface import implementer

reactor: Any = _reactor

LONGEST_PAUSE = 1.0
"""Seconds; the well source is polled each 0.05 s, by a process that does all of this at once."""

MOST_MEMORY = 64 << 20
"""Bytes that all of those may cost together: some hold an answer of a megabyte, and parse it."""

SETTINGS = f"""
    timeout = {TIMEOUT}
    max_bytes = {MAX_BYTES}
    max_backoff = 0.2
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
        try:
            return await self._seen_by(stream, served)
        finally:
            stream.connection.abort()

    async def _seen_by(self, stream: Stream, served: Served) -> str | None:
        await _heard(stream, lambda: stream.version == 1)
        self.turn(ill=True)
        if self.ailment.says is None:
            await _heard(stream, lambda: self.asked > 2)
        else:
            await _heard(stream, lambda: self._is_told(stream))
        if problem := self._told_wrongly(stream):
            return problem
        kept = await served.ask(f"/topics/{quote(self.topic)}", accept="application/json")
        if kept.json != stream.document:
            return f"another reader gets {kept.status} {kept.body!r}"
        self.version = 2
        self.turn(ill=False)
        if not await _heard(stream, lambda: stream.version == 2):
            return f"does not get well: {stream.reasons}"
        if self.ailment.says and not await _heard(stream, lambda: stream.reasons[-1] is None):
            return "was not told that all is well"
        return None if stream.connection.open else "the stream ended"

    def _is_told(self, stream: Stream) -> bool:
        reason = stream.reasons[-1] if stream.reasons else None
        return reason is not None and re.fullmatch(self.ailment.says or "", reason) is not None

    def _told_wrongly(self, stream: Stream) -> str | None:
        says = self.ailment.says
        if says is None:
            # Its document, and not what was behind it.
            return (
                None if (stream.reasons, stream.version) == ([], -1) else f"told {stream.reasons}"
            )
        # On a machine that is busy, it may have been too late before it was anything else.
        if not self._is_told(stream) or set(stream.reasons[:-1]) - {TOO_LATE}:
            return f"told {stream.reasons}"
        return None if stream.version == 1 else f"lost its document for {stream.document}"

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


def _coroutine(function: Any, *arguments: Any) -> Any:
    return Deferred.fromCoroutine(function(*arguments))


def _topic(request: Request) -> str:
    """Whose source is asked. One of them redirects to ever more behind its name."""
    return unquote(request.target[1:]).rstrip("~")


class Round:
    """What became of many patients."""

    def __init__(self) -> None:
        self.problems: dict[str, str | None] = {}
        self.longest_pause = 0.0
        self.memory = 0
        self.bugs = ""


async def examine(round: Round, ailments: dict[str, Ailment], at_once: int) -> None:
    """All `ailments`, some at a time, in one daemon that has another source."""
    for wbits in (15, 31):
        # It takes a second to make one, in which the reactor would stand still.
        bomb(wbits)
    ticks = itertools.count()
    patients = {p.topic: p for p in (Patient(*item) for item in ailments.items())}
    assert len(patients) == len(ailments)
    async with (
        Upstream(lambda request: patients[_topic(request)].script(request)) as ill,
        Upstream(lambda request: [document(next(ticks))]) as well,
        Served(
            f"""
            [sources.ill]
            topic = "ill/{{name}}"
            url = "{ill.url("/ill/{name}")}"
            every = 0.2
            {SETTINGS}
            [sources.well]
            url = "{well.url("/")}"
            every = 0.05
            {SETTINGS}
            """
        ) as served,
    ):
        calm = await Stream.of(served, "well")
        await _heard(calm, lambda: calm.version is not None)
        before = _reset_peak()
        room = DeferredSemaphore(at_once)
        for patient in patients.values():
            going = room.run(_coroutine, patient.goes_through_it, served)
            going.addCallback(partial(round.problems.__setitem__, patient.name))
        while len(round.problems) < len(patients):
            await _heard(calm, lambda: len(round.problems) == len(patients))
        round.memory = _peak() - before
        assert calm.connection.open
        assert calm.reasons == []
        round.longest_pause = max(b - a for a, b in itertools.pairwise(calm.times))


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


def _examined(ailments: dict[str, Ailment], at_once: int) -> Round:
    round = Round()
    try:
        with none_logged():
            pytest_twisted.blockon(Deferred.fromCoroutine(examine(round, ailments, at_once)))
    except AssertionError as error:
        round.bugs = str(error)
    return round


@pytest.fixture(scope="module")
def answers() -> Round:
    return _examined(AILMENTS, at_once=15)


@pytest.fixture(scope="module")
def statuses() -> Round:
    return _examined(status_ailments(), at_once=50)


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


def test_nothing_is_in_the_log_that_looks_like_a_bug(answers: Round, statuses: Round) -> None:
    assert answers.bugs == ""
    assert statuses.bugs == ""


# Where no answer can say what is wrong.


async def told(stream: Stream, reason: str | None) -> None:
    assert await _heard(stream, lambda: stream.reasons[-1:] == [reason]), stream.reasons


async def gets(stream: Stream, version: int) -> None:
    assert await _heard(stream, lambda: stream.version == version), stream.document


def served(url: str, *lines: str) -> Served:
    return Served("\n".join(["[sources.a]", f'url = "{url}"', "every = 0.1", SETTINGS, *lines]))


async def test_gone_is_for_good() -> None:
    async with Upstream(lambda request: [document(1)]) as upstream, served(upstream.url()) as house:
        stream = await Stream.of(house, "a")
        await gets(stream, 1)
        upstream.script = lambda request: [answer(b"", "410 Gone")]
        await told(stream, "The source answered 410 Gone: nothing more will come.")
        await until(lambda: stream.connection.received.endswith(b"\r\n0\r\n\r\n"))
        upstream.script = lambda request: [document(2)]
        assert (await house.ask("/topics/a")).status == 204


@implementer(IHostnameResolver)
class Names:
    """A resolver that knows what it is told."""

    def __init__(self) -> None:
        self.addresses: list[str] = ["127.0.0.1"]

    def resolveHostName(
        self, receiver: Any, name: str, portNumber: int = 0, *_: Any, **__: Any
    ) -> Any:
        receiver.resolutionBegan(self)
        for address in self.addresses:
            receiver.addressResolved(IPv4Address("TCP", address, portNumber))
        receiver.resolutionComplete()


@pytest.fixture
def names() -> Iterator[Names]:
    names = Names()
    before = reactor.installNameResolver(names)
    yield names
    reactor.installNameResolver(before)


@pytest.mark.parametrize(
    ("addresses", "reason"),
    [
        ([], "The source's host name was not found."),
        (["127.0.0.2"], "The source refused the connection."),
        (["127.255.255.255"], "The source cannot be reached."),
    ],
)
async def test_a_name_that_leads_nowhere_for_a_while(
    names: Names, addresses: list[str], reason: str
) -> None:
    version = 1

    def script(request: Request) -> list[Step]:
        return [document(version, "Connection: close"), close]

    async with Upstream(script) as upstream, served(upstream.url(host="source.example")) as house:
        stream = await Stream.of(house, "a")
        await gets(stream, 1)
        names.addresses = addresses
        await told(stream, reason)
        assert stream.version == 1
        names.addresses, version = ["127.0.0.1"], 2
        await gets(stream, 2)
        await told(stream, None)


@implementer(IOpenSSLContextFactory)
class Certificates:
    """Shows what it has just now."""

    def __init__(self, identity: Any) -> None:
        self.identity = identity

    def getContext(self) -> Any:
        return self.identity.getContext()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("expired", "The source's certificate has expired."),
        ("of another host", "The source's certificate is for another host name."),
        (
            "of another authority",
            "The source's certificate is not from an authority that is trusted here.",
        ),
    ],
)
async def test_a_wrong_certificate_for_a_while(
    authority: Authority, tmp_path: Path, wrong: str, reason: str
) -> None:
    file = tmp_path / "ca.pem"
    file.write_bytes(authority.pem)
    right = authority.issue("127.0.0.1")
    shown = Certificates(right)
    version = 1

    def script(request: Request) -> list[Step]:
        return [document(version, "Connection: close"), close]

    async with (
        Upstream(script, tls=shown) as upstream,
        served(upstream.url(), f'ca_file = "{file}"') as house,
    ):
        stream = await Stream.of(house, "a")
        await gets(stream, 1)
        shown.identity = {
            "expired": authority.issue("127.0.0.1", expired=True),
            "of another host": authority.issue("source.example"),
            "of another authority": Authority("Another").issue("127.0.0.1"),
        }[wrong]
        await told(stream, reason)
        assert stream.version == 1
        shown.identity, version = right, 2
        await gets(stream, 2)
        await told(stream, None)


class Greeting(Protocol):
    """What mail servers do: they speak first."""

    def connectionMade(self) -> None:
        self.transport.write(b"220 mail.example ESMTP\r\n")  # type: ignore[union-attr]


async def test_no_tls_where_tls_is_expected() -> None:
    port = reactor.listenTCP(0, Factory.forProtocol(Greeting), interface="127.0.0.1")
    async with served(f"https://127.0.0.1:{port.getHost().port}/") as house:
        stream = await Stream.of(house, "a")
        await told(stream, "The source does not speak TLS, or not as pushd does.")
        assert stream.document is None
    await port.stopListening()

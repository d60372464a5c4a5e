"""A whole daemon on a loopback port of this process, and clients that speak raw HTTP to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace
from reader import Page, Parser, Received
from twisted.internet import reactor as _reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from upstream import until

from pushd import config
from pushd.service import Daemon

reactor: Any = _reactor


def settings(text: str) -> config.Config:
    """A configuration whose history is in memory, if it does not say otherwise."""
    parsed = config.parse(text, {})
    if "backend" in text:
        return parsed
    return replace(parsed, history=replace(parsed.history, backend="memory"))


class Served:
    """``async with Served(text) as served``: a daemon with this configuration."""

    def __init__(self, text: str = "", listen: str = "tcp:0:interface=127.0.0.1") -> None:
        self.daemon = Daemon(reactor, settings(text), listen)
        self.connections: list[Connection] = []

    async def __aenter__(self) -> Served:
        self.daemon.privilegedStartService()
        self.daemon.startService()
        await self.daemon._opened
        self.port = self.daemon._listener.address.port  # type: ignore[attr-defined]
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self.connections:
            connection.abort()
        await self.daemon.stopService()
        await until(lambda: not any(connection.open for connection in self.connections))

    async def connect(self) -> Connection:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port)
        connection = await connectProtocol(endpoint, Connection())
        self.connections.append(connection)
        return connection

    async def send(
        self,
        target: str,
        method: str = "GET",
        body: bytes = b"",
        version: str = "1.1",
        **headers: str,
    ) -> Connection:
        """Send a request; header names are written with underscores."""
        connection = await self.connect()
        connection.ask(target, method, body, version, **headers)
        return connection

    async def ask(
        self, target: str, method: str = "GET", body: bytes = b"", **headers: str
    ) -> Answer:
        """The whole answer to a request that has an end."""
        connection = await self.send(target, method, body, connection="close", **headers)
        await until(lambda: not connection.open)
        return connection.answer

    async def stream(self, target: str, **headers: str) -> Connection:
        """An event stream, once its headers are there."""
        connection = await self.send(target, **headers)
        await until(lambda: b"\r\n\r\n" in connection.received)
        assert connection.answer.status == 200, connection.received
        return connection

    async def publish(
        self, topic: str, body: bytes, token: str = "secret", **headers: str
    ) -> Answer:
        headers = {"content_type": "application/json", **headers}
        return await self.ask(
            f"/topics/{topic}", "POST", body, authorization=f"Bearer {token}", **headers
        )


class Answer:
    """What came back, as far as it has come."""

    def __init__(self, received: bytes) -> None:
        head, _, rest = received.partition(b"\r\n\r\n")
        self.line, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(self.line.split(" ")[1])
        self.raw_body = rest
        self.headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            name = name.lower()
            self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value

    @property
    def body(self) -> bytes:
        chunked = self.headers.get("transfer-encoding") == "chunked"
        return _dechunked(self.raw_body)[0] if chunked else self.raw_body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Connection(Protocol):
    """A client's connection: what it received, and what a page makes of it."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.open = True
        self.page = Page()
        self.parser = Parser()
        self._taken = 0
        self._chunked = False

    def ask(
        self,
        target: str,
        method: str = "GET",
        body: bytes = b"",
        version: str = "1.1",
        **headers: str,
    ) -> None:
        lines = [f"{method} {target} HTTP/{version}", "Host: test"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body and "transfer_encoding" not in headers:
            lines.append(f"Content-Length: {len(body)}")
        self.transport.write("\r\n".join([*lines, "", ""]).encode("utf-8") + body)  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, _: object = None) -> None:
        self.open = False

    def abort(self) -> None:
        self.transport.abortConnection()  # type: ignore[union-attr]

    @property
    def answer(self) -> Answer:
        return Answer(bytes(self.received))

    @property
    def body(self) -> bytes:
        return self.answer.body

    def events(self) -> list[Received]:
        """The events that have come since the last call; the page takes them too."""
        events = self.parser.feed(self._news())
        for event in events:
            self.page.take(event)
        return events

    def _news(self) -> bytes:
        """What has come of the body since the last call."""
        if not self._taken:
            end = self.received.find(b"\r\n\r\n")
            if end < 0:
                return b""
            self._taken = end + 4
            self._chunked = b"transfer-encoding: chunked" in self.received[:end].lower()
        news = bytes(self.received[self._taken :])
        if not self._chunked:
            self._taken = len(self.received)
            return news
        body, used = _dechunked(news)
        self._taken += used
        return body

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for events until what the page knows is as it has to be."""
        await until(lambda: (self.events() and False) or condition())


def _dechunked(data: bytes) -> tuple[bytes, int]:
    """The whole chunks in `data` (RFC 9112, section 7.1), and how many bytes they took."""
    pieces = []
    at = 0
    while (end := data.find(b"\r\n", at)) >= 0:
        length = int(data[at:end], 16)
        if length == 0 or len(data) < end + 2 + length + 2:
            break
        pieces.append(data[end + 2 : end + 2 + length])
        at = end + 2 + length + 2
    return b"".join(pieces), at

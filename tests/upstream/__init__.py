"""
An upstream that does as its script says: raw bytes over real loopback sockets.

A script is a function: a request comes in, steps go out. A step is

- bytes: sent, with the client's back-pressure;
- a number: seconds to wait;
- a Deferred: waited for;
- a function of the transport: called. :func:`close` and :func:`reset` are such.

The steps may be a generator, without end if need be; it stops when the client
leaves. Past the last step the connection stays open for the next request::

    def script(request):
        yield answer(b"[1, 2]")
        yield 0.05
        yield reset

    async with Upstream(script) as upstream:
        ... upstream.url("/stocks") ... upstream.requests[0].headers("accept") ...

No HTTP is checked here, and nothing of pushd is imported.
"""

# Twisted has not all its types.
# mypy: allow-untyped-calls

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint, wrapServerTLS
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

reactor: Any = _reactor


class Request(msgspec.Struct, frozen=True):
    """
    What came in.

    :ivar raw: up to and including the empty line.
    :ivar connection: the one it came over.
    """

    raw: bytes
    connection: Connection

    @property
    def line(self) -> str:
        """``GET /path HTTP/1.1``, as sent."""
        return self.raw.split(b"\r\n", 1)[0].decode("latin-1")

    @property
    def target(self) -> str:
        """Path and query, as sent."""
        return self.line.split(" ")[1]

    def headers(self, name: str) -> list[str]:
        """The values of all lines with this name, in order."""
        lines = [line.partition(b":") for line in self.raw.split(b"\r\n")[1:]]
        wanted = name.lower().encode("latin-1")
        return [value.strip().decode() for key, _, value in lines if key.lower() == wanted]


Step = bytes | float | Deferred[Any] | Callable[[Any], object]
Script = Callable[[Request], Iterable[Step]]


def close(transport: Any) -> None:
    """A step: say goodbye (FIN; over TLS close_notify first) when all is sent."""
    transport.unregisterProducer()
    transport.loseConnection()


def reset(transport: Any) -> None:
    """A step: drop the connection (RST)."""
    transport.abortConnection()


def answer(body: bytes = b"", status: str = "200 OK", *headers: str) -> bytes:
    """A whole response with its Content-Length, unless `headers` frame it otherwise."""
    lines = [f"HTTP/1.1 {status}", *headers]
    if not any(line.lower().startswith(("content-length", "transfer-")) for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunk(data: bytes) -> bytes:
    """A piece of a chunked body; that of b"" ends it (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def zeros(size: int, wbits: int = 31) -> bytes:
    """`size` zero bytes, compressed a thousandfold: a bomb."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, wbits)
    piece = bytes(1 << 20)
    whole = [deflate.compress(piece) for _ in range(size >> 20)]
    whole.append(deflate.compress(piece[: size % (1 << 20)]))
    return b"".join(whole) + deflate.flush()


class Upstream:
    """
    Listens on a free loopback port while its context lasts.

    :param script: may be replaced at any time.
    :param tls: an SSL context factory; see :mod:`upstream.certificates`.
    :param interface: ``127.0.0.1`` or ``::1``.
    :ivar requests: all that came, in order.
    :ivar connections: all that there ever were, in order.
    """

    def __init__(self, script: Script, *, tls: Any = None, interface: str = "127.0.0.1") -> None:
        self.script = script
        self.requests: list[Request] = []
        self.connections: list[Connection] = []
        self._interface = interface
        kind = TCP6ServerEndpoint if ":" in interface else TCP4ServerEndpoint
        self._endpoint: Any = kind(reactor, 0, interface=interface)
        self._scheme = "https" if tls else "http"
        if tls:
            self._endpoint = wrapServerTLS(tls, self._endpoint, reactor)

    async def __aenter__(self) -> Upstream:
        self._listening = await self._endpoint.listen(_Connections(self))
        self.port: int = self._listening.getHost().port
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._listening.stopListening()
        for connection in self.open:
            connection.transport.abortConnection()
        await until(lambda: not self.open)

    def url(self, rest: str = "/", host: str | None = None) -> str:
        """Where it is reached, maybe by another name."""
        literal = f"[{self._interface}]" if ":" in self._interface else self._interface
        return f"{self._scheme}://{host or literal}:{self.port}{rest}"

    @property
    def open(self) -> list[Connection]:
        """The connections that neither side has closed, as far as can be seen from here."""
        return [connection for connection in self.connections if connection.lost is None]


@implementer(IPushProducer)
class Connection(Protocol):
    """
    One client.

    :ivar lost: why the connection ended; None while it lasts.
    :ivar sent: how many bytes the script has sent so far.
    """

    transport: Any

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.lost: Failure | None = None
        self.sent = 0
        self._received = b""
        self._running: set[Deferred[None]] = set()
        self._resumed: Deferred[None] | None = None

    @property
    def was_reset(self) -> bool:
        """Whether the client dropped it (RST) rather than closed it (FIN)."""
        return self.lost is not None and not self.lost.check(ConnectionDone)

    def connectionMade(self) -> None:
        self.upstream.connections.append(self)
        self.transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            request = Request(head + b"\r\n\r\n", self)
            self.upstream.requests.append(request)
            running = Deferred.fromCoroutine(self._run(self.upstream.script(request)))
            self._running.add(running)
            running.addBoth(self._ran, running)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.lost = reason
        for running in list(self._running):
            running.cancel()

    def _ran(self, result: Failure | None, running: Deferred[None]) -> None:
        self._running.discard(running)
        if result is not None:
            result.trap(CancelledError)

    async def _run(self, steps: Iterable[Step]) -> None:
        for step in steps:
            if isinstance(step, bytes):
                self.sent += len(step)
                self.transport.write(step)
                if self._resumed is not None:
                    await self._resumed
            elif isinstance(step, Deferred):
                await step
            elif isinstance(step, int | float):
                await deferLater(reactor, step)
            else:
                step(self.transport)

    def pauseProducing(self) -> None:
        if self._resumed is None:
            self._resumed = Deferred()

    def resumeProducing(self) -> None:
        resumed, self._resumed = self._resumed, None
        if resumed is not None and not resumed.called:
            resumed.callback(None)

    def stopProducing(self) -> None:
        """Told besides connectionLost()."""


class _Connections(Factory):
    noisy = False

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def buildProtocol(self, _: object) -> Connection:
        return Connection(self._upstream)


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Let the reactor run until `condition` holds. Fails when it takes too long."""
    deadline = reactor.seconds() + seconds
    while not condition():
        assert reactor.seconds() < deadline, "waited in vain"
        await deferLater(reactor, 0.001)

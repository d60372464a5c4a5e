"""
Connections to upstreams: kept, bounded, and how their ends are told.

Twisted's client knows HTTP; here is what it does not know: how to abort, how
long the head of an answer may be, and why a connection ended.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable
from operator import itemgetter
from typing import Any, Protocol, cast

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.error import (
    ConnectError,
    ConnectionClosed,
    ConnectionDone,
    ConnectionRefusedError,
    DNSLookupError,
)
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web._newclient import HTTP11ClientProtocol
from twisted.web.client import ResponseFailed, ResponseNeverReceived

from pushd.errors import SourceError

MAX_HEAD = 65_536
"""Bytes of what comes before a body; Twisted bounds each line, not how many there are."""

_UNREACHED = {
    DNSLookupError: "The source's host name was not found.",
    ConnectionRefusedError: "The source refused the connection.",
    ConnectError: "The source cannot be reached.",
}
"""Sentences for there being no connection; the more special error first."""


class Taker(Protocol):
    """Who asked the pool for a connection, and is told which one it gets."""

    def took(self, protocol: Any) -> Any:
        """The pool found or made a connection; `protocol` is on it."""


class _Clients(Factory):
    """
    Makes Twisted's HTTP client.

    :param idle: called with one when it can take another request.
    """

    noisy = False

    def __init__(self, idle: Callable[[HTTP11ClientProtocol], None]) -> None:
        self._idle = idle

    def buildProtocol(self, addr: IAddress | None) -> HTTP11ClientProtocol:
        """See :class:`Factory`."""
        return HTTP11ClientProtocol(self._idle)


class Pool:
    """
    Connections that are kept for the next request to the same origin. For an
    Agent this is its HTTPConnectionPool, of which it asks no more than this.

    That one keeps a few for ever in use, each in its turn, and opens and closes
    all the others that are needed. Here the one used last is used next: as many
    are kept as were needed at a time, and those not needed any more fall idle.
    """

    persistent = True
    """For Agent: requests do not ask the upstream to close."""

    most = 1024
    """How many are kept for an origin: what a template's topics need, polled all at once."""

    patience = 60.0
    """
    Seconds that one may be idle. Servers keep them for 5 s (node) to 75 s (nginx);
    a longer patience than theirs would only gather dead ones.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._idle: dict[Hashable, list[tuple[float, HTTP11ClientProtocol]]] = {}
        self._sweeping: IDelayedCall | None = None

    def getConnection(self, key: Hashable, endpoint: IStreamClientEndpoint) -> Deferred[Any]:
        """
        See :class:`HTTPConnectionPool`.

        :param endpoint: the exchange, which is its own, and is told what it got.
        """
        taker = cast("Taker", endpoint)
        idle = self._idle.get(key)
        while idle:
            _, protocol = idle.pop()
            if protocol.state == "QUIESCENT":
                return succeed(taker.took(protocol))
        factory = _Clients(lambda protocol: self._keep(key, protocol))
        return endpoint.connect(factory).addCallback(taker.took)

    def close(self) -> Deferred[None]:
        """Close all that are kept; fires when they are closed."""
        idle, self._idle = self._idle, {}
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        closing = [protocol.abort() for kept in idle.values() for _, protocol in kept]
        return gatherResults(closing).addCallback(lambda _: None)

    def _keep(self, key: Hashable, protocol: HTTP11ClientProtocol) -> None:
        idle = self._idle.setdefault(key, [])
        if len(idle) >= self.most:
            _, oldest = idle.pop(0)
            _lose(oldest)
        idle.append((self._clock.seconds(), protocol))
        if self._sweeping is None:
            self._sweeping = self._clock.callLater(self.patience, self._sweep)

    def _sweep(self) -> None:
        """Close those that have been idle for long, and forget those that the upstream closed."""
        self._sweeping = None
        now = self._clock.seconds()
        for key, idle in tuple(self._idle.items()):
            long = bisect_right(idle, now - self.patience, key=itemgetter(0))
            for _, protocol in idle[:long]:
                _lose(protocol)
            self._idle[key] = [kept for kept in idle[long:] if kept[1].state == "QUIESCENT"]
            if not self._idle[key]:
                del self._idle[key]
        if self._idle:
            oldest = min(idle[0][0] for idle in self._idle.values())
            wait = max(0.0, oldest + self.patience - now)
            self._sweeping = self._clock.callLater(wait, self._sweep)


def _lose(protocol: HTTP11ClientProtocol) -> None:
    """Close a connection, unless the upstream has."""
    if protocol.state == "QUIESCENT":
        cast("Connection", protocol.transport).loseConnection()


class Connection(ProtocolWrapper):
    """
    Between the socket (or TLS) and Twisted's HTTP client.

    :ivar broken: it ended otherwise than by an orderly close.
    :ivar expired: and the upstream had shown a certificate past its date.
    :ivar overflown: the head of an answer was longer than we read.
    """

    def __init__(self, factory: WrappingFactory[Any], wrappedProtocol: Any) -> None:
        super().__init__(factory, wrappedProtocol)
        self.broken = False
        self.expired = False
        self.overflown = False
        self._lost = False
        self._head: int | None = None

    def request_begins(self) -> None:
        """What comes now is a head."""
        self._head = 0

    def head_received(self) -> None:
        """What comes now is a body, which somebody else bounds."""
        self._head = None

    def dataReceived(self, data: bytes) -> None:
        """Counts afterwards, as `data` may hold the end of the head and much of the body."""
        super().dataReceived(data)
        if self._head is not None:
            self._head += len(data)
            if self._head > MAX_HEAD:
                self.overflown = True
                self.abortConnection()

    def loseConnection(self) -> None:
        """
        Twisted drops a connection that is done, idle or talks nonsense. Over
        TLS it would wait for the upstream's goodbye, without end.
        """
        # In the middle of a head there are two reasons. Nonsense is told as an error of its
        # own; a line that is too long is not.
        self.overflown = self._head is not None
        self.abortConnection()

    def abortConnection(self) -> None:
        """Close now. TLSMemoryBIOProtocol's fails on a connection that is no more."""
        if not self._lost:
            cast("ProtocolWrapper", self.transport).abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Remembers why before the HTTP client hears of it: it forgets."""
        self._lost = True
        self.broken = not reason.check(ConnectionDone)
        if reason.check(SSL.Error):
            shown = self.getHandle().get_peer_cert_chain() or []
            self.expired = any(certificate.has_expired() for certificate in shown)
        super().connectionLost(reason)


class Connections(WrappingFactory[Connection]):
    """Makes a :class:`Connection` around what the pool's factory makes."""

    protocol = Connection
    noisy = False

    def __init__(self, wrappedFactory: Any) -> None:
        super().__init__(wrappedFactory)
        # Or the log has two lines for each connection.
        wrappedFactory.noisy = False


def explained(error: Exception, connection: Connection | None) -> SourceError:
    """What went wrong below HTTP, or with it, for the reader of a page."""
    if isinstance(error, ResponseFailed):
        return SourceError(_unanswered(error, error.reasons[0], connection))
    return SourceError(next(text for kind, text in _UNREACHED.items() if isinstance(error, kind)))


def _unanswered(error: ResponseFailed, reason: Failure, connection: Connection | None) -> str:
    """There was a connection, and no whole answer came."""
    if reason.check(VerificationError):
        return "The source's certificate is for another host name."
    if reason.check(SSL.Error):
        return _tls_problem(reason.value, connection)
    if not reason.check(ConnectionClosed):
        return "The answer is not valid HTTP."
    if connection is not None and connection.overflown:
        return "The header of the answer is too long."
    if isinstance(error, ResponseNeverReceived):
        return "The source closed the connection without an answer."
    return "The source closed the connection in the middle of its answer."


def _tls_problem(error: object, connection: Connection | None) -> str:
    """OpenSSL says no more than that verification failed; the date we can see ourselves."""
    if "certificate verify failed" not in str(error):
        return "The source does not speak TLS, or not as pushd does."
    if connection is not None and connection.expired:
        return "The source's certificate has expired."
    return "The source's certificate is not from an authority that is trusted here."

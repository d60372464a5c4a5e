"""
Connections to upstreams: kept, bounded, and how their ends are told.

Twisted's client knows HTTP; here is what it does not know: how to abort, how
long the head of an answer may be, and why a connection ended.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any, Protocol, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.defer import Deferred
from twisted.internet.error import (
    ConnectError,
    ConnectionClosed,
    ConnectionDone,
    ConnectionRefusedError,
    DNSLookupError,
)
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import connectionDone
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import HTTPConnectionPool, ResponseFailed, ResponseNeverReceived

from pushd.errors import ConfigError, SourceError

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


class Pool(HTTPConnectionPool):
    """
    Connections that are kept for the next request to the same origin.

    As many as a host with a hundred slow topics keeps busy; those past the
    number are closed after use. Servers keep idle connections for 5 s (node) to
    75 s (nginx); a longer patience than theirs would only gather dead ones.
    """

    maxPersistentPerHost = 32
    cachedConnectionTimeout = 60
    retryAutomatically = False

    def getConnection(self, key: Hashable, endpoint: IStreamClientEndpoint) -> Deferred[Any]:
        """Tells the exchange, which is its own endpoint, what it got."""
        taker = cast("Taker", endpoint)
        return super().getConnection(key, endpoint).addCallback(taker.took)


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


def trust_root(path: str) -> Any:
    """
    What to trust instead of the system's certificates: those in a PEM file.

    :raises ConfigError: there are none to be had; the message names the file.
    """
    try:
        found = x509.load_pem_x509_certificates(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not a file of PEM certificates") from error
    return trustRootFromCertificates(
        [Certificate.loadPEM(certificate.public_bytes(Encoding.PEM)) for certificate in found]
    )


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

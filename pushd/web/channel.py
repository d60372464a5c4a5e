"""
A client's connection, as long as it speaks HTTP/1.1, and what it may cost.

Twisted's channel parses; this one bounds: how long a request may take to come,
how large its header may be, what may come behind it, and for how long an
answer waits for its reader. What a request asks for is none of its business.
"""

from __future__ import annotations

import math
import re
from http import HTTPStatus
from typing import Any, ClassVar

from twisted.internet import tcp
from twisted.internet.interfaces import IAddress, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request, datetimeToString
from twisted.web.http_headers import Headers

from pushd.config import Server
from pushd.errors import ClientError
from pushd.peer import patience, taken
from pushd.web.head import Head, read
from pushd.web.plain import PlainRequest
from pushd.web.problem import problem

log = Logger()
"""Not the class's: what is logged would then refer to the connection, for as long as it is kept."""

MOST_BEHIND = 16_384
"""Bytes that may come behind a request before it is answered; for a stream that is for ever."""

LINGER = 3.0
"""Seconds for which one who was refused is still read from, and not heard."""

_STAYS = (b"keep-alive",)
"""What the Connection field of a client says that may ask for more later, if anything."""

_TYPED = frozenset(range(32, 177)) | frozenset(b"\r\n")
"""Bytes that a request line may have, or that may stand before it."""

_AUTHORITY = re.compile(rb"\A[^/?]*://[^/?]*/?")
"""What a proxy's client writes in front of the path, maybe with a password (RFC 9112, 3.2.2)."""


class PushChannel(HTTPChannel):
    """
    One timer for all deadlines, Twisted's own: a connection waits for a header,
    or a body, or for its client to take an answer, and never for two of them.

    While a request is being answered there is no deadline.

    :cvar bounds: sizes in bytes, times in seconds.
    :ivar address: who is at the other end; with the PROXY protocol, the proxy.
    :ivar patient: whether the system leaves it to us to give this client up; from the
        first time on that it has no room.
    """

    bounds: ClassVar[Server] = Server()
    # Their types, as Twisted has them, are not all that they may be.
    transport: Any
    timeOut: Any
    site: Any
    address: IAddress | None = None
    patient = False

    _answering = False
    _answered: Request | None = None
    _full = False
    _taken: int | None = None
    _deaf = False
    _lingering = False

    @classmethod
    def bounded(cls, bounds: Server) -> type[PushChannel]:
        """Channels with these bounds."""
        size = bounds.max_header
        own = {"bounds": bounds, "MAX_LENGTH": size, "totalHeadersSize": size}
        return type(cls.__name__, (cls,), own)

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.channels.add(self)

    # What comes in.

    def dataReceived(self, data: bytes) -> None:
        if self._deaf:
            return
        try:
            if not self.requests:
                if data[0] not in _TYPED:
                    # A TLS handshake, for example, which has no line that could be waited for.
                    raise malformed()
                data = self.clearLineBuffer() + data
                head = self._head(data)
                if head is not None:
                    self._headReceived(head)
                    return
            super().dataReceived(data)
        except ClientError as error:
            self._refuse(error)
        except ValueError:
            # int() takes no Content-Length of thousands of digits.
            self._refuse(malformed())

    def _head(self, data: bytes) -> Head | None:
        """A request that is all there, and has no body; Twisted takes all others apart."""
        if not data.endswith(b"\r\n\r\n") or len(data) > self.totalHeadersSize:
            return None
        return read(data, self.maxHeaders)

    def _headReceived(self, head: Head) -> None:
        """
        Do what Twisted does when it has got a head line by line. Where it keeps
        the first of these is private; there is no other way to its answer.
        """
        self._command, self._path, self._version = head.method, head.target, head.version
        if self._is_plain(head):
            self.requests.append(PlainRequest(self, head))
        else:
            request = self.requestFactory(self)
            request.requestHeaders = head.headers
            self.requests.append(request)
            self.allHeadersReceived()
        self.allContentReceived()

    def _is_plain(self, head: Head) -> bool:
        """Whether the site is to have a look at it first."""
        return (
            head.method == b"GET"
            and head.version == b"HTTP/1.1"
            and b"?" not in head.target
            and len(head.target) <= self.bounds.max_url
            and self.site.at_once is not None
            and self.site.draining is None
            and head.headers.getRawHeaders(b"Connection", _STAYS)[0].lower() in _STAYS
        )

    def make_whole(self, plain: PlainRequest, version: bytes) -> None:
        """Go on with a request that cannot be answered at once."""
        request = self.requestFactory(self)
        request.requestHeaders = plain.requestHeaders
        self.requests[-1] = request
        self.persistent = self.checkPersistence(request, version)
        request.gotLength(0)
        request.requestReceived(plain.method, plain.path, version)

    def resetTimeout(self) -> None:
        """Called for whatever comes in: a byte now and then must not buy time."""

    def lineLengthExceeded(self, line: bytes) -> None:
        """Called with a line that is too long, or with its beginning. Raises ClientError."""
        if not self.requests:
            self._command, _, rest = line.partition(b" ")
            self._check_target(rest.partition(b" ")[0])
        raise self._header_too_large()

    def _check_target(self, target: bytes) -> None:
        most = self.bounds.max_url
        if len(target) > most:
            raise ClientError(414, f"A URL has at most {most} bytes (server.max_url).")

    def allHeadersReceived(self) -> None:
        """Called when a header is complete; raises ClientError if it won't do, or its body."""
        self._check_target(self._path)
        self._path = _AUTHORITY.sub(b"/", self._path)
        headers = self.requests[-1].requestHeaders
        hosts = headers.getRawHeaders(b"Host", ())
        if len(hosts) > 1 or not (hosts or self._version == b"HTTP/1.0"):
            raise ClientError(400, "A request has one Host header (RFC 9112, section 3.2).")
        if self.length is not None and headers.hasHeader(b"Transfer-Encoding"):
            # Twisted passes over "identity", which others take for the end of the length.
            raise malformed()
        super().allHeadersReceived()
        if self.length != 0:
            self.setTimeout(self.bounds.body_timeout)

    def rawDataReceived(self, data: bytes) -> None:
        """Called with what is not a header: a body, or what comes behind a request."""
        if self._answering:
            self._hold(data)
        else:
            super().rawDataReceived(data)

    def allContentReceived(self) -> None:
        """Called when a request is complete: answers it, now or later."""
        self._answering = True
        # What the channel goes back to after the answer.
        self.timeOut = self.bounds.header_timeout
        super().allContentReceived()
        if self._answering:
            self._hold(b"")

    def _hold(self, data: bytes) -> None:
        """
        Keep what comes behind a request until that is answered.

        Twisted keeps it in a list that grows with each segment, and stops
        reading at 16 KiB, so that it would not see the client leave. The list
        is private; there is no other way to what came behind a body.
        """
        behind = b"".join([*self._dataBuffer, data])
        self._dataBuffer = [behind] if behind else []
        if len(behind) > MOST_BEHIND:
            self._abort()

    def getPeer(self) -> IAddress:
        """Who is at the other end; with the PROXY protocol, the client."""
        if self.address is not None and type(self.transport) is tcp.Server:
            # The same, without making it anew.
            return self.address
        peer: IAddress = super().getPeer()
        return peer

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """Called with each header: whether another request may follow. Not while draining."""
        if self.site.draining is not None:
            request.responseHeaders.setRawHeaders("Connection", ["close"])
            return False
        return bool(super().checkPersistence(request, version))

    def last(self) -> None:
        """The request that is being answered, if there is one, is the last."""
        for request in self.requests:
            # Not before there is one: HTTPChannel would drop what comes then.
            self.persistent = False
            if not request.startedWriting:
                request.responseHeaders.setRawHeaders("Connection", ["close"])

    # What goes out.

    def requestDone(self, request: Request) -> None:
        """
        Called when an answer is written. It is done when the transport has
        room again: who pipelines requests and reads no answers would otherwise
        fill the memory with them. And the next request waits for the next turn:
        who pipelines a thousand does not keep the others waiting for all of them.
        """
        self._answered = request
        if behind := self.clearLineBuffer():
            self._hold(behind)
        if self._full:
            self._wait_for_reader(taken(self.transport))
        elif any(self._dataBuffer):
            self.callLater(0, self._next)
        else:
            self._next()

    def _next(self) -> None:
        if self._answered is None:
            return
        request, self._answered = self._answered, None
        self._answering = False
        super().requestDone(request)

    def pauseProducing(self) -> None:
        if not self._full:
            self._full = True
            # Linux takes a living peer that has no room for a lost one.
            patience(self.transport, math.inf)
            self.patient = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        self._full = False
        super().resumeProducing()
        self._next()

    def loseConnection(self) -> None:
        """Close, as soon as the client has taken what was written."""
        self._deaf = True
        super().loseConnection()
        # Most are gone in the next turn: what it has taken is asked when it matters.
        self._wait_for_reader(0)

    # When it takes too long.

    def timeoutConnection(self) -> None:
        """Called when the time for whatever is waited for is over."""
        if self._lingering:
            self.transport.abortConnection()
        elif self._deaf or self._answering:
            self._look_at_reader()
        elif self.requests or self.clearLineBuffer():
            self._refuse(self._late())
        else:
            self._linger()
            super().loseConnection()

    def _wait_for_reader(self, has: int | None) -> None:
        """For as long as it takes something; `has` is what it has taken, None if unknown."""
        self._taken = has
        self.setTimeout(self.bounds.client_timeout)

    def _look_at_reader(self) -> None:
        """A slow one may go on; one who took nothing may not."""
        has = taken(self.transport)
        if has is None or has == self._taken:
            self._abort()
        else:
            self._wait_for_reader(has)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._answered = None
        self._deaf = True
        super().connectionLost(reason)
        self.site.left(self)

    # The end of a connection.

    def _respondToBadRequestAndDisconnect(self) -> None:
        """
        Called by Twisted for what it does not take, to answer a bare 400. That,
        and what it has counted, is private; counting once more would cost
        each request more than all the rest here.
        """
        if self._receivedHeaderSize > self.totalHeadersSize:
            raise self._header_too_large()
        if self._receivedHeaderCount > self.maxHeaders:
            raise ClientError(431, f"A request has at most {self.maxHeaders} headers.")
        raise malformed()

    def _refuse(self, error: ClientError) -> None:
        """Answer in place of a request, and close."""
        if self.site.throttle.allows(f"refused with {error.status} {error.detail}"):
            log.info(
                "{peer} is refused: {status} {detail}",
                peer=getattr(self.getPeer(), "host", "-"),
                status=error.status,
                detail=error.detail,
            )
        headers, body = problem(error)
        headers = {**headers, "Connection": "close", "Date": datetimeToString()}
        phrase = HTTPStatus(error.status).phrase.encode()
        fields = Headers({name: [value] for name, value in headers.items()})
        self.writeHeaders(b"HTTP/1.1", b"%d" % error.status, phrase, fields)
        # Private, and the only place where it is before the header is complete.
        if getattr(self, "_command", None) != b"HEAD":
            self.write(body)
        self._linger()
        if ITCPTransport.providedBy(self.transport) and not self.isSecure():
            self.transport.loseWriteConnection()
        else:
            # TLS says that this is all, and reads on until the client says so too.
            super().loseConnection()

    def _linger(self) -> None:
        """
        Read on for a while. A socket that is closed with unread bytes in it
        resets the connection, and the client never sees its answer.
        """
        self._deaf = self._lingering = True
        self.setTimeout(LINGER)

    def _abort(self) -> None:
        self._deaf = True
        self.transport.abortConnection()

    # What a client is told.

    def _header_too_large(self) -> ClientError:
        return ClientError(
            431,
            f"A request line and headers have at most {self.MAX_LENGTH} bytes (server.max_header).",
        )

    def _late(self) -> ClientError:
        bounds = self.bounds
        what, seconds = ("header", bounds.header_timeout)
        if not self.line_mode:
            what, seconds = ("body", bounds.body_timeout)
        detail = f"The {what} was not there within {seconds:g} seconds (server.{what}_timeout)."
        return ClientError(408, detail)


def malformed() -> ClientError:
    """What was sent cannot be understood."""
    return ClientError(400, "This is no request of HTTP/1.1 (RFC 9112).")

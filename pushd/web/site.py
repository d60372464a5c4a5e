"""
The site: what every request has, whatever it asks for.

A bounded body, a body that can be delimited by the end of the connection, and
an access log without secrets.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.web import http
from twisted.web.http import HTTPChannel, combinedLogFormatter
from twisted.web.iweb import IAccessLogFormatter, IRequest
from twisted.web.resource import IResource
from twisted.web.server import Request, Site
from zope.interface import provider

from pushd.config import Server
from pushd.errors import ClientError
from pushd.throttle import Throttle
from pushd.transports.response import FRAMING, Response, fields
from pushd.web.admission import Admission
from pushd.web.channel import PushChannel
from pushd.web.plain import PlainRequest

Publishers = Callable[[str | None, str | None], bool]

DROPPED = 16
"""How many times as long as it may be a body is read."""

LONGEST_SHOWN = 256
"""How much the access log shows of what a client can make as long as it likes."""

_log = Logger()

_PROBES = frozenset({b"/healthz", b"/readyz", b"/metrics"})

_NO_SECRET = frozenset(
    {"topic", "lastEventId", "client", "chunked", "compress", "hello", "wait", "event"}
)
"""Query parameters whose values may be logged; ``access_token`` and ``header`` may not."""

_NAMES = _NO_SECRET | {"access_token", "header"}
"""Those whose names may be; somebody might take a secret for a whole query."""


class PushRequest(Request):
    """
    A request of bounded size.

    :cvar max_body: bytes that a body may have; more is read and dropped, so
        that a page, which hears no answer without its CORS headers, hears this one.
    :cvar publishers: knows, by its Authorization and ``access_token``, who may publish.
        Bodies of others are read, for their answer's sake, and not kept.
    :ivar too_large: whether its body had more.
    """

    max_body = 1_048_576
    publishers: Publishers
    too_large = False
    _received = 0
    _kept = True

    def gotLength(self, length: int | None) -> None:
        """Called when the headers are there. Within its bound, the body fits into memory."""
        # Who expects to be told to continue is no page, and will not send it (RFC 9110, 10.1.1).
        patient = 1 if self.requestHeaders.hasHeader("Expect") else DROPPED
        if length is not None and length > patient * self.max_body:
            raise self._too_large()
        self.content = BytesIO()
        if length != 0:
            self._kept = self._may_publish()

    def _may_publish(self) -> bool:
        # Private, and the only place where they are before the body has come.
        if self.channel._command != b"POST":
            return False
        query = parse_qs(self.channel._path.partition(b"?")[2])
        access_token = query.get(b"access_token", [None])[-1]
        authorization = self.requestHeaders.getRawHeaders(b"Authorization", [None])[0]
        return self.publishers(
            *(
                None if given is None else given.decode(errors="replace")
                for given in (authorization, access_token)
            )
        )

    def parseCookies(self) -> None:
        """Called when the headers are there. None of them are asked for."""

    def handleContentChunk(self, data: bytes) -> None:
        """Called with each part of the body. Raises ClientError when it does not end."""
        assert self.content is not None
        self._received += len(data)
        if self._received <= self.max_body:
            if self._kept:
                self.content.write(data)
        elif self._received > DROPPED * self.max_body:
            raise self._too_large()
        elif not self.too_large:
            self.too_large = True
            self.content.seek(0)
            self.content.truncate()

    def _too_large(self) -> ClientError:
        return ClientError(413, f"A body has at most {self.max_body} bytes (publish.max_body).")

    def getRequestHostname(self) -> bytes:
        """Routes depend on the path alone; a Host that is no name must not upset them."""
        return b"pushd"

    def begin_stream(self, chunked: bool, lines: bytes = b"") -> bytes:
        """
        The head of an answer whose body goes to the transport as it is: in chunks,
        made by whoever writes it, or delimited by the end of the connection (RFC
        9112, sections 7.1 and 6.3). Twisted's own way makes the chunks anew for
        each client, and has no switch.

        :param chunked: whether the body is in chunks; for HTTP/1.1 only.
        :param lines: further headers, as they are sent.
        """
        assert isinstance(self.channel, HTTPChannel) and not self.startedWriting
        self.startedWriting = True
        if not chunked:
            self.responseHeaders.removeHeader(b"Connection")
            self.channel.persistent = False
        first = b"%b %d %b\r\n" % (self.clientproto, self.code, self.code_message)
        return first + fields(self.responseHeaders) + lines + FRAMING[chunked] + b"\r\n"

    def hand_over(self, chunked: bool, over: Callable[[], object]) -> Response:
        """
        What stands in this request's place from now on, when its stream has begun.

        :param chunked: whether the body is in chunks.
        :param over: called once, when the answer is over.
        """
        channel = self.channel
        agent = self.getHeader(b"User-Agent")
        response = Response(channel, self.uri, self.clientproto, agent, chunked=chunked, over=over)
        channel.requests[channel.requests.index(self)] = response
        return response


class _Discreet:
    """A request as the access log may see it: of the query, only what cannot be a secret."""

    def __init__(self, request: IRequest) -> None:
        self._request = request
        path, _, query = request.uri.partition(b"?")
        # A semicolon separates parameters too, for Twisted.
        pairs = parse_qsl(query.decode("latin-1").replace(";", "&"), keep_blank_values=True)
        shown = [
            (name if name in _NAMES else "...", value if name in _NO_SECRET else "...")
            for name, value in pairs
        ]
        uri = path + (b"?" + urlencode(shown, safe="/.").encode() if shown else b"")
        self.uri = uri[:LONGEST_SHOWN]
        self.method = request.method[:LONGEST_SHOWN]

    def getHeader(self, name: bytes) -> bytes | str | None:
        # The Referer is some page's URL, with what that page put into it.
        value = None if name == b"referer" else self._request.getHeader(name)
        return None if value is None else value[:LONGEST_SHOWN]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)


@provider(IAccessLogFormatter)
def discreet_log_formatter(timestamp: str, request: IRequest) -> str:
    """A line of the access log, in Combined Log Format, without tokens and header values."""
    line: str = combinedLogFormatter(timestamp, _Discreet(request))
    return line


class _Refused(Protocol):
    """A connection for which there is no room."""

    def connectionMade(self) -> None:
        self.transport.abortConnection()  # type: ignore[union-attr]  # there is one now


class PushSite(Site):
    """
    Speaks HTTP/1.1 and nothing else, whatever is installed.

    :ivar at_once: answers a request if it can do so at once, and tells whether
        it has; the resource's, if it has such.
    :ivar throttle: of what is wrong with requests.
    """

    protocol: Any = PushChannel
    draining: Deferred[None] | None = None

    def __init__(self, admission: Admission | None, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.at_once: Callable[[PlainRequest], bool] | None = getattr(
            self.resource, "at_once", None
        )
        self.channels: set[PushChannel] = set()
        self.throttle = Throttle(self.reactor)
        self._admission = admission

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Called for each connection."""
        if self._admission is not None and addr is not None and not self._admission.connected(addr):
            self._complain(addr)
            # None would close it too, but not beneath TLS or the PROXY protocol.
            return _Refused()
        channel = super().buildProtocol(addr)
        channel.address = addr
        return channel

    def _complain(self, address: IAddress) -> None:
        if self.throttle.allows("connections of an address that has too many are refused"):
            _log.warn(
                "connections of {address} are refused: it has too many (max_clients_per_peer)",
                address=getattr(address, "host", str(address)),
            )

    async def drain(self, clock: IReactorTime, grace: float) -> None:
        """
        Answer what is asked, once more on each connection, and then close it.
        Fires when there is none left; cancelling it ends the waiting.

        :param grace: seconds after which connections without a request are
            closed. Some were accepted a moment ago, and their request is on its way.
        """
        self.draining = Deferred()
        for channel in tuple(self.channels):
            channel.last()
        call = clock.callLater(grace, self._close_idle)
        try:
            if self.channels:
                await self.draining
        finally:
            if call.active():
                call.cancel()
            self.throttle.tell()

    def left(self, channel: PushChannel) -> None:
        """A connection is no more."""
        self.channels.discard(channel)
        if self._admission is not None and channel.address is not None:
            self._admission.disconnected(channel.address)
        if self.draining is not None and not self.channels and not self.draining.called:
            self.draining.callback(None)

    def _close_idle(self) -> None:
        for channel in tuple(self.channels):
            if not channel.requests:
                channel.loseConnection()

    def log(self, request: http.Request) -> None:
        """Called with each request that was answered. Probes, once a second, are not told."""
        if request.code >= HTTPStatus.BAD_REQUEST:
            told = self.throttle.allows(f"answered with {request.code}")
        else:
            told = request.path not in _PROBES or request.code != HTTPStatus.OK
        if told:
            super().log(request)

    def acceptableProtocols(self) -> list[bytes]:
        """What is offered to TLS clients (ALPN). HTTP/2 is a proxy's: see conf/nginx.conf."""
        return [b"http/1.1"]


def make_site(
    resource: IResource,
    server: Server,
    max_body: int,
    reactor: IReactorTime | None = None,
    admission: Admission | None = None,
    publishers: Publishers = lambda *_: True,
) -> PushSite:
    """
    The site of a daemon.

    :param server: the bounds of a connection, see :class:`PushChannel`.
    :param max_body: bytes that a request's body may have.
    :param reactor: keeps the time; None for the one that is installed.
    :param admission: counts the connections; None to let all in.
    :param publishers: see :class:`PushRequest`.
    """
    bounds = {
        "max_body": max_body,
        "publishers": staticmethod(publishers),
    }
    site = PushSite(
        admission,
        resource,
        requestFactory=type("BoundedRequest", (PushRequest,), bounds),
        logFormatter=discreet_log_formatter,
        parsePOSTFormSubmission=False,
        timeout=server.header_timeout,
        reactor=reactor,
    )
    site.protocol = PushChannel.bounded(server)
    return site

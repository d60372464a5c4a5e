"""
The site: what every request has, whatever it asks for.

A bounded body, a body that can be delimited by the end of the connection, and
an access log without secrets.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl, urlencode

from twisted.web.http import HTTPChannel, combinedLogFormatter
from twisted.web.iweb import IAccessLogFormatter, IRequest
from twisted.web.resource import IResource
from twisted.web.server import Request, Site
from zope.interface import provider

_NO_SECRET = frozenset({"topic", "lastEventId", "client", "chunked", "hello", "wait", "event"})
"""Query parameters whose values may be logged; ``access_token`` and ``header`` may not."""


class PushRequest(Request):
    """
    A request with a bounded body.

    :cvar max_body: bytes that a body may have; more is read and dropped, so
        that the client, which is still sending, hears the answer.
    :ivar too_large: whether it had more.
    """

    max_body = 1_048_576
    too_large = False

    def gotLength(self, length: int | None) -> None:
        """Called when the headers are there. Within its bound, the body fits into memory."""
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """Called with each part of the body."""
        assert self.content is not None
        if self.content.tell() + len(data) <= self.max_body and not self.too_large:
            self.content.write(data)
            return
        if not self.too_large:
            self.too_large = True
            self._dropped = 0
            self.content.seek(0)
            self.content.truncate()
        self._dropped += len(data)
        if self._dropped > 16 * self.max_body:
            # Whoever goes on for so long does not listen.
            self.loseConnection()

    def getRequestHostname(self) -> bytes:
        """Routes depend on the path alone; a Host that is no name must not upset them."""
        return b"pushd"

    def end_with_connection(self) -> None:
        """
        Delimit the body by the end of the connection (RFC 9112, section 6.3,
        rule 8) and not by chunks. To be called before the first write.
        """
        assert isinstance(self.channel, HTTPChannel) and not self.startedWriting
        self.responseHeaders.setRawHeaders("Connection", ["close"])
        self.channel.persistent = False
        # What Request.write does at its first call, without its chunked encoding:
        # for that there is no switch.
        self.startedWriting = True
        self.channel.writeHeaders(
            self.clientproto, b"%d" % self.code, self.code_message, self.responseHeaders
        )


class _Discreet:
    """A request as the access log may see it: of the query, only what cannot be a secret."""

    def __init__(self, request: IRequest) -> None:
        self._request = request
        path, _, query = request.uri.partition(b"?")
        shown = [
            (name, value if name in _NO_SECRET else "...")
            for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True)
        ]
        self.uri = path + (b"?" + urlencode(shown, safe="/.").encode() if shown else b"")

    def getHeader(self, name: bytes) -> bytes | str | None:
        # The Referer is some page's URL, with what that page put into it.
        return None if name == b"referer" else self._request.getHeader(name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)


@provider(IAccessLogFormatter)
def discreet_log_formatter(timestamp: str, request: IRequest) -> str:
    """A line of the access log, in Combined Log Format, without tokens and header values."""
    line: str = combinedLogFormatter(timestamp, _Discreet(request))
    return line


def make_site(resource: IResource, max_body: int) -> Site:
    """The site of a daemon."""
    factory = type("BoundedRequest", (PushRequest,), {"max_body": max_body})
    return Site(
        resource,
        requestFactory=factory,
        logFormatter=discreet_log_formatter,
        parsePOSTFormSubmission=False,
    )

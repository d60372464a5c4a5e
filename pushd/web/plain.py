"""
A request that says where and in which form, and no more: enough for most streams.

What Twisted prepares for a request that may be anything costs as much as all
of a stream's beginning. So a head that came in one piece is shown to the site
as it is; only if that cannot answer it at once, a whole request is made of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import datetimeToString
from twisted.web.http_headers import Headers
from twisted.web.server import version as server

from pushd.transports.response import FRAMING, Response, fields
from pushd.web.head import Head

log = Logger()


class PlainRequest:
    """
    To be answered at once or not at all. Has what :mod:`pushd.web.asked` and its
    neighbours ask of a request.

    :param channel: where it came from.
    """

    __slots__ = ("_channel", "_headers", "method", "path", "requestHeaders")

    args: ClassVar[dict[bytes, list[bytes]]] = {}
    clientproto: ClassVar[bytes] = b"HTTP/1.1"

    def __init__(self, channel: Any, head: Head) -> None:
        self.method = head.method
        self.path = head.target
        self.requestHeaders = head.headers
        self._channel = channel
        self._headers: Headers | None = None

    @property
    def responseHeaders(self) -> Headers:
        """What the answer's head says besides."""
        if self._headers is None:
            self._headers = Headers()
        return self._headers

    def setHeader(self, name: str, value: str) -> None:
        """Have the answer's head say so."""
        self.responseHeaders.setRawHeaders(name, [value])

    def getClientAddress(self) -> IAddress:
        """Who is at the other end; with the PROXY protocol, the client."""
        address: IAddress = self._channel.getPeer()
        return address

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Called when it is its turn."""
        try:
            answered = self._channel.site.at_once(self)
        except Exception:
            # A bug of ours, and too late to say so in an answer.
            if self._channel.site.throttle.allows("a stream could not begin"):
                log.failure("a stream could not begin")
            self._channel.transport.abortConnection()
            return
        if not answered:
            self._channel.make_whole(self, version)

    def connectionLost(self, reason: Failure) -> None:
        """Called when the connection is lost; nobody waits for anything."""

    def begin_stream(self, chunked: bool, lines: bytes = b"") -> bytes:
        """The head of the answer, see :meth:`pushd.web.site.PushRequest.begin_stream`."""
        if not chunked:
            self._channel.persistent = False
        further = b"" if self._headers is None else fields(self._headers)
        return _first_lines(int(time.time())) + further + lines + FRAMING[chunked] + b"\r\n"

    def hand_over(self, chunked: bool, over: Callable[[], object]) -> Response:
        """What stands in its place, see :meth:`pushd.web.site.PushRequest.hand_over`."""
        channel = self._channel
        agent = self.requestHeaders.getRawHeaders(b"User-Agent", [None])[-1]
        response = Response(channel, self.path, self.clientproto, agent, chunked=chunked, over=over)
        channel.requests[-1] = response
        return response


@lru_cache(maxsize=1)
def _first_lines(now: int) -> bytes:
    """What each answer begins with, at a time in seconds since 1970."""
    return b"HTTP/1.1 200 OK\r\nServer: %b\r\nDate: %b\r\n" % (server, datetimeToString(now))

"""
What is left of a request when its answer has begun and goes on.

A stream may last for days. The headers that it was asked for with, and all that
found out what to answer, are several kilobytes which nobody looks at any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from twisted.internet.interfaces import IAddress
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers

FRAMING = {True: b"Transfer-Encoding: chunked\r\n", False: b"Connection: close\r\n"}
"""How a body is delimited (RFC 9112, section 6.3), by whether it is in chunks."""


def fields(headers: Headers) -> bytes:
    """Headers, as they are sent."""
    return b"".join(
        [
            b"%b: %b\r\n" % (name, value)
            for name, values in headers.getAllRawHeaders()
            for value in values
        ]
    )


class Stream(Protocol):
    """Who writes the answer."""

    def lost(self, reason: Failure) -> None:
        """The connection is no more."""


class Response:
    """
    Takes the request's place in its channel, which tells it and asks it what
    it would the request, and in the access log.

    It lets go of its stream at the end, so that no cycle is left behind:
    what the collector has frozen, only its reference count can free.

    :param channel: the connection; None when that is lost.
    :param over: called once, when the answer is over, however it ended.
    :ivar uri: what was asked for, as it was.
    :ivar clientproto: the client's version of HTTP.
    """

    __slots__ = ("_agent", "_chunked", "_over", "_stream", "channel", "clientproto", "uri")

    method: ClassVar[bytes] = b"GET"
    code: ClassVar[int] = 200
    sentLength: ClassVar[int] = 0
    startedWriting: ClassVar[bool] = True

    def __init__(
        self,
        channel: Any,
        uri: bytes,
        clientproto: bytes,
        agent: bytes | None,
        *,
        chunked: bool,
        over: Callable[[], object],
    ) -> None:
        self.channel = channel
        self.uri = uri
        self.clientproto = clientproto
        self._agent = agent
        self._chunked = chunked
        self._over = over
        self._stream: Any = None

    # What the stream asks.

    def begin(self, stream: Stream) -> None:
        """Tell `stream` from now on, which is a push producer, of its transport."""
        self._stream = stream
        self.channel.registerProducer(stream, True)

    def finish(self) -> None:
        """The body is complete."""
        channel = self.channel
        channel.unregisterProducer()
        if self._chunked:
            channel.write(b"0\r\n\r\n")
        channel.site.log(self)
        self._end()
        channel.requestDone(self)

    def cut(self) -> None:
        """Close the connection, with no end to the body."""
        self.channel.unregisterProducer()
        self.channel.loseConnection()

    def abort(self) -> None:
        """Close the connection, whatever the client has not taken yet."""
        self.channel.unregisterProducer()
        self.channel.transport.abortConnection()

    # What the channel tells.

    def connectionLost(self, reason: Failure) -> None:
        """Called when the connection is lost, however it was."""
        stream = self._stream
        self.channel.unregisterProducer()
        self._end()
        if stream is not None:
            stream.lost(reason)

    def _end(self) -> None:
        self._over()
        self._stream = self.channel = None

    # What the access log asks.

    @property
    def path(self) -> bytes:
        """The path, without the query."""
        return self.uri.partition(b"?")[0]

    def getHeader(self, name: bytes) -> bytes | None:
        """A header of the request; only this one is kept."""
        return self._agent if name.lower() == b"user-agent" else None

    def getClientAddress(self) -> IAddress:
        """Who is at the other end; with the PROXY protocol, the client."""
        address: IAddress = self.channel.getPeer()
        return address

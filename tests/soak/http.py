"""As much of an HTTP client as the soak needs: what comes is given on as it comes."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from soak.tally import Tally

reactor: Any = _reactor


class Response(Protocol):
    """
    :ivar status: None before the header is there.
    :ivar whole: whether the body has come to its end.
    :ivar over: fires when the connection is.
    """

    transport: Any

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.over: Deferred[None] = Deferred()
        self._expect()

    def _expect(self) -> None:
        self.status: int | None = None
        self.whole = False
        self._head = b""
        self._chunked = False
        self._length: int | None = None
        self._rest = b""

    def connectionMade(self) -> None:
        self.transport.write(self.request)

    def again(self, request: bytes) -> None:
        """Ask once more on this connection; the response before has to be whole."""
        self._expect()
        self.transport.write(request)

    def dataReceived(self, data: bytes) -> None:
        if self.status is None:
            self._head += data
            head, empty, data = self._head.partition(b"\r\n\r\n")
            if not empty:
                return
            self.status = int(head.split(b" ", 2)[1])
            lower = head.lower()
            self._chunked = b"transfer-encoding: chunked" in lower
            if b"content-length: " in lower:
                self._length = int(lower.split(b"content-length: ")[1].split(b"\r\n")[0])
            self.answered()
            if self._length == 0 or self.status == 204:
                self._end()
                return
        if self._chunked:
            self._dechunk(data)
        elif data:
            if self._length is not None:
                self._length -= len(data)
            self.received(data)
            if self._length == 0:
                self._end()

    def _end(self) -> None:
        self.whole = True
        self.ended()

    def _dechunk(self, data: bytes) -> None:
        self._rest += data
        while (end := self._rest.find(b"\r\n")) >= 0:
            size = int(self._rest[:end], 16)
            if len(self._rest) < end + 2 + size + 2:
                return
            piece = self._rest[end + 2 : end + 2 + size]
            self._rest = self._rest[end + 2 + size + 2 :]
            if size == 0:
                self._end()
                return
            self.received(piece)

    def answered(self) -> None:
        """The header is there."""

    def received(self, data: bytes) -> None:
        """A piece of the body."""

    def ended(self) -> None:
        """The response is whole."""
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.over.callback(None)


async def connect(port: int, response: Response, tally: Tally, room: int | None = None) -> bool:
    """
    Send a request, to where there is always somebody.

    :param room: how much the system may buffer.
    :returns: whether there was a connection.
    """
    try:
        await reach(port, response, room)
    except ConnectError as error:
        # If it was not refused, it waited in the queue for longer than it could.
        tally.wrong("connections refused", repr(error))
        return False
    return True


async def reach(port: int, response: Response, room: int | None = None) -> None:
    """As :func:`connect`. Raises ConnectError."""
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port, timeout=10)
    await connectProtocol(endpoint, response)
    if room is not None and response.transport.connected:
        connection = response.transport.getHandle()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)

"""
Server-Sent Events: a subscription on a response that does not end.

Which bytes are sent is the feed's business; this is only their way to the
client: headers, the reconnection time in front of the first event, and the
transport's "enough" and "more".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet import tcp
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from pushd import wire
from pushd.feed import Feeds
from pushd.interfaces import ISubscriber
from pushd.peer import silent, taken
from pushd.subscription import Subscription
from pushd.topic import Topic
from pushd.transports.response import Response
from pushd.wire import WireFormat

HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
"""
``no-transform`` keeps compressing proxies from holding events back (RFC 9111,
section 5.2.2.6); nginx takes the last one as its order not to buffer.
"""


LOOKS = 5
"""How often it is looked whether one who stands still takes anything, in the time that he has."""


@implementer(IPushProducer, ISubscriber)
class SSEStream:
    """
    :param response: written by this stream from here on.
    :param head: what goes out in front of the body.
    :param peer: the client's address, for the log.
    :param client: what the page calls itself.
    :param retry: seconds after which the client is to come back if it drops.
    :param client_timeout: seconds for which it may take nothing of what there is to read.
    :param peer_timeout: seconds after which a peer that acknowledges nothing is lost.
    :param hello: whether the client wants to be greeted.
    """

    __slots__ = (
        "_client_timeout",
        "_clock",
        "_end",
        "_full",
        "_head",
        "_opening",
        "_peer_timeout",
        "_response",
        "_send",
        "_slow",
        "_subscription",
        "_taken",
        "_transport",
        "_until",
        "_waiting",
        "client",
        "peer",
    )

    def __init__(
        self,
        response: Response,
        head: bytes,
        *,
        peer: str,
        client: str | None,
        retry: float,
        client_timeout: float,
        peer_timeout: float,
        hello: bool,
    ) -> None:
        self.peer = peer
        self.client = client
        self._response = response
        self._client_timeout = client_timeout
        self._peer_timeout = peer_timeout
        self._full = False
        self._slow = False
        self._taken: int | None = None
        self._until = 0.0
        self._waiting: IDelayedCall | None = None
        self._head = head
        self._opening = wire.sse_opening(retry, hello)
        self._end = b""
        transport: Any = response.channel.transport
        self._transport = transport
        # Of a transport that is a socket and nothing else, such as TLS.
        self._send = transport.socket.send if isinstance(transport, tcp.Server) else None
        self._subscription: Subscription | None = None

    def open(
        self, feeds: Feeds, topics: Sequence[Topic], format: WireFormat, given: str | None
    ) -> None:
        """Subscribe; see :meth:`Feeds.subscribe`."""
        self._clock = feeds.clock
        # It may have been so since an answer before this one.
        self._slow = self._response.channel.patient
        self._head += format.begin(self._opening)
        self._end = format.end
        self._opening = b""
        subscription = feeds.subscribe(topics, format, self, given)
        self._subscription = subscription
        self._response.begin(self)
        subscription.pull()
        if feeds.closed and self._subscription is not None:
            # It came on a connection that was accepted before, and has been told when to return.
            subscription.cut("drained")

    def lost(self, reason: Failure) -> None:
        """The connection is no more, however it was lost."""
        subscription = self._subscription
        self._over()
        if subscription is not None:
            why = reason.check(ConnectionDone)
            subscription.leave("client left" if why else "connection lost")

    def _over(self) -> None:
        self._subscription = None
        self._stop_waiting()

    # What the subscription asks.

    def write(self, data: bytes) -> None:
        """
        See :meth:`ISubscriber.write`.

        Where nothing waits to be sent, it is sent at once: through the transport,
        a write takes two calls to epoll and a turn of the reactor besides.
        """
        if self._head:
            data, self._head = self._head + data, b""
        if self._slow and silent(self._transport) > self._peer_timeout:
            self._transport.abortConnection()
            return
        transport = self._transport
        if self._send and not transport.dataBuffer and not transport._tempDataBuffer:
            try:
                sent = self._send(data)
            except OSError:
                # Full, or lost: the transport will find out which.
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        transport.write(data)

    def finish(self) -> None:
        """See :meth:`ISubscriber.finish`."""
        self._over()
        if self._end:
            self.write(self._end)
        self._response.finish()

    def cut(self) -> None:
        """
        See :meth:`ISubscriber.cut`. The body has no end: fetch-event-source
        takes one for the end of it all, and does not come back.
        """
        self._over()
        if self._full:
            # Losing it would first wait for a client that does not read.
            self._response.abort()
        else:
            self._response.cut()

    # What the transport says.

    def pauseProducing(self) -> None:
        """It has more than it can send; said again at every write while it has."""
        if not self._full:
            self._full = True
            # The channel has told the system to be patient, for good. From now on
            # it is our clock that counts.
            self._slow = True
            self._wait()
        if self._subscription is not None:
            self._subscription.pause()

    def resumeProducing(self) -> None:
        """It has sent all."""
        self._full = False
        self._stop_waiting()
        if self._subscription is not None:
            self._subscription.resume()

    def stopProducing(self) -> None:
        """The connection is lost; the response says so too, and always."""

    # How long a client may take nothing.

    def _wait(self) -> None:
        if self._subscription is not None:
            self._taken = taken(self._transport)
            self._until = self._clock.seconds() + self._client_timeout
            self._look_later()

    def _look_later(self) -> None:
        """Several times: what was on its way when it stopped is taken a moment later."""
        often = min(self._client_timeout, self._peer_timeout) / LOOKS
        self._waiting = self._clock.callLater(often, self._look)

    def _look(self) -> None:
        """A slow reader may go on; one who takes nothing may not, nor one who is not there."""
        self._waiting = None
        now = taken(self._transport)
        if silent(self._transport) > self._peer_timeout:
            self._transport.abortConnection()
        elif now is not None and now != self._taken:
            self._wait()
        elif self._clock.seconds() < self._until:
            self._look_later()
        elif self._subscription is not None:
            self._subscription.cut("stalled")

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

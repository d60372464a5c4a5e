"""
Server-Sent Events: a subscription on a response that does not end.

Which bytes are sent is the feed's business; this is only their way to the
client: headers, the reconnection time in front of the first event, and the
transport's "enough" and "more".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from twisted.internet.interfaces import IPushProducer, ITCPTransport
from twisted.python.failure import Failure
from twisted.web.http import Request
from zope.interface import implementer

from pushd import wire
from pushd.feed import Feeds, Subscription
from pushd.interfaces import ISubscriber
from pushd.topic import Topic
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


@implementer(IPushProducer, ISubscriber)
class SSEStream:
    """
    :param request: answered by this stream from here on.
    :param retry: seconds after which the client is to come back if it drops.
    :param hello: whether the client wants to be greeted.
    """

    def __init__(self, request: Request, retry: float, hello: bool) -> None:
        self._request = request
        self._hello = hello
        self._full = False
        self._first = wire.sse_opening(retry, hello)
        self._subscription: Subscription | None = None

    def open(
        self, feeds: Feeds, topics: Sequence[Topic], format: WireFormat, given: str | None
    ) -> None:
        """Subscribe; see :meth:`Feeds.subscribe`."""
        if self._hello:
            format = wire.HELLO[format.name]
        subscription = feeds.subscribe(topics, format, self, given)
        self._subscription = subscription
        self._request.notifyFinish().addErrback(self._left, subscription)
        self._request.registerProducer(self, True)
        subscription.pull()

    def _left(self, _: Failure, subscription: Subscription) -> None:
        """The connection is lost, however it was."""
        self._subscription = None
        subscription.leave()

    # What the subscription asks.

    def write(self, data: bytes) -> None:
        """See :meth:`ISubscriber.write`."""
        if self._first:
            data, self._first = self._first + data, b""
        self._request.write(data)

    def finish(self) -> None:
        """See :meth:`ISubscriber.finish`."""
        self._subscription = None
        self._request.unregisterProducer()
        self._request.finish()

    def cut(self) -> None:
        """
        See :meth:`ISubscriber.cut`. The body has no end: fetch-event-source
        takes one for the end of it all, and does not come back.
        """
        self._subscription = None
        self._request.unregisterProducer()
        if self._full:
            # Losing it would first wait for a client that does not read.
            cast("ITCPTransport", self._request.channel.transport).abortConnection()
        else:
            self._request.loseConnection()

    # What the transport says.

    def pauseProducing(self) -> None:
        """It has more than it can send; said again at every write while it has."""
        self._full = True
        if self._subscription is not None:
            self._subscription.pause()

    def resumeProducing(self) -> None:
        """It has sent all."""
        self._full = False
        if self._subscription is not None:
            self._subscription.resume()

    def stopProducing(self) -> None:
        """The connection is lost; notifyFinish says so too, and always."""

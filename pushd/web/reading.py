"""
Reading topics: ``GET /topics/{topic}`` and ``GET /events``.

One topic as a stream or as its document, several as a stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.logger import Logger
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from werkzeug.http import parse_etags

from pushd import wire
from pushd.config import Server
from pushd.errors import ClientError
from pushd.event import Payload, Position, mark
from pushd.feed import Feeds
from pushd.interfaces import IHub
from pushd.sources.catalogue import Catalogue
from pushd.topic import DocumentTopic, Topic
from pushd.transports.sse import HEADERS, SSEStream
from pushd.web import asked
from pushd.web.site import PushRequest
from pushd.wire import SSE, SSE_WITH_TOPIC, WireFormat


class Reading:
    """
    :param chance: a random number from [0, 1), for the spread of reconnections.
    """

    log = Logger()

    def __init__(
        self,
        hub: IHub,
        feeds: Feeds,
        catalogue: Catalogue,
        server: Server,
        chance: Callable[[], float],
    ) -> None:
        self._hub = hub
        self._feeds = feeds
        self._catalogue = catalogue
        self._server = server
        self._chance = chance

    async def topic(self, request: IRequest, name: str) -> Resource | bytes:
        """``GET /topics/{topic}``. Raises ClientError."""
        request.responseHeaders.addRawHeader("Vary", "Accept")
        wanted = asked.representation(request, (asked.EVENT_STREAM, asked.JSON))
        given = asked.headers(request, self._catalogue.forwardable)
        topic = await self._catalogue.topic(name, given)
        if topic.ended:
            return _no_content(request)
        if wanted == asked.JSON:
            return await self._document(request, topic)
        return self._stream(request, [topic], SSE)

    async def events(self, request: IRequest) -> Resource | bytes:
        """``GET /events?topic=a&topic=b``. Raises ClientError."""
        request.responseHeaders.addRawHeader("Vary", "Accept")
        asked.representation(request, (asked.EVENT_STREAM,))
        given = asked.headers(request, self._catalogue.forwardable)
        names = list(dict.fromkeys(asked.parameters(request, "topic")))
        if not names:
            raise ClientError(400, "At least one topic is needed: ?topic=NAME.", parameter="topic")
        topics = await self._catalogue.topics(names, given)
        topics = [topic for topic in topics if not topic.ended]
        return self._stream(request, topics, SSE_WITH_TOPIC) if topics else _no_content(request)

    def _stream(
        self, request: IRequest, topics: Sequence[Topic], format: WireFormat
    ) -> Resource | bytes:
        assert isinstance(request, PushRequest)
        client = asked.client(request)
        chunked = asked.switch(request, "chunked", self._server.chunked)
        hello = asked.switch(request, "hello", False)
        for name, value in HEADERS.items():
            request.setHeader(name, value)
        if request.method == b"HEAD":
            return b""
        if not chunked:
            request.end_with_connection()
        if client is not None:
            self.log.debug(
                "{client} reads {topics}", client=client, topics=[t.name for t in topics]
            )
        retry = self._server.retry + self._server.retry_spread * self._chance()
        stream = SSEStream(request, retry, hello)
        return _Stream(
            lambda: stream.open(self._feeds, topics, format, asked.last_event_id(request))
        )

    async def _document(self, request: IRequest, topic: Topic) -> bytes:
        """The document now; for a topic that nobody watches, it is asked for once."""
        if not isinstance(topic, DocumentTopic):
            raise ClientError(
                406,
                f"{topic.name!r} has messages, no document.",
                parameter="Accept",
                extra={"offers": [asked.EVENT_STREAM]},
            )
        if topic.document is None or not self._hub.watched(topic):
            self._hub.watch(topic)
            try:
                await self._hub.refresh(topic)
            finally:
                self._hub.unwatch(topic)
        document = topic.document
        if document is None:
            reason = topic.status.reason or "The source has not answered yet."
            raise ClientError(502, reason, headers={"Retry-After": "5"})
        etag = str(Position(self._hub.epoch, topic.seq, mark=mark([topic.key])))
        request.setHeader("ETag", f'"{etag}"')
        private = topic.key != topic.name
        request.setHeader("Cache-Control", "private, no-cache" if private else "no-cache")
        # Weak comparison (RFC 9110, section 13.1.2): a proxy that compresses weakens an ETag.
        if parse_etags(asked.header(request, "If-None-Match")).contains_weak(etag):
            request.setResponseCode(304)
            return b""
        body = wire.as_json(Payload(None, document.data, document.is_json))
        request.setHeader("Content-Type", asked.JSON)
        request.setHeader("Content-Length", str(len(body)))
        return body


class _Stream(Resource):
    """A response that goes on. Returned to Klein, which for a Deferred would keep more memory."""

    isLeaf = True

    def __init__(self, open: Callable[[], None]) -> None:
        super().__init__()
        self._open = open

    def render(self, request: IRequest) -> int:
        self._open()
        return NOT_DONE_YET


def _no_content(request: IRequest) -> bytes:
    """A topic has ended: EventSource does not come back (WHATWG HTML, section 9.2.3)."""
    request.setResponseCode(204)
    return b""

"""
Reading topics: ``GET /topics/{topic}`` and ``GET /events``.

One topic as a stream or as its document, several as a stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from werkzeug.http import parse_etags

from pushd import wire
from pushd.config import Server
from pushd.errors import BusyError, ClientError, HistoryError
from pushd.event import Payload, Position, mark
from pushd.feed import Feeds
from pushd.interfaces import IHub
from pushd.metrics import Metrics
from pushd.sources.catalogue import Catalogue
from pushd.topic import DocumentTopic, Topic
from pushd.transports.sse import HEADERS, SSEStream
from pushd.web import asked
from pushd.web.admission import Admission, Seat
from pushd.web.site import PushRequest
from pushd.wire import SSE, SSE_WITH_TOPIC, WireFormat

_OFFERS = (asked.EVENT_STREAM, asked.JSON)


class Reading:
    """
    :param admission: gives streams their seats.
    :param metrics: count those for whom there is no room.
    :param chance: a random number from [0, 1), for the spread of reconnections.
    """

    def __init__(
        self,
        hub: IHub,
        feeds: Feeds,
        catalogue: Catalogue,
        server: Server,
        admission: Admission,
        metrics: Metrics,
        chance: Callable[[], float],
    ) -> None:
        self._hub = hub
        self._feeds = feeds
        self._catalogue = catalogue
        self._server = server
        self._admission = admission
        self._metrics = metrics
        self._chance = chance

    async def topic(self, request: IRequest, name: str) -> Resource | bytes:
        """``GET /topics/{topic}``. Raises ClientError, and for a document HistoryError."""
        request.responseHeaders.addRawHeader("Vary", "Accept")
        wanted = asked.representation(request, _OFFERS)
        if wanted == asked.EVENT_STREAM:
            return await self._stream(request, [name], SSE)
        try:
            return await self._document(request, name)
        except BusyError as error:
            self._metrics.refused(error.why)
            raise

    def at_once(self, request: Any, name: str, prepare: Callable[[Any], None]) -> bool:
        """
        ``GET /topics/{topic}`` as nearly all ask for it, answered here and now: for a
        stream, with no parameters, of a topic that is there.

        :param request: a :class:`pushd.web.plain.PlainRequest`.
        :param prepare: called before it is answered.
        :returns: whether it was; if not, nothing was done.
        """
        try:
            if asked.representation(request, _OFFERS) != asked.EVENT_STREAM:
                return False
            topic = self._catalogue.at_hand(name)
            forwardable = self._catalogue.forwardable
            if topic is None or (forwardable and asked.headers(request, forwardable)):
                return False
            if self._is_ahead(asked.last_event_id(request)):
                return False
            seat = self._admission.admit(request)
        except (ClientError, BusyError):
            return False
        prepare(request)
        chunked = self._server.chunked
        compressed = self._compressed(request)
        self._begin(
            request,
            [topic],
            SSE,
            seat,
            chunked=chunked,
            client=None,
            hello=False,
            compressed=compressed,
            vary=b"Vary: Accept\r\n",
        )
        return True

    def _is_ahead(self, given: str | None) -> bool:
        """Whether a client with this id has heard from another node what is not known here yet."""
        position = None if given is None else Position.parse(given)
        return (
            position is not None
            and position.epoch == self._hub.epoch
            and position.seq > self._hub.head
        )

    async def events(self, request: IRequest) -> Resource | bytes:
        """``GET /events?topic=a&topic=b``. Raises ClientError."""
        request.responseHeaders.addRawHeader("Vary", "Accept")
        asked.representation(request, (asked.EVENT_STREAM,))
        names = list(dict.fromkeys(asked.parameters(request, "topic")))
        most = self._server.max_topics_per_client
        if not names:
            raise ClientError(400, "At least one topic is needed: ?topic=NAME.", parameter="topic")
        if len(names) > most:
            raise ClientError(
                400,
                f"A connection reads at most {most} topics (max_topics_per_client).",
                parameter="topic",
            )
        return await self._stream(request, names, SSE_WITH_TOPIC)

    async def _topics(self, request: IRequest, names: Sequence[str]) -> list[Topic]:
        """
        The topics called `names`, as they are for this client.

        :raises ClientError: there is one that it cannot have, or a header that
            none of their sources would be given.
        """
        given = asked.headers(request, self._catalogue.forwardable)
        position = Position.parse(asked.last_event_id(request) or "")
        if position is not None and position.epoch == self._hub.epoch:
            await self._hub.reach(position.seq)
        topics = await self._catalogue.topics(names, given, returning=position is not None)
        named = asked.header_names(request)
        unwanted = named and named - self._catalogue.wanted(names)
        if unwanted:
            which = "this topic" if len(names) == 1 else "any of these topics"
            detail = f"The header {min(unwanted)!r} is not forwarded to the source of {which}."
            raise ClientError(400, detail, parameter="header")
        return topics

    async def _stream(
        self, request: IRequest, names: Sequence[str], format: WireFormat
    ) -> Resource | bytes:
        assert isinstance(request, PushRequest)
        client = asked.client(request)
        chunked = asked.switch(request, "chunked", self._server.chunked)
        chunked = chunked and request.clientproto == b"HTTP/1.1"
        hello = asked.switch(request, "hello", False)
        compressed = self._compressed(request)
        try:
            topics = await self._topics(request, names)
            if all(topic.ended for topic in topics):
                return _no_content(request)
            if request.method == b"HEAD":
                _set_headers(request, compressed=compressed)
                return b""
            seat = self._admission.admit(request)
        except BusyError as error:
            return self._send_away(request, chunked, error.why, error.detail)
        except HistoryError as error:
            reason = f"The history is not available: {error}"
            return self._send_away(request, chunked, "history", reason)
        self._begin(
            request,
            topics,
            format,
            seat,
            chunked=chunked,
            client=client,
            hello=hello,
            compressed=compressed,
        )
        return _ONGOING

    def _begin(
        self,
        request: Any,
        topics: Sequence[Topic],
        format: WireFormat,
        seat: Seat,
        *,
        chunked: bool,
        client: str | None,
        hello: bool,
        compressed: bool,
        vary: bytes = b"",
    ) -> None:
        """Answer with a stream; from here on the request is spent."""
        given = asked.last_event_id(request)
        head = request.begin_stream(chunked, vary + _LINES[compressed])
        stream = SSEStream(
            request.hand_over(chunked, seat.leave),
            head,
            peer=seat.peer,
            client=client,
            retry=self._server.retry + self._server.retry_spread * self._chance(),
            client_timeout=self._server.client_timeout,
            peer_timeout=self._server.peer_timeout,
            hello=hello,
        )
        if hello:
            format = wire.greeting(format)
        if compressed:
            format = wire.gzipped(format)
        if chunked:
            format = wire.chunked(format)
        stream.open(self._feeds, topics, format, given)

    def _compressed(self, request: IRequest) -> bool:
        """
        Whether a stream is to be compressed. Raises ClientError.

        Some libraries hold compressed bytes back, for good even. Browsers do not;
        others have to ask for it, or the operator has to know them all.
        """
        compress = self._server.compress
        wanted = compress == "all" or asked.by_browser(request)
        wanted = asked.switch(request, "compress", wanted)
        return wanted and compress != "never" and asked.takes_gzip(request)

    def _send_away(self, request: PushRequest, chunked: bool, why: str, reason: str) -> Resource:
        """
        Have a client come back later that wants a stream.

        Any error would end an EventSource for good. So the stream begins, says
        when to come back, and is broken off: fetch-event-source, for one, takes
        an orderly end for the end of it all.

        :param why: one or two words for the metrics.
        """
        self._metrics.refused(why)
        retry = self._server.retry_when_busy * (1 + self._chance())
        body = wire.sse_later(retry, reason)
        head = request.begin_stream(chunked, _LINES[False])
        request.channel.write(head + (wire.chunk(body) if chunked else body))
        request.loseConnection()
        return _ONGOING

    async def _document(self, request: IRequest, name: str) -> bytes:
        """The document now; for a topic that nobody watches, it is asked for once."""
        (topic,) = await self._topics(request, [name])
        if topic.ended:
            raise _gone(name)
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
            if topic.ended:
                raise _gone(name)
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


class _Ongoing(Resource):
    """
    What Klein is given for a response that has begun and goes on. For a
    Deferred it would keep more memory.
    """

    isLeaf = True

    def render(self, request: IRequest) -> int:
        return NOT_DONE_YET


_ONGOING = _Ongoing()


_LINES = {
    compressed: "".join(
        f"{name}: {value}\r\n"
        for name, value in {
            **HEADERS,
            "Vary": "Accept-Encoding",
            **({"Content-Encoding": "gzip"} if compressed else {}),
        }.items()
    ).encode()
    for compressed in (False, True)
}
"""The headers of a stream, as they are sent; by whether it is compressed."""


def _set_headers(request: PushRequest, *, compressed: bool) -> None:
    """Set the headers of a stream, for one who asks for no more than these."""
    for name, value in HEADERS.items():
        request.setHeader(name, value)
    request.responseHeaders.addRawHeader("Vary", "Accept-Encoding")
    if compressed:
        request.setHeader("Content-Encoding", "gzip")


def _gone(name: str) -> ClientError:
    return ClientError(410, f"The topic {name!r} has ended.", parameter="topic")


def _no_content(request: IRequest) -> bytes:
    """A topic has ended: EventSource does not come back (WHATWG HTML, section 9.2.3)."""
    request.setResponseCode(204)
    return b""

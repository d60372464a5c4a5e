"""What a connection may cost, and how its end is noticed."""

from __future__ import annotations

import gc
import socket
import ssl
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from house import dumps
from served import Answer, Connection, Served
from test_sse import stalled
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint, wrapServerTLS
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IListeningPort, IProtocolNegotiationFactory
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.logger import formatEvent
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from upstream import reactor, until
from upstream.certificates import Authority

from pushd.config import Server
from pushd.event import Document, Draft, Payload
from pushd.throttle import MOST, SECONDS
from pushd.web import channel as channels
from pushd.web.channel import LINGER, MOST_BEHIND, PushChannel
from pushd.web.site import DROPPED, PushRequest, make_site

SERVER = Server(header_timeout=10.0, body_timeout=30.0, client_timeout=40.0, max_header=2000)
BODY = 100
"""Bytes that a body may have here."""

GET = b"GET /now HTTP/1.1\r\nHost: a\r\n\r\n"
LATER = b"GET /later HTTP/1.1\r\nHost: a\r\n\r\n"


class Answers(Resource):
    """Answers at once, or, under ``/later``, when :meth:`answer` is called; ``/wrong`` is wrong."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Request] = []
        self.answered = 0

    def render(self, request: Request) -> Any:
        self.asked.append(request)
        request.setResponseCode(400 if request.path == b"/wrong" else 200)
        return NOT_DONE_YET if request.path == b"/later" else self._body(request)

    def answer(self, size: int = 2) -> None:
        request = self.asked[-1]
        request.write(self._body(request).ljust(size))
        request.finish()

    def _body(self, request: Request) -> bytes:
        self.answered += 1
        return b"ok"


class Transport(StringTransport):
    """One that is not lost before it is said to be."""

    def abortConnection(self) -> None:
        self.disconnected = True


class Client:
    """A connection without a socket, on a clock."""

    def __init__(self, server: Server = SERVER) -> None:
        self.clock = Clock()
        self.answers = Answers()
        self.site = make_site(self.answers, server, BODY, self.clock)
        self.channel: Any = self.site.buildProtocol(None)
        self.transport = Transport()
        self.channel.makeConnection(self.transport)

    def send(self, *data: bytes) -> Client:
        for part in data:
            self.channel.dataReceived(part)
        return self

    def turn(self) -> None:
        self.clock.advance(0)

    def leave(self) -> None:
        self.channel.connectionLost(Failure(ConnectionDone()))

    @property
    def received(self) -> bytes:
        return self.transport.value()

    @property
    def answer(self) -> Answer:
        return Answer(self.received)

    @property
    def aborted(self) -> bool:
        return bool(getattr(self.transport, "disconnected", False))

    @property
    def open(self) -> bool:
        return not self.transport.disconnecting and not self.aborted


def refused(received: bytes, status: int, said: str) -> Answer:
    """Asserts that this, and only this, was answered."""
    got = Answer(received)
    assert got.status == status, received
    assert got.headers["content-type"] == "application/problem+json"
    assert got.headers["connection"] == "close"
    assert got.headers["cache-control"] == "no-store"
    assert "date" in got.headers
    assert int(got.headers["content-length"]) == len(got.raw_body)
    assert got.json["status"] == status
    assert said in got.json["detail"]
    return got


# How long a request may take.


def test_a_header_that_trickles_has_no_more_time_than_any_other() -> None:
    client = Client()
    for byte in b"GET / HTTP":
        assert not client.received
        client.send(bytes([byte]))
        client.clock.advance(1)
    refused(client.received, 408, "server.header_timeout")


def test_a_connection_that_sends_nothing_is_closed_without_a_word() -> None:
    client = Client()
    client.clock.advance(9.9)
    assert client.open
    client.clock.advance(0.1)
    assert not client.open
    assert client.received == b""


def test_an_empty_line_is_nothing() -> None:
    client = Client().send(b"\r\n")
    client.clock.advance(10)
    assert not client.open
    assert client.received == b""


def test_the_time_for_a_header_begins_with_the_end_of_the_answer_before() -> None:
    client = Client()
    for _ in range(3):
        client.clock.advance(9)
        client.send(GET)
    assert client.received.count(b"200 OK") == 3
    client.clock.advance(9.9)
    assert client.open
    before = client.received
    client.clock.advance(0.1)
    assert not client.open
    assert client.received == before


def test_a_header_that_was_begun_behind_an_answer_is_late_too() -> None:
    client = Client().send(GET, b"GET /")
    client.transport.clear()
    client.clock.advance(10)
    refused(client.received, 408, "server.header_timeout")


def test_after_a_body_the_time_for_a_header_is_that_for_headers() -> None:
    client = Client().send(b"POST /now HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n")
    client.clock.advance(1)
    client.send(b"x")
    client.clock.advance(10)
    assert not client.open


@pytest.mark.parametrize("how", ["Content-Length: 90", "Transfer-Encoding: chunked"])
def test_a_body_that_trickles_has_a_deadline_of_its_own(how: str) -> None:
    client = Client()
    client.clock.advance(9)
    client.send(f"POST /now HTTP/1.1\r\nHost: a\r\n{how}\r\n\r\n".encode())
    for _ in range(30):
        assert not client.received
        client.send(b"0")
        client.clock.advance(1)
    refused(client.received, 408, "server.body_timeout")


def test_while_a_request_is_answered_there_is_no_deadline_and_no_timer() -> None:
    client = Client().send(LATER)
    assert not client.clock.getDelayedCalls()
    client.clock.advance(1e6)
    assert client.open
    client.answers.answer()
    assert client.answer.body == b"ok"


def test_one_who_was_refused_is_not_heard_any_more_and_gone_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # However much is taken of what was written before.
    monkeypatch.setattr(channels, "taken", lambda _: client.clock.seconds())
    client = Client().send(b"nonsense\r\n", GET, b"more\r\n" + GET)
    refused(client.received, 400, "HTTP/1.1")
    assert not client.answers.asked
    client.clock.advance(LINGER - 0.1)
    assert not client.aborted
    client.clock.advance(0.1)
    assert client.aborted


def test_what_came_in_one_piece_with_what_is_refused_is_not_heard_either() -> None:
    client = Client().send(b"GET / HTTP/1.1\r\nHost: a\r\nno header\r\n\r\n" + GET)
    refused(client.received, 400, "HTTP/1.1")
    assert not client.answers.asked


def test_one_who_is_sent_away_for_silence_and_does_not_go_is_thrown_out() -> None:
    client = Client()
    client.clock.advance(10)
    client.clock.advance(LINGER)
    assert client.aborted


# How large it may be.


def url(size: int) -> bytes:
    return b"GET " + b"/now?".ljust(size, b"x") + b" HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        (url(1001) + b"\r\n", 414, "server.max_url"),
        (url(2500) + b"\r\n", 414, "server.max_url"),
        (url(2500)[:2100], 414, "server.max_url"),
        (url(900) + b"A: " + b"x" * 1200 + b"\r\n\r\n", 431, "server.max_header"),
        (url(900) + b"A: x\r\n" * 400, 431, "server.max_header"),
        (url(9) + b"A: " + b"x" * 2500 + b"\r\n\r\n", 431, "server.max_header"),
        (url(9) + b"A: " + b"x" * 2500, 431, "server.max_header"),
        (b"X" * 2500, 431, "server.max_header"),
        (url(9) + b"A:\r\n" * 501 + b"\r\n", 431, "500 headers"),
        (b"POST /now HTTP/1.1\r\nHost: a\r\nContent-Length: 1601\r\n\r\n", 413, "publish.max_body"),
        (b"GET /now HTTP/1.1\r\nHost: a\r\nContent-Length: 1601\r\n\r\n", 413, "publish.max_body"),
        (
            b"POST /now HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"1\r\nx\r\n" * 1601,
            413,
            "publish.max_body",
        ),
        (
            b"POST /now HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 101\r\n\r\n",
            413,
            "publish.max_body",
        ),
    ],
)
@pytest.mark.parametrize("bytewise", [False, True])
def test_what_is_too_large_is_refused(sent: bytes, status: int, said: str, bytewise: bool) -> None:
    client = Client(Server(max_header=2000, max_url=1000))
    client.send(*(bytes([byte]) for byte in sent)) if bytewise else client.send(sent)
    refused(client.received, status, said)
    assert not client.answers.asked
    assert not client.received.startswith(b"HTTP/1.1 100")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (url(101) + b"\r\n", 414),
        (url(2500) + b"\r\n", 414),
        (url(9) + b"A: " + b"x" * 2500 + b"\r\n\r\n", 431),
        (url(9) + b"no colon\r\n\r\n", 400),
        (url(9) + b"Content-Length: 1, 1\r\n\r\n", 400),
        (url(9) + b"Content-Length: " + b"9" * 1500 + b"\r\n\r\n", 413),
        (url(9) + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
    ],
)
@pytest.mark.parametrize("bytewise", [False, True])
def test_a_refused_head_has_no_body(sent: bytes, status: int, bytewise: bool) -> None:
    client = Client(Server(max_header=2000, max_url=100))
    sent = sent.replace(b"GET", b"HEAD")
    client.send(*(bytes([byte]) for byte in sent)) if bytewise else client.send(sent)
    assert client.answer.status == status
    assert int(client.answer.headers["content-length"]) > 0
    assert client.answer.raw_body == b""


def test_a_head_that_does_not_come_to_its_end_is_refused_without_a_body() -> None:
    client = Client().send(GET.replace(b"GET", b"HEAD"), b"HEAD / HTTP/1.1\r\nHos")
    client.transport.clear()
    client.clock.advance(10)
    assert client.answer.status == 408
    assert client.answer.raw_body == b""


def test_a_refusal_behind_a_head_has_its_body() -> None:
    client = Client().send(GET.replace(b"GET", b"HEAD"))
    client.transport.clear()
    client.send(b"nonsense\r\n")
    refused(client.received, 400, "HTTP/1.1")


@pytest.mark.parametrize("size", [100, 1000, 60_000])
def test_what_is_as_large_as_it_may_be_is_answered(size: int) -> None:
    client = Client(Server(max_header=max(size + 1000, 1024), max_url=size))
    # Of the header, its line ends do not count.
    rest = max(size + 1000, 1024) - len(url(size)) + 4 - len(b"A: ")
    client.send(url(size) + b"A: " + b"x" * rest + b"\r\n\r\n")
    assert client.answer.status == 200
    (request,) = client.answers.asked
    assert len(request.uri) == size
    other = Client(Server(max_header=max(size + 1000, 1024), max_url=size))
    other.send(url(size) + b"A: " + b"x" * (rest + 1) + b"\r\n\r\n")
    refused(other.received, 431, "server.max_header")


def test_each_request_has_a_header_of_its_own() -> None:
    client = Client()
    for number in range(1, 6):
        client.send(url(900) + b"A: " + b"x" * 900 + b"\r\n\r\n")
        assert client.received.count(b"200 OK") == number


def test_a_body_that_is_too_large_is_read_and_the_request_says_so() -> None:
    client = Client()
    client.send(
        b"POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: 1600\r\n\r\n", b"x" * 60, b"x" * 1540
    )
    (request,) = client.answers.asked
    assert isinstance(request, PushRequest) and request.too_large
    assert request.content is not None and request.content.read() == b""
    assert DROPPED * BODY == 1600


def test_a_body_that_nobody_wants_is_not_kept() -> None:
    client = Client().send(
        b"GET /later HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n" + b"x" * 100
    )
    (request,) = client.answers.asked
    assert request.content is not None and request.content.read() == b""
    client.send().answers.answer()
    assert client.answer.status == 200


# What is a request.


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /\r\n",
        b"GET / HTTP/0.9\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0",
        b"\xff" * 10,
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\n\r\n",
        b"\r\n\r\n\0\r\nQUIT\n!",
        b"GET / HTTP/1.1\r\n no field before it\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nA B: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nA: \0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: identity\r\n\r\n1",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 2000,
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        + b"A: b\r\n" * 20_000,
    ],
)
def test_what_is_no_request_is_told_so(sent: bytes, capture: list[dict[str, Any]]) -> None:
    client = Client(Server()).send(sent)
    refused(client.received, 400, "HTTP/1.1")
    assert not client.answers.asked
    assert [event["log_level"].name for event in capture] == ["info"]


def test_a_refusal_is_logged_once_and_without_what_was_sent(capture: list[dict[str, Any]]) -> None:
    Client().send(b"GET /?access_token=geheim HTTP/1.1\r\nAuthorization: geheim\r\ngeheim\r\n", GET)
    (event,) = capture
    assert "400" in event["log_format"].format(**event)
    assert "geheim" not in str(event)


def test_of_many_refusals_the_log_has_a_few_of_each_kind_and_their_number(
    capture: list[dict[str, Any]],
) -> None:
    client = Client()
    for number in range(1000):
        connection = client.site.buildProtocol(None)
        connection.makeConnection(Transport())
        connection.dataReceived(b"nonsense %d\r\n" % number)
    client.send(b"X" * 2500)
    assert len(capture) == MOST + 1
    client.clock.advance(SECONDS)
    assert len(capture) == MOST + 2
    assert formatEvent(capture[-1]).startswith(f"{1000 - MOST} more within 10 s: refused with 400 ")
    assert "nonsense" not in str(capture)


def test_of_many_answers_of_what_was_wrong_too_and_what_was_right_is_all_told(
    capture: list[dict[str, Any]],
) -> None:
    client = Client()
    client.site.startFactory()
    capture.clear()
    for _ in range(30):
        client.send(GET)
    assert len(capture) == 30
    for _ in range(30):
        client.send(GET.replace(b"now", b"wrong"))
    assert len(capture) == 30 + MOST
    client.clock.advance(SECONDS)
    assert formatEvent(capture[-1]) == f"{30 - MOST} more within 10 s: answered with 400"
    client.site.stopFactory()


def test_what_an_access_line_shows_of_a_request_is_bounded(capture: list[dict[str, Any]]) -> None:
    client = Client()
    client.site.startFactory()
    capture.clear()
    client.send(GET.replace(b"GET", b"G" * 1500))
    (event,) = capture
    assert 256 <= len(formatEvent(event)) < 500
    client.site.stopFactory()


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize(
    ("version", "hosts", "right"),
    [
        ("1.1", [], False),
        ("1.1", ["Host: a"], True),
        ("1.1", ["hOST:"], True),
        ("1.1", ["Host: a", "Host: a"], False),
        ("1.1", ["Host: a", "A: b", "host: b"], False),
        ("1.0", [], True),
        ("1.0", ["Host: a"], True),
        ("1.0", ["Host: a", "Host: b"], False),
    ],
)
def test_a_request_has_one_host_and_only_that_of_http_1_0_may_have_none(
    version: str, hosts: list[str], right: bool, bytewise: bool
) -> None:
    sent = "\r\n".join([f"GET /now HTTP/{version}", "B: c", *hosts, "", ""]).encode()
    client = Client()
    client.send(*(bytes([byte]) for byte in sent)) if bytewise else client.send(sent)
    if right:
        assert client.answer.status == 200
    else:
        refused(client.received, 400, "one Host")
        assert not client.answers.asked


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("http://a/now?x=/", "/now?x=/"),
        ("HTTPS://u:p@[::1]:8080/now", "/now"),
        ("http://a", "/"),
        ("http://a?x", "/?x"),
        ("/http://a/now", "/http://a/now"),
        ("//a/now", "//a/now"),
    ],
)
def test_of_a_whole_url_the_path_is_asked_for(target: str, path: str, bytewise: bool) -> None:
    sent = GET.replace(b"/now", target.encode())
    client = Client().send(*(bytes([byte]) for byte in sent) if bytewise else [sent])
    assert [request.uri for request in client.answers.asked] == [path.encode()]


def test_one_without_a_host_is_not_told_to_continue() -> None:
    client = Client()
    client.send(b"POST /now HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    refused(client.received, 400, "one Host")


def test_http_1_0_is_answered_and_closed() -> None:
    client = Client().send(b"GET /now HTTP/1.0\r\n\r\n", GET)
    assert client.answer.status == 200
    assert client.answers.answered == 1
    assert not client.open


def test_head_is_answered_without_a_body_and_the_connection_goes_on() -> None:
    client = Client().send(b"HEAD /now HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.answer.status == 200
    assert client.answer.raw_body == b""
    client.send(GET)
    assert client.received.endswith(b"ok")


def test_one_who_expects_it_is_told_to_continue() -> None:
    client = Client()
    client.send(
        b"POST /now HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    )
    assert client.received == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.transport.clear()
    client.send(b"xx")
    assert client.answer.status == 200


def test_chunked_bodies_and_others_share_a_connection() -> None:
    client = Client().send(
        b"POST /now HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        b"POST /now HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\ncd",
        GET,
    )
    assert client.received.count(b"200 OK") == 3
    assert client.open


# What comes behind a request.


def test_what_comes_behind_a_request_is_bounded() -> None:
    client = Client().send(LATER, b"x" * 1000, b"x" * (MOST_BEHIND - 1000))
    assert not client.aborted
    assert client.transport.producerState == "producing", "the end has to be seen"
    client.send(b"x")
    assert client.aborted


@pytest.mark.parametrize(
    "request_",
    [
        LATER,
        b"POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab",
        b"POST /later HTTP/1.1\r\nHost: a\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        GET,
    ],
)
@pytest.mark.parametrize("more", [0, 1])
def test_so_is_what_comes_in_one_piece_with_it(request_: bytes, more: int) -> None:
    client = Client().send(request_ + b"x" * (MOST_BEHIND + more))
    assert client.aborted == bool(more)


def test_it_is_bounded_also_while_the_client_takes_nothing() -> None:
    client = Client().send(LATER)
    client.channel.pauseProducing()
    client.send(b"x" * MOST_BEHIND)
    assert not client.aborted
    assert client.transport.producerState == "producing", "the end has to be seen"
    client.send(b"x")
    assert client.aborted


def test_a_flood_of_single_bytes_is_kept_in_one_piece() -> None:
    # Twisted adds up the list of pieces with each that comes: seconds, for 16 KiB.
    client = Client().send(LATER, *[b"x"] * 1000)
    assert len(client.channel._dataBuffer) == 1


def test_after_an_abort_nothing_is_answered() -> None:
    client = Client().send(LATER, GET * 1000)
    assert client.aborted
    client.answers.answer()
    client.turn()
    assert client.answers.answered == 1
    assert client.received.count(b"200 OK") == 1


def test_requests_behind_each_other_are_answered_in_turn_and_one_a_turn() -> None:
    client = Client().send(GET * 3 + LATER + GET)
    assert client.answers.answered == 1
    client.turn()
    assert client.answers.answered == 3
    client.answers.answer()
    client.turn()
    assert client.received.count(b"200 OK") == 5
    client.clock.advance(10)
    assert not client.open, "the time for a header goes on as ever"


def test_requests_in_pieces_behind_each_other_are_answered_too() -> None:
    post = b"POST /now HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab"
    client = Client().send(LATER)
    for byte in post * 3 + GET:
        client.send(bytes([byte]))
    client.answers.answer()
    for _ in range(5):
        client.turn()
    assert client.received.count(b"200 OK") == 5


def test_who_takes_no_answers_has_no_more_requests_answered() -> None:
    client = Client().send(LATER)
    client.channel.pauseProducing()
    client.answers.answer(100_000)
    client.send(GET * 2)
    for _ in range(10):
        client.turn()
    assert client.answers.answered == 1
    client.channel.resumeProducing()
    client.turn()
    assert client.answers.answered == 3


# How long an answer waits for its reader.


def test_who_takes_nothing_of_an_answer_is_thrown_out() -> None:
    client = Client().send(LATER)
    client.channel.pauseProducing()
    client.answers.answer(100_000)
    client.clock.advance(SERVER.client_timeout - 0.1)
    assert not client.aborted
    client.clock.advance(0.1)
    assert client.aborted


def test_who_takes_it_slowly_has_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    acknowledged = 0
    monkeypatch.setattr(channels, "taken", lambda _: acknowledged)
    client = Client().send(LATER)
    client.channel.pauseProducing()
    client.answers.answer(100_000)
    for _ in range(10):
        acknowledged += 1
        client.clock.advance(SERVER.client_timeout)
        assert client.open
    client.channel.resumeProducing()
    client.clock.advance(SERVER.header_timeout - 0.1)
    client.send(GET)
    assert client.received.count(b"200 OK") == 2


def test_who_takes_some_and_then_nothing_is_thrown_out(monkeypatch: pytest.MonkeyPatch) -> None:
    acknowledged = 0
    monkeypatch.setattr(channels, "taken", lambda _: acknowledged)
    client = Client().send(LATER)
    client.channel.pauseProducing()
    client.answers.answer(100_000)
    acknowledged += 1
    client.clock.advance(SERVER.client_timeout)
    assert not client.aborted
    client.clock.advance(SERVER.client_timeout)
    assert client.aborted


def test_a_closed_connection_that_does_not_end_is_ended() -> None:
    client = Client().send(b"GET /now HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert not client.open
    client.clock.advance(SERVER.client_timeout)
    assert client.aborted


# When the daemon ends.


def drained(client: Client) -> list[None]:
    """Ends the site, with half a second for requests on their way; filled when all have left."""
    done: list[None] = []
    Deferred.fromCoroutine(client.site.drain(client.clock, 0.5)).addBoth(done.append)
    return done


def last(client: Client, done: list[None]) -> None:
    """Asserts that its answer was the last, and that the end is there when it has left."""
    assert client.answer.body.endswith(b"ok") and not client.open and not done
    client.leave()
    assert done == [None]
    client.turn()
    assert client.clock.getDelayedCalls() == []


def test_at_the_end_the_answer_under_way_is_the_last_however_long_it_takes() -> None:
    client = Client().send(LATER)
    done = drained(client)
    client.clock.advance(5)
    assert client.open and not done
    client.answers.answer()
    assert client.answer.headers["connection"] == "close"
    last(client, done)


def test_at_the_end_an_answer_whose_header_was_sent_is_the_last_too() -> None:
    client = Client().send(LATER)
    client.answers.asked[-1].write(b"half of it, ")
    done = drained(client)
    client.answers.answer()
    assert "connection" not in client.answer.headers
    last(client, done)


@pytest.mark.parametrize("pieces", [[GET], [GET[:20], GET[20:]]], ids=["whole", "in two"])
@pytest.mark.parametrize("answered", [False, True])
def test_at_the_end_a_request_on_its_way_is_answered_as_the_last(
    answered: bool, pieces: list[bytes]
) -> None:
    client = Client()
    if answered:
        client.send(GET)
        client.transport.clear()
    done = drained(client)
    client.clock.advance(0.4)
    assert client.open and not done
    client.send(*pieces)
    assert client.answer.headers["connection"] == "close"
    last(client, done)


def test_at_the_end_who_asks_nothing_is_not_waited_for() -> None:
    client = Client()
    done = drained(client)
    client.clock.advance(0.5)
    assert not client.open and not done
    client.leave()
    assert done == [None]


def test_where_nobody_is_the_end_is_at_once() -> None:
    client = Client()
    client.leave()
    assert drained(client) == [None]
    assert client.clock.getDelayedCalls() == []


# What is left of a connection.


def nothing(client: Client) -> None:
    """Connects and leaves."""


def in_the_header(client: Client) -> None:
    client.send(b"GET / HTT")


def in_the_body(client: Client) -> None:
    client.send(b"POST /now HTTP/1.1\r\nHost: a\r\nContent-Length: 90\r\n\r\nx")


def in_the_chunks(client: Client) -> None:
    client.send(b"POST /now HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nx")


def after_an_answer(client: Client) -> None:
    client.send(GET)


def with_requests_behind(client: Client) -> None:
    client.send(GET * 3)


def in_an_answer(client: Client) -> None:
    client.send(LATER, GET)


def in_an_answer_that_was_not_taken(client: Client) -> None:
    client.send(LATER, GET)
    client.channel.pauseProducing()
    client.answers.answer(100_000)


def refused_before(client: Client) -> None:
    client.send(b"nonsense\r\n")


def refused_in_the_body(client: Client) -> None:
    in_the_body(client)
    client.clock.advance(40)


def flooding(client: Client) -> None:
    client.send(LATER, b"x" * 20_000)


def silent(client: Client) -> None:
    client.clock.advance(10)


def closing(client: Client) -> None:
    client.send(b"GET /now HTTP/1.0\r\n\r\n")


@pytest.mark.parametrize(
    "leave",
    [
        nothing,
        in_the_header,
        in_the_body,
        in_the_chunks,
        after_an_answer,
        with_requests_behind,
        in_an_answer,
        in_an_answer_that_was_not_taken,
        refused_before,
        refused_in_the_body,
        flooding,
        silent,
        closing,
    ],
)
def test_whoever_leaves_leaves_nothing_behind(leave: Callable[[Client], None]) -> None:
    client = Client()
    leave(client)
    errors: list[Failure] = []
    for request in client.answers.asked:
        if not request.finished:
            request.notifyFinish().addErrback(errors.append)
            assert leave in (in_an_answer, flooding)
    client.leave()
    assert len(errors) == (leave in (in_an_answer, flooding)), "a request hears of it"
    client.turn()
    assert not client.clock.getDelayedCalls()
    gone = weakref.ref(client.channel)
    client.answers.asked.clear()
    client.transport.producer = None
    del client.channel
    gc.collect()
    assert gone() is None


# HTTP/1.1 and nothing else.


def test_http_2_is_not_offered_even_if_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "H2_ENABLED", True)
    site = make_site(Answers(), SERVER, BODY)
    assert isinstance(site, Site) and IProtocolNegotiationFactory.providedBy(site)
    assert site.acceptableProtocols() == [b"http/1.1"]
    assert isinstance(site.buildProtocol(None), PushChannel)


# Over real sockets.


def talk(port: int, context: ssl.SSLContext | None, *sent: bytes) -> bytes:
    """What a client receives that sends everything before it reads anything."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        wrapped = context and context.wrap_socket(plain, suppress_ragged_eofs=False)
        with wrapped or plain as connection:
            for part in sent:
                connection.sendall(part)
            received = b""
            while part := connection.recv(65536):
                received += part
            return received


async def listening(tls: bool) -> tuple[IListeningPort, ssl.SSLContext | None, Site]:
    site = make_site(Answers(), Server(max_url=1000), 1000)
    endpoint: Any = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    if not tls:
        return await endpoint.listen(site), None, site
    identity = Authority().issue("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return await wrapServerTLS(identity, endpoint, reactor).listen(site), context, site


POST = b"POST /now HTTP/1.1\r\nHost: a\r\n"
CHUNK = b"10000\r\n" + b"x" * 65_536 + b"\r\n"


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    ("head", "piece", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: ", b"x" * 65_536, 431),
        (b"GET /", b"x" * 65_536, 414),
        (b"\x16\x03\x01", b"x" * 65_536, 400),
        (POST + b"Content-Length: 9000000\r\n\r\n", b"x" * 65_536, 413),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n", CHUNK, 413),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"x" * 65_536, 400),
    ],
)
async def test_one_who_is_still_sending_can_read_the_refusal(
    head: bytes, piece: bytes, status: int, tls: bool
) -> None:
    port, context, _ = await listening(tls)
    try:
        number = port.getHost().port
        received = await deferToThread(talk, number, context, head, *[piece] * 80)
        refused(received, status, "")
    finally:
        await port.stopListening()


CONFIG = """
[publish]
tokens = ["secret"]
topics = ["news", "other"]
"""
STREAM = "/topics/news"


def watchers(served: Served) -> int:
    return sum(served.daemon.hub._watchers.values())


def fin(client: Connection) -> None:
    client.transport.loseConnection()  # type: ignore[union-attr]


def half_close(client: Connection) -> None:
    client.transport.loseWriteConnection()  # type: ignore[union-attr]


def reset(client: Connection) -> None:
    client.abort()


async def idle(served: Served) -> Connection:
    return await served.stream(STREAM)


async def with_bytes_behind(served: Served) -> Connection:
    client = await served.stream(STREAM)
    client.transport.write(b"x" * (MOST_BEHIND - 100))  # type: ignore[union-attr]
    return client


async def full(served: Served) -> Connection:
    client = await stalled(served, STREAM)
    (stream,) = streams(served)
    while not stream._full:
        served.daemon.hub.publish(Draft("news", (Payload(None, dumps("x" * 400_000)),)))
        await deferLater(reactor, 0)
    return client


async def full_with_bytes_behind(served: Served) -> Connection:
    client = await full(served)
    client.transport.write(b"x" * (MOST_BEHIND - 100))  # type: ignore[union-attr]
    return client


def streams(served: Served) -> list[Any]:
    topic = served.daemon.hub.topics["news"]
    feeds = served.daemon.feeds._feeds.values()
    return [m.subscriber for feed in feeds if topic in feed.topics for m in feed.members]


STATES = [idle, with_bytes_behind, full, full_with_bytes_behind]


@pytest.mark.parametrize("leave", [fin, half_close, reset])
@pytest.mark.parametrize("state", STATES)
async def test_leaving_is_noticed_at_once(
    state: Callable[[Served], Awaitable[Connection]], leave: Callable[[Connection], None]
) -> None:
    async with Served(CONFIG) as served:
        other = await served.stream("/topics/other")
        assert watchers(served) == 1
        client = await state(served)
        assert watchers(served) == 2
        await deferLater(reactor, 0.05)
        assert watchers(served) == 2
        began = reactor.seconds()
        leave(client)
        await until(lambda: watchers(served) == 1)
        assert reactor.seconds() - began < 0.2
        assert len(served.daemon.feeds) == 1
        assert other.open


@pytest.mark.parametrize("state", STATES)
async def test_a_flood_behind_a_stream_ends_it_at_once(
    state: Callable[[Served], Awaitable[Connection]],
) -> None:
    async with Served(CONFIG) as served:
        client = await state(served)
        assert watchers(served) == 1
        began = reactor.seconds()
        client.transport.write(b"x" * (MOST_BEHIND + 1))  # type: ignore[union-attr]
        await until(lambda: watchers(served) == 0)
        assert reactor.seconds() - began < 0.2
        client.transport.resumeProducing()  # type: ignore[union-attr]
        await until(lambda: not client.open)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /topics/ne",
        b"POST /topics/news HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1",
        b"GET /topics/news HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /topics/news HTTP/1.1\r\nHost: a\r\n\r\nGET /",
        b"nonsense\r\n",
    ],
)
async def test_half_a_connection_is_none(sent: bytes) -> None:
    async with Served(CONFIG) as served:
        client = await served.connect()
        client.transport.write(sent)  # type: ignore[union-attr]
        half_close(client)
        await until(lambda: not client.open)
        assert watchers(served) == 0


async def test_pipelined_requests_share_the_reactor() -> None:
    async with Served(CONFIG) as served:
        client = await served.connect()
        client.transport.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 400)  # type: ignore[union-attr]
        await until(lambda: client.received.count(b"200 OK") >= 1)
        got = await served.ask("/healthz")
        assert got.status == 200
        assert client.received.count(b"200 OK") < 100
        await until(lambda: client.received.count(b"200 OK") == 400, 5)


async def test_who_reads_no_answers_does_not_fill_the_memory() -> None:
    config = CONFIG + '[sources.doc]\nurl = "http://127.0.0.1:1/"\n'
    async with Served(config) as served:
        await served.ask("/topics/doc", accept="application/json")
        document = Document(dumps("x" * 1_000_000))
        hub = served.daemon.hub
        await hub.publish(Draft("doc", (Payload("snapshot", document.data),), document))
        hub.watch(hub.topics["doc"])
        before = gauge()
        client = await served.connect()
        client.transport.pauseProducing()  # type: ignore[union-attr]
        ask = b"GET /topics/doc HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n\r\n"
        client.transport.write(ask * 60)  # type: ignore[union-attr]
        await deferLater(reactor, 0.3)
        assert gauge() - before < 20_000_000
        client.transport.resumeProducing()  # type: ignore[union-attr]
        await until(lambda: len(client.received) > 60_000_000, 10)
        assert client.received.count(b"200 OK") == 60


def gauge() -> int:
    """Bytes that this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


# However it comes.


@pytest.mark.parametrize("cut", range(1, len(GET)))
def test_a_head_in_two_pieces_is_answered_as_one_in_one_piece(cut: int) -> None:
    answer = Client().send(GET[:cut], GET[cut:]).answer
    assert (answer.status, answer.raw_body) == (200, b"ok")


def test_what_looks_whole_but_is_the_rest_of_something_is_not_taken_for_whole() -> None:
    client = Client().send(b"X", GET)
    assert [request.method for request in client.answers.asked] == [b"XGET"]

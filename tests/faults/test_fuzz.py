"""
Whatever is said over HTTP: no 500, no silence, no traceback.

A whole daemon, without sockets, on a clock that the tests turn: thousands of
requests a minute. With ``pytest --hypothesis-profile=soak`` there are many more.
"""

from __future__ import annotations

import gc
import json
import re
from functools import partial
from itertools import pairwise
from typing import NamedTuple
from urllib.parse import quote, quote_from_bytes

import pytest
from faults.tracebacks import none_logged
from house import now
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reader import Parser
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from pushd import config
from pushd.event import Document, Draft, Payload
from pushd.service import Daemon

CONFIG = """
    [history]
    backend = "memory"
    [server]
    cors_origins = ["https://app.example.com"]
    max_clients = 40
    max_topics_per_client = 5
    [publish]
    tokens = ["secret"]
    topics = ["news", "rooms/{room}"]
    max_body = 1000
    max_rate = 1000000.0
    [sources.doc]
    url = "http://127.0.0.1/doc"
    timeout = 1.0
    [sources.text]
    url = "http://127.0.0.1/text"
    emit = "snapshot"
    timeout = 1.0
    [sources.quotes]
    topic = "quotes/{symbol}"
    url = "http://127.0.0.1/quotes/{symbol}"
    forward_headers = ["Authorization", "X-Key"]
    max_topics = 20
    timeout = 1.0
"""

EXAMPLES = 600
"""For each test; some five seconds. The profile "soak" (see conftest.py) has more."""

LONGEST_WAIT = 100
"""Seconds within which everything is answered or hung up on; most of it at once."""

SSE_LINE = re.compile(rb"(retry: \d+|id: [!-~]+|event: .+|data: .*|:.*|)")
HEADER_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [^\r\n\0]*")
TWISTED_400 = b"HTTP/1.1 400 Bad Request\r\n\r\n"


class House:
    """A daemon that is asked without sockets."""

    def __init__(self) -> None:
        self.reactor = MemoryReactorClock()
        self.daemon = Daemon(self.reactor, config.parse(CONFIG, {}))
        self.daemon.running = 1
        now(self.daemon.hub.open())
        document = Document(b'{"a":[1,2,"\\u2028"]}')
        now(self.daemon.hub.publish(Draft("doc", (Payload("snapshot", document.data),), document)))
        text = Document("one\ntwo \u2028".encode(), is_json=False)
        payload = Payload("snapshot", text.data, is_json=False)
        now(self.daemon.hub.publish(Draft("text", (payload,), text)))

    def ask(self, *pieces: bytes) -> bytes:
        """What is answered, once there is nothing to wait for; then the client hangs up."""
        transport = StringTransport()
        protocol = self.daemon._site.buildProtocol(transport.getPeer())
        protocol.makeConnection(transport)
        for piece in pieces:
            if not transport.disconnecting:
                protocol.dataReceived(piece)
        waited = 0.0
        while not (transport.disconnecting or is_stream(transport.value())):
            assert waited < LONGEST_WAIT, "neither an answer nor an end"
            self.reactor.advance(1.0)
            waited += 1.0
        self.reactor.advance(0)
        answered: bytes = transport.value()
        protocol.connectionLost(Failure(ConnectionDone()))
        self.reactor.advance(0)
        assert len(self.daemon.feeds) == 0
        return answered


def is_stream(answer: bytes) -> bool:
    """Whether the last answer goes on."""
    return b"\r\nContent-Type: text/event-stream" in answer[answer.rfind(b"HTTP/1.") :]


@pytest.fixture(scope="module")
def house() -> House:
    return House()


# What comes back.


def check(answered: bytes, method: bytes = b"GET") -> None:
    """An answer to one request, with the end of the connection behind it, is as it has to be."""
    if answered in (b"", TWISTED_400):
        return
    head, empty, body = answered.partition(b"\r\n\r\n")
    assert empty, answered
    line, *lines = head.split(b"\r\n")
    assert re.fullmatch(rb"HTTP/1\.[01] \d{3} .*", line), answered
    status = int(line.split()[1])
    if status == 100:
        return check(body, method)
    assert all(HEADER_LINE.fullmatch(one) for one in lines), lines
    headers = {name.lower(): value for name, _, value in (one.partition(b": ") for one in lines)}
    assert status < 500 or status in (502, 503), answered
    if method == b"HEAD" or status in (204, 304):
        assert body == b"", answered
        return None
    body = _unframed(headers, body)
    kind = headers.get(b"content-type", b"")
    if kind == b"text/event-stream":
        check_events(body)
    elif status >= 400:
        assert kind == b"application/problem+json", answered
        told = json.loads(body)
        assert told["status"] == status
        assert told["title"] and told["detail"].endswith((".", "?")), told
    return None


def _unframed(headers: dict[bytes, bytes], body: bytes) -> bytes:
    if headers.get(b"transfer-encoding") == b"chunked":
        pieces = []
        while body and (size := int(body[: body.index(b"\r\n")], 16)):
            start = body.index(b"\r\n") + 2
            pieces.append(body[start : start + size])
            assert body[start + size : start + size + 2] == b"\r\n"
            body = body[start + size + 2 :]
        return b"".join(pieces)
    if b"content-length" in headers:
        assert int(headers[b"content-length"]) == len(body)
    return body


def check_events(body: bytes) -> None:
    body.decode()
    assert re.search(rb"^retry: \d+$", body.partition(b"\n\n")[0], re.MULTILINE), body
    for line in body.split(b"\n"):
        assert SSE_LINE.fullmatch(line), line
    for event in Parser().feed(body):
        assert event.name and event.data


# What is asked: a request that is right, but for some parts.

odd_text = st.text(max_size=20) | st.sampled_from(
    [
        "",
        " ",
        "\0",
        "\r\n",
        "\r\nX: y",
        "a" * 300,
        "é",
        "\u2028",
        "\ud7ff",
        "..",
        "../..",
        ".",
        "%",
        "%zz",
        "%00",
        "{x}",
        "-1",
        "9" * 100,
        "1e9",
        "true",
        "*",
        "*/*",
        "\\",
        '"',
        ";",
        "&",
        "=",
    ]
)
odd_bytes = st.binary(max_size=20) | odd_text.map(partial(str.encode, errors="replace"))

IDS = ["0000000000-1.abcdef", "k-1", "k-1w", "-", "a-0", "-1", "a-1-1", "9" * 50]
PARAMETERS = {
    "topic": ["doc", "news", "quotes/A", "rooms/x", "nothing"],
    "lastEventId": IDS,
    "Last-Event-ID": IDS,
    "lastEventID": IDS,
    "last_event_id": IDS,
    "access_token": ["secret", "wrong"],
    "header": ["Authorization: x", "X-Key:y", "X-Other: z", "no colon", ":", "Authorization: \n"],
    "client": ["me", "x" * 129],
    "chunked": ["0", "1", "2"],
    "hello": ["0", "1", ""],
    "wait": ["1", "-1", "x"],
    "event": ["name", "gap", "hello", "a\nb"],
    "id": ["1"],
    "else": ["1"],
}
HEADERS = {
    "Accept": ["text/event-stream", "application/json", "*/*", "text/html", "a/b;q=x", ",;,", "*"],
    "Last-Event-ID": IDS,
    "Authorization": ["Bearer secret", "Bearer wrong", "Basic x", "Bearer", "bearer  secret "],
    "X-Key": ["1"],
    "Content-Type": [
        "application/json",
        "text/plain",
        "text/plain; charset=latin-1",
        "text/plain; charset=idna",
        "text/plain; charset=rot13",
        "text/plain; charset*=utf-8''x",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
        "image/png",
        "/",
    ],
    "Content-Encoding": ["gzip"],
    "If-None-Match": ["*", '"x"', 'W/"x", "y"', '"', "x"],
    "If-Modified-Since": ["x", "Thu, 01 Jan 1970 00:00:00 GMT"],
    "Range": ["bytes=0-1", "bytes=-1", "x", "bytes=9-1,3-4"],
    "Origin": ["https://app.example.com", "https://evil.example", "null", "*"],
    "Access-Control-Request-Method": ["GET", "x"],
    "Access-Control-Request-Headers": ["last-event-id", ",,"],
    "Host": ["test", "", "[::1", "a b", "x:y", "test:99999"],
    "X-Forwarded-For": ["192.0.2.1", "x", "::1, 127.0.0.1", ",,", "[::1]:x"],
    "Forwarded": ["for=192.0.2.1"],
    "Expect": ["100-continue", "x"],
    "Upgrade": ["websocket", "h2c"],
    "Accept-Encoding": ["gzip", "br;q=1", "*;q=0"],
    "Cookie": ["a=b", "=", "a"],
    "Referer": ["http://x/?access_token=secret"],
    "User-Agent": ["\x01"],
}
METHODS = ["GET", "GET", "GET", "HEAD", "POST", "POST", "OPTIONS", "PUT", "DELETE", "TRACE", "get"]
# Not the files in /static, which Twisted sends in the time of its own reactor.
PATHS = [
    "/topics/doc",
    "/topics/text",
    "/topics/news",
    "/topics/rooms/x",
    "/topics/quotes/A",
    "/topics/nothing",
    "/topics/",
    "/events",
    "/",
    "/static/nothing",
    "/healthz",
    "/readyz",
    "/metrics",
    "/nothing",
]
BODIES = [b"", b"1", b'{"a": "\xc3\xa9"}', b"[1,", b"\xff", b"x" * 1001, b"[" * 900, b'"\\ud800"']


class Asked(NamedTuple):
    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def whole(self) -> bytes:
        lines = [b"%b %b HTTP/1.1" % (self.method, self.target)]
        lines += [b"%b: %b" % header for header in self.headers]
        return b"\r\n".join([*lines, b"", b""]) + self.body


@st.composite
def one_of_these(draw: st.DrawFn, table: dict[str, list[str]]) -> tuple[str, str]:
    name = draw(st.sampled_from(sorted(table)))
    return name, draw(st.sampled_from(table[name]) | odd_text)


@st.composite
def targets(draw: st.DrawFn) -> bytes:
    path = draw(st.sampled_from(PATHS))
    if draw(st.integers(0, 4)) == 0:
        path += draw(st.sampled_from(["/", "//", "", "?"])) + quote(draw(odd_text))
    if draw(st.integers(0, 9)) == 0:
        path += quote_from_bytes(draw(st.binary(max_size=5)), safe="/")
    pairs = draw(st.lists(one_of_these(PARAMETERS), max_size=4))
    if path.startswith("/events"):
        pairs.append(("topic", draw(st.sampled_from(PARAMETERS["topic"]))))
    query = "&".join(f"{quote(name)}={quote(value)}" for name, value in pairs)
    return f"{path}?{query}".encode() if query else path.encode()


@st.composite
def requests(draw: st.DrawFn) -> Asked:
    """Each part is right, or nearly, or nothing that anybody would have thought of."""
    method = draw(st.sampled_from(METHODS))
    target = draw(targets())
    headers = []
    body = b""
    if method == "POST" or draw(st.integers(0, 9)) == 0:
        body = draw(st.sampled_from(BODIES) | st.binary(max_size=30))
        headers += [("Authorization", "Bearer secret"), ("Content-Type", "application/json")]
        headers += [("Content-Length", str(len(body)))]
    headers += draw(st.lists(one_of_these(HEADERS), max_size=4))
    if "Host" not in dict(headers) or draw(st.integers(0, 9)) == 0:
        headers.append(("Host", "test"))
    headers.append(("Connection", "close"))
    sent = [
        # A line break would be the end of the header: those are in the other test.
        (name.encode(), re.sub(b"[\r\n]", b"", value.encode(errors="replace")))
        for name, value in headers
    ]
    return Asked(method.encode(), target, sent, body)


@st.composite
def noises(draw: st.DrawFn) -> list[bytes]:
    """Requests with some bytes of them changed, in pieces."""
    data = bytearray(b"".join(one.whole for one in draw(st.lists(requests(), max_size=3))))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 9)))
        data[start:end] = draw(odd_bytes)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    places = [0, *cuts, len(data)]
    return [bytes(data[a:b]) for a, b in pairwise(places) if a < b]


fuzz = settings(
    max_examples=max(EXAMPLES, settings().max_examples),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@given(asked=requests())
@fuzz
def test_every_request_has_an_answer_that_is_none_of_our_mistakes(
    house: House, asked: Asked
) -> None:
    answered = house.ask(asked.whole)
    assert answered, "hung up on without a word"
    check(answered, asked.method)


@given(pieces=noises())
@fuzz
def test_every_sequence_of_bytes_has_an_end_that_is_none_of_our_mistakes(
    house: House, pieces: list[bytes]
) -> None:
    answered = house.ask(*pieces)
    for status in re.findall(rb"^HTTP/1\.[01] (\d{3}) ", answered, re.MULTILINE):
        assert int(status) < 500 or int(status) in (502, 503), answered
    # Of several answers, the first; how it is delimited depends on what was asked.
    assert answered == b"" or answered.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")), answered


def test_nothing_is_left_of_all_that(house: House) -> None:
    with none_logged():
        house.reactor.advance(1000)
        gc.collect()
    assert not [call for call in house.reactor.getDelayedCalls() if "timeout" in str(call).lower()]
    assert {topic.name for topic in house.daemon.hub.topics.values()} <= {
        *("doc", "text", "news"),
        *(name for name in house.daemon.hub.topics if name.startswith("rooms/")),
    }


def test_a_checker_that_finds_nothing_would_be_of_no_use() -> None:
    good = b'{"status":404,"title":"Not Found","detail":"No."}'
    head = b"HTTP/1.1 404 Not Found\r\nContent-Type: application/problem+json\r\n\r\n"
    check(head + good)
    for bad in (
        head.replace(b"404", b"500") + good.replace(b"404", b"500"),
        head.replace(b"404", b"400") + good,
        head.replace(b"problem+", b"") + good,
        head + b"Oops",
        head.replace(b"Content", b"Cont ent") + good,
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nretry: 1\nid: \xc3\xa9\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nretry: 1\ndatum: 1\n\n",
    ):
        with pytest.raises((AssertionError, ValueError)):
            check(bad)

"""A head that is read in one go says what Twisted finds in it, or is left to Twisted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web.http import HTTPChannel, Request

from pushd.web import head

BROWSER = (
    b"GET /topics/news?client=a HTTP/1.1\r\nHost: example.com\r\nAccept: text/event-stream\r\n"
    b"x-forwarded-for:  192.0.2.1 \t\r\nX-Forwarded-For:192.0.2.2\r\nDNT: 1\r\nEmpty:\r\n\r\n"
)


class Seen(Request):
    """A request that only notes what it is."""

    found: list[Any]

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        fields = dict(self.requestHeaders.getAllRawHeaders())
        self.found.append((command, path, version, fields))


def twisteds(data: bytes) -> Any:
    """What Twisted's channel makes of it; None if it does not take it, or wants more."""
    found: list[Any] = []
    channel = HTTPChannel()
    channel.requestFactory = type("Seen", (Seen,), {"found": found})
    channel.callLater = Clock().callLater
    channel.makeConnection(StringTransport())
    channel.dataReceived(data)
    channel.setTimeout(None)
    return found[0] if found else None


def ours(data: bytes) -> Any:
    got = head.read(data, 500)
    return None if got is None else (*got[:3], dict(got.headers.getAllRawHeaders()))


def test_a_browsers_head_is_read_as_twisted_reads_it() -> None:
    assert ours(BROWSER) == twisteds(BROWSER)
    assert ours(BROWSER) is not None


def test_its_headers_answer_as_twisteds_do() -> None:
    got = head.read(BROWSER, 500)
    assert got is not None
    assert got.headers.getRawHeaders(b"dnt") == [b"1"]
    assert got.headers.getRawHeaders(b"x-forwarded-for") == [b"192.0.2.1", b"192.0.2.2"]
    assert got.headers.getRawHeaders("Accept") == ["text/event-stream"]
    got.headers.addRawHeader(b"Accept", b"more")
    assert got.headers.getRawHeaders(b"accept") == [b"text/event-stream", b"more"]


@pytest.mark.parametrize(
    "data",
    [
        BROWSER[:-1],
        BROWSER + b"G",
        BROWSER + BROWSER,
        b"\r\n" + BROWSER,
        BROWSER.replace(b"DNT: 1", b"Content-Length: 1"),
        BROWSER.replace(b"DNT: 1", b"content-length: 0"),
        BROWSER.replace(b"DNT: 1", b"TRANSFER-ENCODING: chunked"),
        BROWSER.replace(b"DNT: 1", b"Expect: 100-continue"),
        BROWSER.replace(b"DNT: 1", b"host: example.com"),
        BROWSER.replace(b"Host", b"Ghost"),
        BROWSER.replace(b"DNT: 1", b" folded"),
        BROWSER.replace(b"DNT: 1", b"no colon"),
        BROWSER.replace(b"DNT: 1", b"space : 1"),
        BROWSER.replace(b"DNT: 1", b": 1"),
        BROWSER.replace(b"DNT: 1", b"DNT: \0"),
        BROWSER.replace(b"DNT: 1", b"DNT: \r1"),
        BROWSER.replace(b"DNT: 1", b"DNT: \n1"),
        BROWSER.replace(b"HTTP/1.1", b"HTTP/2.0"),
        BROWSER.replace(b"HTTP/1.1", b"http/1.1"),
        BROWSER.replace(b" HTTP", b"  HTTP"),
        BROWSER.replace(b"/topics", b"http://example.com/topics"),
        BROWSER.replace(b"/topics/news?client=a", b"*"),
        BROWSER.replace(b"/topics", b"/\xb1opics"),
        BROWSER.replace(b"GET", b"G(T"),
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 500 + b"\r\n",
    ],
)
def test_whatever_is_not_beyond_doubt_is_left_to_twisted(data: bytes) -> None:
    assert ours(data) is None


pieces = st.sampled_from(
    [
        *(
            b"GET|POST|get|/|/a?b|*|\xb0|\xb1|HTTP/1.1|HTTP/1.0|HTTP/1.2|Host|accept|X-a|e-tag"
        ).split(b"|"),
        *(b"\r\n|\r\n|\r\n|\r|\n| | |\t|:|:|: |\0|,|a|Content-Length|Expect|1").split(b"|"),
        b"\r\nHost: a\r\n",
        b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n",
    ]
)


@given(st.lists(pieces, max_size=16).map(b"".join))
def test_nothing_is_read_otherwise_than_by_twisted(data: bytes) -> None:
    for before in (b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n"):
        whole = before + data + b"\r\n\r\n"
        got = ours(whole)
        assert got is None or got == twisteds(whole)

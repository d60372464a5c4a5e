"""
What clients can do to a daemon: each a function on real, blocking sockets.

They run in threads, take a second or so, and may be run by many at a time. What
they are answered is not looked at; that nobody else suffers is.
"""

from __future__ import annotations

import random
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

PATIENCE = 1.0
"""Seconds after which a rude client leaves, whatever the daemon does."""


class Place(NamedTuple):
    """
    A daemon to be rude to.

    :ivar stream: the path of a stream that goes on.
    :ivar large: that of one that begins with more than sockets hold.
    :ivar publish: where messages go, with the token.
    """

    address: tuple[str, int]
    stream: str
    large: str
    publish: str


class Line:
    """A connection. Whatever becomes of it is no error."""

    def __init__(self, place: Place, room: int | None = None) -> None:
        self.socket = socket.socket()
        if room is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(place.address)

    def say(self, data: bytes) -> bool:
        """Whether it could be said."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def hear(self, size: int) -> bytes:
        try:
            return self.socket.recv(size)
        except OSError:
            return b""

    def wait_for_end(self, seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.hear(65536):
            pass

    def half_close(self) -> None:
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        with suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self) -> None:
        self.socket.close()


@contextmanager
def calling(place: Place, room: int | None = None) -> Iterator[Line]:
    line = Line(place, room)
    try:
        yield line
    finally:
        line.close()


def get(path: str, *headers: str, version: str = "1.1") -> bytes:
    lines = [f"GET {path} HTTP/{version}", "Host: test", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def post(place: Place, *headers: str) -> bytes:
    lines = [f"POST {place.publish} HTTP/1.1", "Host: test", "Content-Type: application/json"]
    return "\r\n".join([*lines, *headers, "", ""]).encode()


Rudeness = Callable[[Place], None]


def says(*parts: bytes, then: str = "leave") -> Rudeness:
    """What does not depend on the place, and then leave, reset, wait or half-close."""

    def rude(place: Place) -> None:
        with calling(place) as line:
            for part in parts:
                if not line.say(part):
                    return
            _go(line, then)

    return rude


def _go(line: Line, how: str) -> None:
    if how == "reset":
        line.reset()
    elif how == "half-close":
        line.half_close()
        line.wait_for_end()
    elif how == "wait":
        line.wait_for_end()


# Where a client may be when it goes.


def _nowhere(line: Line, place: Place) -> None:
    """Just connected."""


def _in_the_request_line(line: Line, place: Place) -> None:
    line.say(b"GET /top")


def _in_the_header(line: Line, place: Place) -> None:
    line.say(get(place.stream)[:-2] + b"X-Some: th")


def _in_the_body(line: Line, place: Place) -> None:
    line.say(post(place, "Content-Length: 100") + b'{"a": ')


def _right_behind_the_request(line: Line, place: Place) -> None:
    line.say(get(place.stream))


def _in_the_answers_header(line: Line, place: Place) -> None:
    line.say(get(place.stream))
    line.hear(10)


def _on_a_live_stream(line: Line, place: Place) -> None:
    line.say(get(place.stream))
    line.hear(65536)
    line.hear(65536)


def _in_a_large_snapshot(line: Line, place: Place) -> None:
    line.say(get(place.large))
    line.hear(5000)


def _while_paused(line: Line, place: Place) -> None:
    line.say(get(place.large))
    line.hear(1)
    time.sleep(0.2)


def _with_bytes_behind_the_request(line: Line, place: Place) -> None:
    line.say(get(place.stream) + get(place.stream) * 20)
    line.hear(65536)


def _paused_with_bytes_behind_the_request(line: Line, place: Place) -> None:
    line.say(get(place.large) + get(place.stream) * 20)
    line.hear(1)
    time.sleep(0.2)


STAGES = (
    _nowhere,
    _in_the_request_line,
    _in_the_header,
    _in_the_body,
    _right_behind_the_request,
    _in_the_answers_header,
    _on_a_live_stream,
    _in_a_large_snapshot,
    _while_paused,
    _with_bytes_behind_the_request,
    _paused_with_bytes_behind_the_request,
)


def _leaving(stage: Callable[[Line, Place], None], how: str) -> Rudeness:
    def rude(place: Place) -> None:
        with calling(place, room=4096) as line:
            stage(line, place)
            _go(line, how)

    return rude


def _departures() -> dict[str, Rudeness]:
    """Each way to go, from each place."""
    return {
        f"{how}{stage.__name__.replace('_', ' ')}": _leaving(stage, how)
        for stage in STAGES
        for how in ("leave", "reset", "half-close")
    }


# What takes more than a line.


def a_byte_at_a_time(place: Place) -> None:
    """A request that is never complete, but always goes on."""
    with calling(place) as line:
        deadline = time.monotonic() + PATIENCE
        for byte in get(place.stream, "X: " + "y" * 10_000):
            if time.monotonic() > deadline or not line.say(bytes([byte])):
                return
            time.sleep(0.005)


def a_body_a_byte_at_a_time(place: Place) -> None:
    with calling(place) as line:
        line.say(post(place, "Content-Length: 10000"))
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and line.say(b"1"):
            time.sleep(0.005)


def slow_and_complete(place: Place) -> None:
    """This one is just slow: it gets its answer."""
    with calling(place) as line:
        for byte in get("/healthz", "Connection: close"):
            line.say(bytes([byte]))
        line.wait_for_end()


def _without_end(first: bytes, again: bytes) -> Rudeness:
    """Goes on up to 10 MB, and does not listen."""

    def rude(place: Place) -> None:
        with calling(place) as line:
            line.say(first.replace(b"STREAM", place.stream.encode()))
            deadline = time.monotonic() + PATIENCE
            for _ in range(10_000_000 // len(again)):
                if time.monotonic() > deadline or not line.say(again):
                    return
            line.wait_for_end()

    return rude


def a_body_that_does_not_come(place: Place) -> None:
    with calling(place) as line:
        line.say(post(place, "Content-Length: 100"))
        line.wait_for_end()


def a_body_that_is_longer_than_it_says(place: Place) -> None:
    with calling(place) as line:
        line.say(post(place, "Content-Length: 2") + b'"and this is what is behind it"')
        line.wait_for_end()


def a_huge_body(place: Place) -> None:
    with calling(place) as line:
        line.say(post(place, "Content-Length: 99999999999999999999"))
        for _ in range(64):
            if not line.say(bytes(65536)):
                break
        line.wait_for_end()


def _chunks(*parts: bytes) -> Rudeness:
    def rude(place: Place) -> None:
        with calling(place) as line:
            line.say(post(place, "Transfer-Encoding: chunked") + b"".join(parts))
            line.wait_for_end()

    return rude


def two_framings(place: Place) -> None:
    with calling(place) as line:
        line.say(post(place, "Transfer-Encoding: chunked", "Content-Length: 3") + b"0\r\n\r\nGET")
        line.wait_for_end()


def two_lengths(place: Place) -> None:
    with calling(place) as line:
        line.say(post(place, "Content-Length: 1", "Content-Length: 9") + b"1")
        line.wait_for_end()


def expects_to_be_continued(place: Place) -> None:
    with calling(place) as line:
        line.say(post(place, "Expect: 100-continue", "Content-Length: 10"))
        line.hear(100)


def many_at_once(place: Place, number: int = 200) -> None:
    """They come, and are gone before they are seen."""
    lines = []
    for _ in range(number):
        with suppress(OSError):
            lines.append(Line(place))
    for n, line in enumerate(lines):
        if n % 2:
            line.reset()
        line.close()


def many_streams_at_once(place: Place, number: int = 50) -> None:
    lines = []
    for _ in range(number):
        with suppress(OSError):
            lines.append(Line(place))
            lines[-1].say(get(place.stream))
    for n, line in enumerate(lines):
        if n % 2:
            line.reset()
        line.close()


def tls(place: Place) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        suppress(OSError),
        socket.create_connection(place.address, PATIENCE) as plain,
        context.wrap_socket(plain),
    ):
        pass


def noise(place: Place) -> None:
    """Bytes, some of them as they would be in a request."""
    chance = random.Random()
    pieces = [b"GET ", b"POST ", b" HTTP/1.1\r\n", b"\r\n", b"\r\n\r\n", b"Content-Length: ", b": "]
    pieces += [place.stream.encode(), place.publish.encode(), b"%", b"?", b"\0", b"Host: x\r\n"]
    with calling(place) as line:
        for _ in range(chance.randrange(1, 60)):
            line.say(chance.choice([*pieces, chance.randbytes(chance.randrange(1, 9))]))
        line.half_close()
        line.wait_for_end(0.3)


def requests_that_nobody_reads_the_answers_to(place: Place) -> None:
    """As many as fit."""
    with calling(place, room=4096) as line:
        line.socket.settimeout(0.3)
        for _ in range(2000):
            if not line.say(get("/healthz") * 10):
                return


RUDENESS: dict[str, Rudeness] = {
    **_departures(),
    "says nothing": says(then="wait"),
    "says a little and then nothing": says(b"GET / HTTP/1.1\r\nHost:", then="wait"),
    "a byte at a time": a_byte_at_a_time,
    "a body a byte at a time": a_body_a_byte_at_a_time,
    "slow and complete": slow_and_complete,
    "headers without end": _without_end(b"GET / HTTP/1.1\r\n", b"A: b\r\n" * 1000),
    "a header without end": _without_end(b"GET / HTTP/1.1\r\nA: ", b"b" * 65536),
    "a folded header without end": _without_end(b"GET / HTTP/1.1\r\nA: b\r\n", b" c\r\n" * 1000),
    "a method without end": _without_end(b"G", b"E" * 65536),
    "a URL of 10 MB": _without_end(b"GET /topics/", b"a" * 65536),
    "a query of 10 MB": _without_end(b"GET /events?", b"topic=a&" * 8192),
    "empty lines without end": _without_end(b"", b"\r\n" * 32768),
    "a flood behind a stream": _without_end(b"", get("/healthz") * 100),
    "a stream and a flood behind it": _without_end(
        b"GET STREAM HTTP/1.1\r\nHost: test\r\n\r\n", get("/healthz") * 100
    ),
    "a body that does not come": a_body_that_does_not_come,
    "a body that is longer than it says": a_body_that_is_longer_than_it_says,
    "a huge body": a_huge_body,
    "a chunk of no size": _chunks(b"\r\n1\r\n0\r\n\r\n"),
    "a chunk of what": _chunks(b"what\r\n1\r\n0\r\n\r\n"),
    "a chunk of a negative size": _chunks(b"-5\r\n1\r\n0\r\n\r\n"),
    "a chunk of 16 exabytes": _chunks(b"f" * 16 + b"\r\n" + bytes(100_000)),
    "a chunk that is longer than it says": _chunks(b"1\r\n12345\r\n0\r\n\r\n"),
    "chunks without an end": _chunks(b"1\r\n1\r\n" * 10),
    "trailers without end": _chunks(b"1\r\n1\r\n0\r\n", b"A: b\r\n" * 50_000),
    "the size of a chunk without end": _chunks(b"0" * 200_000),
    "two framings": two_framings,
    "two lengths": two_lengths,
    "expects to be continued": expects_to_be_continued,
    "many at once": many_at_once,
    "many streams at once": many_streams_at_once,
    "answers that nobody reads": requests_that_nobody_reads_the_answers_to,
    "TLS": tls,
    "HTTP/2": says(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), then="wait"),
    "HTTP/0.9": says(b"GET /topics/a\r\n", then="wait"),
    "HTTP/1.2": says(get("/healthz", version="1.2"), then="wait"),
    "HTTP/9": says(get("/healthz", version="9"), then="wait"),
    "NULs": says(bytes(100_000), then="wait"),
    "NULs in a header": says(get("/healthz", "A: \0\0", "B\0: c"), then="wait"),
    "SSH": says(b"SSH-2.0-OpenSSH_9.2\r\n", then="wait"),
    "every byte": says(bytes(range(256)) * 9, then="wait"),
    "no Host": says(b"GET /healthz HTTP/1.1\r\n\r\n", then="wait"),
    "many Hosts": says(get("/healthz", *["Host: other"] * 9, "Connection: close"), then="wait"),
    "CONNECT": says(b"CONNECT test:80 HTTP/1.1\r\nHost: test\r\n\r\n", then="wait"),
    "an asterisk": says(b"OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n", then="wait"),
    "a whole URL": says(get("http://test/topics/none", "Connection: close"), then="wait"),
    "an upgrade": says(
        get("/healthz", "Connection: Upgrade, close", "Upgrade: h2c, websocket"), then="wait"
    ),
    "noise": noise,
}

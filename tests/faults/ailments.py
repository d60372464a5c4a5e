"""
What can be wrong with an upstream's answers: scripts for :class:`upstream.Upstream`.

Each comes with the sentence that readers of its topic are told, or with None
where nothing is wrong that they should know about. Where the upstream does not
come to an end, it is the source's ``timeout`` that does: :data:`TOO_LATE`.
"""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple

from upstream import Request, Script, Step, answer, chunk, close, reset, zeros

TIMEOUT = 1.0
TOO_LATE = f"The source did not answer within {TIMEOUT:g} s."
MIDDLE = "The source closed the connection in the middle of its answer."
BROKE = "The connection to the source broke in the middle of its answer."
NOTHING = "The source closed the connection without an answer."
NO_HTTP = "The answer is not valid HTTP."
LONG_HEAD = "The header of the answer is too long."
MAX_BYTES = 1_048_576
TOO_LARGE = f"The answer is larger than {MAX_BYTES} bytes."
DAMAGED = "The compressed answer is damaged."
INCOMPLETE = "The compressed answer is incomplete."
NO_JSON = r"The answer is not valid JSON: .*\."
TOO_DEEP = "The answer is nested too deeply."

JSON = "Content-Type: application/json"
BODY = b'{"version": -1, "of": "an ill upstream"}'
WHOLE = answer(BODY, "200 OK", JSON)
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


class Ailment(NamedTuple):
    """
    :ivar script: what the upstream does for each request.
    :ivar says: what readers are told, a regular expression; None for nothing.
    """

    script: Script
    says: str | None


def ill(says: str | None, *steps: Step) -> Ailment:
    return Ailment(lambda request: iter(steps), says)


def endless(says: str, first: bytes, again: bytes, pause: float = 0.0) -> Ailment:
    def script(request: Request) -> Iterator[Step]:
        yield first
        for piece in itertools.repeat(again):
            yield piece
            yield pause

    return Ailment(script, says)


def json(body: bytes, says: str | None, *headers: str) -> Ailment:
    return ill(says, answer(body, "200 OK", *(headers or [JSON])))


def redirect(says: str, location: str, status: str = "302 Found") -> Ailment:
    return ill(says, answer(b"", status, f"Location: {location}"))


def length(says: str, *values: str, end: Step = close) -> Ailment:
    lines = [f"Content-Length: {value}" for value in values]
    return ill(says, answer(BODY, "200 OK", JSON, *lines), 0.02, end)


@cache
def bomb(wbits: int) -> bytes:
    return zeros(200 << 20, wbits)


def lazily(says: str, *headers: str, wbits: int = 31) -> Ailment:
    """A bomb is made when it is first thrown."""
    return Ailment(lambda request: [answer(bomb(wbits), "200 OK", JSON, *headers)], says)


def a_byte_at_a_time(data: bytes, pause: float) -> Iterator[Step]:
    for byte in data:
        yield bytes([byte])
        yield pause


def _truncations() -> dict[str, Ailment]:
    """Each place at which an answer can break off, and both ways to do so."""
    parts = {
        "before the first byte": (b"", NOTHING, NOTHING),
        "in the status line": (WHOLE[:9], MIDDLE, MIDDLE),
        "after the status line": (WHOLE[: WHOLE.index(b"\n") + 1], MIDDLE, MIDDLE),
        "in a header": (WHOLE[:25], MIDDLE, MIDDLE),
        "before the empty line": (WHOLE[: WHOLE.index(b"\r\n\r\n") + 2], MIDDLE, MIDDLE),
        "after the header": (WHOLE[: WHOLE.index(b"\r\n\r\n") + 4], MIDDLE, MIDDLE),
        "in the body": (WHOLE[:-9], MIDDLE, MIDDLE),
        "before the last byte": (WHOLE[:-1], MIDDLE, MIDDLE),
        "before a chunk": (CHUNKED, MIDDLE, MIDDLE),
        "in the size of a chunk": (CHUNKED + b"2", MIDDLE, MIDDLE),
        "after the size of a chunk": (CHUNKED + b"28\r\n", MIDDLE, MIDDLE),
        "in a chunk": (CHUNKED + chunk(BODY)[:-9], MIDDLE, MIDDLE),
        "before the last chunk": (CHUNKED + chunk(BODY), MIDDLE, MIDDLE),
        "in the last chunk": (CHUNKED + chunk(BODY) + b"0\r\n", MIDDLE, MIDDLE),
        "in a trailer": (CHUNKED + chunk(BODY) + b"0\r\nTrailer: x", MIDDLE, MIDDLE),
        "in a body that ends with the connection": (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + BODY[:-9],
            NO_JSON,
            BROKE,
        ),
    }
    found = {}
    for place, (start, closed, dropped) in parts.items():
        found[f"closed {place}"] = ill(closed, start, 0.02, close)
        found[f"reset {place}"] = ill(dropped, start, 0.02, reset)
    return found


def _twice(request: Request) -> Iterable[Step]:
    """An answer that nobody asked for behind the one that somebody did."""
    return [WHOLE, answer(b'{"version": -2}', "200 OK", JSON)]


AILMENTS: dict[str, Ailment] = {
    # Slowness.
    "says nothing": ill(TOO_LATE),
    "head a byte at a time": endless(TOO_LATE, b"HTTP/1.1 200 OK\r\n", b"A", 0.01),
    "body a byte at a time": endless(TOO_LATE, b"HTTP/1.1 200 OK\r\n\r\n", b" ", 0.01),
    "chunks a byte at a time": endless(TOO_LATE, CHUNKED, b"1\r\n \r\n", 0.01),
    "slow, but in time": Ailment(lambda request: a_byte_at_a_time(WHOLE, 0.0001), None),
    "no body": ill(TOO_LATE, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
    "continue, and nothing": ill(TOO_LATE, b"HTTP/1.1 100 Continue\r\n\r\n"),
    **_truncations(),
    # Lengths (RFC 9112, section 6.3).
    "too long a length": length(MIDDLE, "41"),
    "too short a length": length(NO_JSON, "9"),
    "two lengths": length(NO_HTTP, "40", "41"),
    "two lengths in one": length(NO_HTTP, "40, 41"),
    "negative length": length(NO_HTTP, "-40"),
    "huge length": length(TOO_LARGE, "9" * 30),
    "length that is no number": length(NO_HTTP, "forty"),
    "length with a sign": length(NO_HTTP, "+40"),
    "length of a million digits": length(LONG_HEAD, "4" * 1_000_000),
    "empty length": length(NO_HTTP, ""),
    "length of nothing": ill("The answer is empty.", answer(b"", "200 OK", JSON)),
    # Chunks (RFC 9112, section 7.1).
    "chunk without a size": ill(NO_HTTP, CHUNKED + b"\r\n{}\r\n"),
    "chunk of what": ill(NO_HTTP, CHUNKED + b"what\r\n"),
    "chunk of a negative size": ill(NO_HTTP, CHUNKED + b"-1\r\n{}\r\n"),
    "chunk of 16 exabytes": endless(TOO_LARGE, CHUNKED + b"f" * 16 + b"\r\n", b" " * 65536),
    "chunk that is longer than it says": ill(NO_HTTP, CHUNKED + b"1\r\n{}\r\n0\r\n\r\n"),
    "size of a chunk without end": endless(NO_HTTP, CHUNKED, b"0" * 4096),
    "trailers without end": endless(NO_HTTP, CHUNKED + b"0\r\n", b"X: y\r\n" * 999),
    "coding that there is not": ill(
        NO_HTTP, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n" + BODY
    ),
    # Bombs.
    "gzip bomb": lazily(TOO_LARGE, "Content-Encoding: gzip"),
    "deflate bomb": lazily(TOO_LARGE, "Content-Encoding: deflate", wbits=15),
    "chunks without end": endless(TOO_LARGE, CHUNKED, chunk(b" " * 65536)),
    "body without end": endless(TOO_LARGE, b"HTTP/1.1 200 OK\r\n\r\n", b" " * 65536),
    "compressed nothing without end": endless(
        TOO_LARGE,
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n",
        gzip.compress(b"") * 3000,
    ),
    "nested lists": json(b"[" * 500_000 + b"]" * 500_000, TOO_DEEP),
    "nested lists, unfinished": json(b"[" * 200_000, TOO_DEEP),
    "nested objects": json(b'{"":' * 20_000 + b"1" + b"}" * 20_000, TOO_DEEP),
    "number of a million digits": json(b"[" + b"9" * 1_000_000 + b"]", NO_JSON),
    "number past all floats": json(b"[1e400]", NO_JSON),
    "exponent of many digits": json(b"[1e" + b"9" * 100_000 + b"]", NO_JSON),
    "100,000 headers": ill(
        LONG_HEAD, b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 100_000 + b"\r\n" + BODY
    ),
    "header of a megabyte": ill(LONG_HEAD, b"HTTP/1.1 200 OK\r\nA: " + b"b" * (1 << 20)),
    "status line without end": endless(LONG_HEAD, b"HTTP/1.1 200 ", b"OK" * 4096),
    "interim answers without end": endless(
        LONG_HEAD, b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 99
    ),
    # Redirects.
    "redirects in a circle": Ailment(
        lambda request: [answer(b"", "302 Found", f"Location: {request.target}")],
        "The source redirects more than 5 times.",
    ),
    "redirects on and on": Ailment(
        lambda request: [answer(b"", "307 There", f"Location: {request.target}~")],
        "The source redirects more than 5 times.",
    ),
    "redirects to another origin": redirect(
        r"The source redirects to another origin \(http://192\.0\.2\.1\), which is not followed\.",
        "http://192.0.2.1/",
    ),
    "redirects to TLS": redirect(
        r"The source redirects to another origin \(https://127\.0\.0\.1\), .*",
        "https://127.0.0.1/",
        "301 There",
    ),
    "redirects to a file": redirect(
        "The source redirects to what is not an address.", "file:///etc/passwd"
    ),
    "redirects to nonsense": redirect(
        "The source redirects to what is not an address.", "http://["
    ),
    "redirects to bytes": redirect(
        "The source redirects to what is not an address.", "http://\xff\xfe/"
    ),
    "redirects to nowhere": ill(r"The source answered 302 Found\.", answer(b"", "302 Found")),
    # What is no HTTP.
    "SSH": ill(NO_HTTP, b"SSH-2.0-OpenSSH_9.2\r\n"),
    "SMTP": ill(NO_HTTP, b"220 mail.example ESMTP\r\n"),
    "ICY": ill(NO_HTTP, b"ICY 200 OK\r\n\r\n"),
    "a TLS alert": ill(NO_HTTP, b"\x15\x03\x01\x00\x02\x02\x46\r\n"),
    "HTTP/0.9": ill(NO_HTTP, BODY + b"\r\n", close),
    "NULs": endless(LONG_HEAD, b"", bytes(16384)),
    "noise": ill(NO_HTTP, bytes(range(255, -1, -1)) * 9),
    "no colon": ill(NO_HTTP, b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"),
    # Content.
    "truncated JSON": json(BODY[:-1], NO_JSON),
    "two JSONs": json(BODY * 2, NO_JSON),
    "NaN": json(b"[NaN]", NO_JSON),
    "no UTF-8": json(b'["\xff\xfe"]', NO_JSON),
    "half a surrogate": json(b'["\\ud800"]', NO_JSON),
    "UTF-16": json('["x"]'.encode("utf-16"), NO_JSON),
    "NULs behind JSON": json(BODY + bytes(9), NO_JSON),
    "spaces": json(b" \r\n\t ", "The answer is empty."),
    "an error page": json(
        b"<h1>Oops</h1>", r"The answer is text/html, not JSON\.", "Content-Type: text/html"
    ),
    "no gzip": json(BODY, DAMAGED, JSON, "Content-Encoding: gzip"),
    "half a gzip": json(gzip.compress(BODY)[:-9], INCOMPLETE, JSON, "Content-Encoding: gzip"),
    "brotli": json(
        BODY,
        "The answer is compressed in a way that was not asked for.",
        JSON,
        "Content-Encoding: br",
    ),
    "304 unasked": ill("The source answered 304 Not Modified.", answer(b"", "304 Not Modified")),
    # No ailments.
    "a new connection for each": ill(
        None, answer(BODY, "200 OK", JSON, "Connection: close"), close
    ),
    "closes what it said to keep": ill(None, WHOLE, close),
    "resets what it said to keep": ill(None, WHOLE, 0.01, reset),
    "interim answers": ill(None, b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + WHOLE),
    "a byte order mark": json(b"\xef\xbb\xbf" + BODY, None),
    "headers that are no text": ill(None, answer(BODY, "200 OK", JSON, "ETag: \xff\xfe\x01")),
    "Retry-After when well": json(BODY, None, JSON, "Retry-After: 86400", "Age: x"),
    "nonsense in Cache-Control": json(
        BODY, None, JSON, "Cache-Control: max-age=-1, max-age=x, ,=,", "Age: -1"
    ),
    "answers twice": Ailment(_twice, None),
}

STATUSES = {
    **{f"{status}": f"{status} Whatever" for status in range(200, 600)},
    **{f"{status}": f"{status} Whatever" for status in (0, 99, 600, 999, 1000, 99999)},
}
"""What can stand in a status line and is an answer; of 1xx (interim) see :data:`AILMENTS`."""

FINE = {"200", "203"}


def status_ailments() -> dict[str, Ailment]:
    """An answer with each status, and nonsense in its place."""
    found: dict[str, Ailment] = {}
    for name, line in STATUSES.items():
        says = None if name in FINE else rf"The source answered {name}( .*)?\."
        body = b"" if name in ("204", "304") else BODY
        found[f"status {name}"] = ill(says, answer(body, line, JSON))
    for status in range(100, 200):
        found[f"status {status}"] = ill(TOO_LATE, f"HTTP/1.1 {status} Wait\r\n\r\n".encode())
    for nonsense in ("2OO", "two hundred", "", "2e2", "\xb2\xb2", "200.5"):
        found[f"nonsense {nonsense or 'nothing'}"] = ill(NO_HTTP, answer(BODY, f"{nonsense} Oops"))
    # Taken for numbers, by Twisted.
    found["nonsense -1"] = ill(r"The source answered -1\.", answer(BODY, "-1 Oops"))
    del found["status 410"]  # It ends the topic, which is for good.
    return found

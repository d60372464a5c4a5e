"""What fetching one URL promises, whatever the upstream does."""

from __future__ import annotations

import gc
import gzip
import itertools
import random
import socket
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IHostnameResolver
from twisted.internet.task import deferLater
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import globalLogPublisher
from upstream import Request, Script, Upstream, answer, chunk, close, reset, until, zeros
from upstream.certificates import Authority
from zope.interface import implementer

from pushd.errors import ConfigError, SourceError
from pushd.sources.body import Body
from pushd.sources.connection import Pool
from pushd.sources.fetch import Answer, Fetcher

reactor: Any = _reactor
MEGABYTE = 1 << 20
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module", autouse=True)
def little_garbage() -> Iterator[None]:
    """Makes looking for garbage after each test cheap."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest_twisted.async_yield_fixture(autouse=True)
async def nothing_left() -> Any:
    """No test leaves a socket, a delayed call or an error that nobody looked at."""
    sockets, calls = set(reactor.getReaders()), set(reactor.getDelayedCalls())
    errors: list[Any] = []

    def observe(event: Any) -> None:
        if "log_failure" in event:
            errors.append(event["log_failure"])

    globalLogPublisher.addObserver(observe)
    yield
    await until(lambda: set(reactor.getReaders()) | set(reactor.getWriters()) <= sockets)
    gc.collect()
    globalLogPublisher.removeObserver(observe)
    assert set(reactor.getDelayedCalls()) <= calls
    assert errors == []


@pytest_twisted.async_yield_fixture
async def fetcher() -> Any:
    fetcher = Fetcher(reactor)
    yield fetcher
    await fetcher.close()


def get(fetcher: Fetcher, url: str, headers: Any = None, **limits: Any) -> Deferred[Answer]:
    limits = {"timeout": 2.0, "max_bytes": MEGABYTE, **limits}
    return fetcher.fetch(url, headers or {}, **limits)


async def problem(*args: Any, **limits: Any) -> str:
    """The sentence that a fetch fails with."""
    with pytest.raises(SourceError) as caught:
        await get(*args, **limits)
    return caught.value.reason


def once(*steps: Any) -> Script:
    return lambda request: iter(steps)


def paths(routes: dict[str, Any]) -> Script:
    """A script that answers each path in its way."""
    return lambda request: [routes[request.target]]


@implementer(IHostnameResolver)
class Names:
    """Resolves what it is told to; None never comes to an end."""

    def __init__(self, known: dict[str, list[str] | None]) -> None:
        self.known = known

    def resolveHostName(
        self, receiver: Any, name: str, portNumber: int = 0, *_: Any, **__: Any
    ) -> Any:
        receiver.resolutionBegan(self)
        addresses = self.known.get(name, [])
        if addresses is not None:
            for address in addresses:
                kind = IPv6Address if ":" in address else IPv4Address
                receiver.addressResolved(kind("TCP", address, portNumber))
            receiver.resolutionComplete()


@pytest.fixture
def names() -> Iterator[dict[str, list[str] | None]]:
    known: dict[str, list[str] | None] = {}
    before = reactor.installNameResolver(Names(known))
    yield known
    reactor.installNameResolver(before)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def ca_file(authority: Authority, tmp_path: Any) -> str:
    path = tmp_path / "ca.pem"
    path.write_bytes(authority.pem)
    return str(path)


class Either(msgspec.Struct):
    """A fetcher, and an upstream's context, for http or https."""

    fetcher: Fetcher
    tls: Any

    @property
    def scheme(self) -> str:
        return "https" if self.tls else "http"


@pytest_twisted.async_yield_fixture(params=["http", "https"])
async def either(request: Any, authority: Authority, ca_file: str) -> Any:
    fetcher = Fetcher(reactor, ca_file=ca_file)
    tls = request.param == "https"
    yield Either(fetcher, authority.issue("127.0.0.1") if tls else None)
    await fetcher.close()


class TestRequest:
    """What goes out."""

    @pytest.mark.parametrize(
        "target",
        [
            "/a/%2E%2E/b",
            "/%2e%2e/",
            "/a%2Fb/%5c",
            "/a?x=%0D%0A&y=%0d%0a",
            "/a/../b/./c",
            "//a//b",
            "/%41%7E~",
            "/%zz%",
            "/a?q=a+b%20c&&=&[1]={y}|^`\"<>\\'()*!;,:@$",
            "/a;b;c?d",
            "/?",
            "/a%00%E9",
        ],
    )
    async def test_target_goes_out_as_written(self, fetcher: Fetcher, target: str) -> None:
        async with Upstream(once(answer())) as upstream:
            await get(fetcher, upstream.url(target))
            # The one thing that Twisted drops: a question mark with nothing behind it.
            assert upstream.requests[0].target == target.rstrip("?")

    @pytest.mark.parametrize("rest", ["", "?x=1", "#top", "/?x=1#top"])
    async def test_path_is_never_empty_and_a_fragment_stays_here(
        self, fetcher: Fetcher, rest: str
    ) -> None:
        async with Upstream(once(answer())) as upstream:
            await get(fetcher, upstream.url(rest))
            assert upstream.requests[0].target == ("/?x=1" if "x" in rest else "/")

    async def test_gzip_is_asked_for_once_whatever_the_caller_wants(self, fetcher: Fetcher) -> None:
        async with Upstream(once(answer())) as upstream:
            await get(fetcher, upstream.url(), {"accept-encoding": "br", "ACCEPT-ENCODING": "zstd"})
            assert upstream.requests[0].headers("accept-encoding") == ["gzip"]

    async def test_headers_are_the_callers_and_ours(self, fetcher: Fetcher) -> None:
        async with Upstream(once(answer())) as upstream:
            await get(fetcher, upstream.url(), {"authorization": "a", "Authorization": "Bearer ü"})
            await get(fetcher, upstream.url(), {"user-agent": "me"})
        first, second = upstream.requests
        assert first.line == "GET / HTTP/1.1"
        assert first.headers("authorization") == ["Bearer ü"]
        assert first.headers("host") == [f"127.0.0.1:{upstream.port}"]
        assert first.headers("user-agent") == ["pushd"]
        assert second.headers("user-agent") == ["me"]
        assert second.headers("authorization") == []

    async def test_cookies_of_one_answer_go_nowhere(self, fetcher: Fetcher) -> None:
        async with Upstream(once(answer(b"", "200 OK", "Set-Cookie: session=1"))) as upstream:
            await get(fetcher, upstream.url())
            await get(fetcher, upstream.url())
        assert [request.headers("cookie") for request in upstream.requests] == [[], []]

    async def test_user_and_password_in_the_url_go_nowhere(self, fetcher: Fetcher) -> None:
        async with Upstream(once(answer())) as upstream:
            await get(fetcher, upstream.url(host="user:secret@127.0.0.1"))
            assert b"secret" not in upstream.requests[0].raw

    async def test_line_break_in_a_header_starts_no_line(self, fetcher: Fetcher) -> None:
        async with Upstream(once(answer())) as upstream:
            await get(fetcher, upstream.url(), {"X": "a\r\nEvil: b"})
            assert upstream.requests[0].headers("evil") == []

    async def test_header_that_is_none_is_the_callers_mistake(self, fetcher: Fetcher) -> None:
        with pytest.raises(ValueError, match="Evil"):
            await get(fetcher, "http://127.0.0.1:1/", {"Evil: x\r\nA": "b"})

    async def test_ipv6_address(self, fetcher: Fetcher) -> None:
        async with Upstream(once(answer(b"6")), interface="::1") as upstream:
            assert (await get(fetcher, upstream.url("/x"))).body == b"6"
            assert upstream.requests[0].headers("host") == [f"[::1]:{upstream.port}"]

    @pytest.mark.parametrize(
        ("written", "asked"),
        [
            ("BÜCHER.example", "xn--bcher-kva.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("Upper.Example.", "upper.example."),
            ("my_service", "my_service"),
        ],
    )
    async def test_host_names(self, fetcher: Fetcher, names: Any, written: str, asked: str) -> None:
        names[asked] = ["127.0.0.1"]
        async with Upstream(once(answer(b"hi"))) as upstream:
            assert (await get(fetcher, upstream.url(host=written))).body == b"hi"
            assert upstream.requests[0].headers("host") == [f"{asked}:{upstream.port}"]

    @pytest.mark.parametrize(
        "url",
        [
            "ftp://h/",
            "h/x",
            "http:///x",
            "http://[::1/",
            "http://h:port/",
            "http://h/a b",
            "http://h/é",
            "http://h/\n",
            "http://a..b/",
            "http://" + "a" * 64 + ".example/",
            "https://my_service/",
        ],
    )
    async def test_what_is_not_an_address(self, fetcher: Fetcher, names: Any, url: str) -> None:
        assert await problem(fetcher, url) == "The source's address is not valid."


class TestAnswer:
    """What comes back when all is well."""

    @pytest.mark.parametrize("status", ["200 OK", "404 Not Found", "503 Down", "299", "304 No"])
    async def test_any_status_is_an_answer(self, fetcher: Fetcher, status: str) -> None:
        body = b"" if status.startswith("304") else b"body"
        script = once(answer(body, status, 'ETag: "1"', "Retry-After: 9", "retry-after: 8"))
        async with Upstream(script) as upstream:
            got = await get(fetcher, upstream.url())
        assert (got.status, got.body) == (int(status[:3]), body)
        assert got.headers.getRawHeaders("ETag") == ['"1"']
        assert got.headers.getRawHeaders("retry-after") == ["9", "8"]

    @pytest.mark.parametrize(
        "steps",
        [
            [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole"],
            [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nwhole", close],
            [b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n", b"wh", 0.01, b"ole"],
            [b"HTTP/1.1 200 OK\nContent-Length: 5\n\nwhole"],
            [CHUNKED, b"2\r\nwh\r\n3;x=y\r\nole\r\n0\r\n\r\n"],
            [CHUNKED, b"5\r\nwhole\r\n0\r\nTrailer: x\r\n\r\n"],
            [b"HTTP/1.1 200 OK\r\n\r\nwh", 0.01, b"ole", close],
            [b"HTTP/1.0 200 OK\r\n\r\nwhole", close],
            [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", answer(b"whole")],
            [b"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Length: 5\r\n\r\nwhole"],
            [bytes([byte]) for byte in answer(b"whole")],
        ],
    )
    async def test_every_framing_gives_the_whole_body(self, fetcher: Fetcher, steps: Any) -> None:
        async with Upstream(once(*steps)) as upstream:
            assert (await get(fetcher, upstream.url())).body == b"whole"

    @pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified", "200 OK"])
    @pytest.mark.parametrize("coding", ["gzip", "br"])
    async def test_coding_of_a_body_that_is_not_there(
        self, fetcher: Fetcher, status: str, coding: str
    ) -> None:
        async with Upstream(once(answer(b"", status, f"Content-Encoding: {coding}"))) as upstream:
            assert (await get(fetcher, upstream.url())).body == b""

    async def test_ten_megabytes_take_no_longer_than_they_must(self, fetcher: Fetcher) -> None:
        size = 10 * MEGABYTE
        async with Upstream(once(answer(bytes(size)))) as upstream:
            began = time.perf_counter()
            got = await get(fetcher, upstream.url(), max_bytes=size)
            assert len(got.body) == size
            # 0.03 s here; copying what is already there for each piece would take seconds.
            assert time.perf_counter() - began < 1.0


class TestCompression:
    @pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZip", "deflate"])
    @pytest.mark.parametrize("length", [True, False])
    async def test_body_is_decompressed(self, fetcher: Fetcher, coding: str, length: bool) -> None:
        data = zlib.compress(b"whole") if coding == "deflate" else gzip.compress(b"whole")
        head = [f"Content-Encoding: {coding}", *([] if length else ["Transfer-Encoding: chunked"])]
        body = data if length else b"".join(chunk(bytes([byte])) for byte in data) + chunk(b"")
        async with Upstream(once(answer(body, "200 OK", *head))) as upstream:
            got = await get(fetcher, upstream.url(), max_bytes=5)
        assert got.body == b"whole"
        assert not got.headers.hasHeader("Content-Encoding")

    @pytest.mark.parametrize(
        ("coding", "body", "reason"),
        [
            ("br", b"x", "The answer is compressed in a way that was not asked for."),
            ("zstd", b"x", "The answer is compressed in a way that was not asked for."),
            ("gzip, gzip", b"x", "The answer is compressed in a way that was not asked for."),
            ("gzip", gzip.compress(b"whole")[:-1], "The compressed answer is incomplete."),
            ("gzip", gzip.compress(b"whole")[:12], "The compressed answer is incomplete."),
            ("gzip", b"whole", "The compressed answer is damaged."),
            ("gzip", gzip.compress(b"whole") + b"garbage", "The compressed answer is damaged."),
            (
                "gzip",
                gzip.compress(b"whole")[:-8] + b"wrong!!!",
                "The compressed answer is damaged.",
            ),
            ("deflate", zlib.compress(b"whole")[:-1], "The compressed answer is incomplete."),
            ("deflate", gzip.compress(b"whole"), "The compressed answer is damaged."),
        ],
    )
    async def test_what_cannot_be_decompressed(
        self, fetcher: Fetcher, coding: str, body: bytes, reason: str
    ) -> None:
        script = once(answer(body, "200 OK", f"Content-Encoding: {coding}"))
        async with Upstream(script) as upstream:
            assert await problem(fetcher, upstream.url()) == reason

    async def test_empty_chunked_body_is_not_gzip(self, fetcher: Fetcher) -> None:
        head = ["Content-Encoding: gzip", "Transfer-Encoding: chunked"]
        async with Upstream(once(answer(chunk(b""), "200 OK", *head))) as upstream:
            reason = await problem(fetcher, upstream.url())
        assert reason == "The compressed answer is incomplete."


class TestBounds:
    """Memory is what was allowed, and a constant."""

    @pytest.mark.parametrize(
        "frame",
        [
            answer,
            lambda body: answer(chunk(body) + chunk(b""), "200 OK", "Transfer-Encoding: chunked"),
            lambda body: answer(gzip.compress(body), "200 OK", "Content-Encoding: gzip"),
        ],
    )
    @pytest.mark.parametrize("status", ["200 OK", "500 Oops"])
    async def test_as_much_as_allowed_and_no_byte_more(
        self, fetcher: Fetcher, frame: Callable[[bytes], bytes], status: str
    ) -> None:
        body = random.Random(1).randbytes(1000)
        script = once(frame(body).replace(b"200 OK", status.encode()))
        async with Upstream(script) as upstream:
            assert (await get(fetcher, upstream.url(), max_bytes=1000)).body == body
            reason = await problem(fetcher, upstream.url(), max_bytes=999)
        assert reason == "The answer is larger than 999 bytes."

    async def test_too_large_a_length_is_refused_before_the_body(self, fetcher: Fetcher) -> None:
        async with Upstream(
            once(b"HTTP/1.1 200 OK\r\nContent-Length: 1000001\r\n\r\n")
        ) as upstream:
            reason = await problem(fetcher, upstream.url(), max_bytes=1_000_000)
            await until(lambda: not upstream.open)
            assert upstream.connections[0].was_reset
        assert reason == "The answer is larger than 1000000 bytes."

    @pytest.mark.parametrize(("coding", "wbits"), [("gzip", 31), ("deflate", 15)])
    async def test_bomb_costs_no_more_than_what_was_allowed(
        self, fetcher: Fetcher, coding: str, wbits: int
    ) -> None:
        bomb = answer(zeros(200 * MEGABYTE, wbits), "200 OK", f"Content-Encoding: {coding}")
        async with Upstream(once(bomb)) as upstream:
            reason, peak = await self.peak(fetcher, upstream.url(), max_bytes=2 * MEGABYTE)
        assert reason == "The answer is larger than 2097152 bytes."
        assert peak < 3 * MEGABYTE

    @pytest.mark.parametrize(
        "again",
        [b"x" * 65536, gzip.compress(b""), b"\0\0\0\xff\xff" * 1000],
        ids=["body", "empty gzip members", "empty blocks"],
    )
    async def test_body_without_end(self, fetcher: Fetcher, again: bytes) -> None:
        def script(request: Request) -> Iterator[Any]:
            coding = [] if again.startswith(b"x") else ["Content-Encoding: gzip"]
            yield answer(b"", "200 OK", "Transfer-Encoding: chunked", *coding)
            if again.startswith(b"\0"):
                yield chunk(gzip.compress(b"")[:10])
            yield from itertools.repeat(chunk(again * (65536 // len(again))))

        async with Upstream(script) as upstream:
            reason, peak = await self.peak(fetcher, upstream.url())
            await until(lambda: not upstream.open)
            assert upstream.connections[0].sent < 8 * MEGABYTE
        assert reason == "The answer is larger than 1048576 bytes."
        assert peak < 4 * MEGABYTE

    @pytest.mark.parametrize(
        "again",
        [b"A: b\r\n", b"A" * 1000, b" folded\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"],
        ids=["headers", "one line", "folded line", "1xx"],
    )
    async def test_head_without_end(self, fetcher: Fetcher, again: bytes) -> None:
        def script(request: Request) -> Iterator[Any]:
            if not again.startswith(b"HTTP"):
                yield b"HTTP/1.1 200 OK\r\nX: y\r\n"
            yield from itertools.repeat(again * (16384 // len(again)))

        async with Upstream(script) as upstream:
            reason, peak = await self.peak(fetcher, upstream.url())
            await until(lambda: not upstream.open)
        assert reason == "The header of the answer is too long."
        assert peak < 4 * MEGABYTE

    async def test_head_may_come_with_the_body_in_one_piece(self, fetcher: Fetcher) -> None:
        head = [f"X-{n}: {'x' * 1000}" for n in range(60)]
        async with Upstream(once(answer(bytes(300_000), "200 OK", *head))) as upstream:
            for _ in range(3):
                assert len((await get(fetcher, upstream.url())).body) == 300_000
        assert len(upstream.connections) == 1

    async def peak(self, *args: Any, **limits: Any) -> tuple[str, int]:
        """What a failing fetch says, and bytes that it and the upstream's script needed."""
        tracemalloc.start()
        try:
            reason = await problem(*args, **limits)
            return reason, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


class TestTruncation:
    @pytest.mark.parametrize("end", [close, reset])
    @pytest.mark.parametrize(
        "start",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[1, 2]",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n[1, 2]\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n[1, 2]\r\n0\r\n",
            b"HTTP/1.1 200 OK\r\nX: y\r\n",
        ],
    )
    async def test_part_of_an_answer_is_none(
        self, fetcher: Fetcher, start: bytes, end: Any
    ) -> None:
        async with Upstream(once(start, 0.02, end)) as upstream:
            reason = await problem(fetcher, upstream.url())
        assert reason == "The source closed the connection in the middle of its answer."

    async def test_reset_does_not_end_a_body_without_length(self, fetcher: Fetcher) -> None:
        async with Upstream(once(b"HTTP/1.1 200 OK\r\n\r\n[1, 2", 0.02, reset)) as upstream:
            reason = await problem(fetcher, upstream.url())
        assert reason == "The connection to the source broke in the middle of its answer."

    @pytest.mark.parametrize("goodbye", [True, False])
    async def test_tls_has_to_say_goodbye_after_a_body_without_length(
        self, authority: Authority, ca_file: str, goodbye: bool
    ) -> None:
        def cut(transport: Any) -> None:
            transport.transport.loseConnection()

        fetcher = Fetcher(reactor, ca_file=ca_file)
        script = once(b"HTTP/1.1 200 OK\r\n\r\n[1]", 0.02, close if goodbye else cut)
        async with Upstream(script, tls=authority.issue("127.0.0.1")) as upstream:
            if goodbye:
                assert (await get(fetcher, upstream.url())).body == b"[1]"
            else:
                reason = await problem(fetcher, upstream.url())
                assert reason == "The connection to the source broke in the middle of its answer."


class TestRedirects:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_followed_within_the_origin_with_the_headers(
        self, fetcher: Fetcher, status: int
    ) -> None:
        there = answer(b"moved", f"{status} There", "Location: /there")
        async with Upstream(paths({"/": there, "/there": answer(b"here")})) as upstream:
            got = await get(fetcher, upstream.url(), {"Authorization": "token"})
        assert (got.status, got.body) == (200, b"here")
        assert [request.headers("authorization") for request in upstream.requests] == [
            ["token"]
        ] * 2
        assert len(upstream.connections) == 1

    @pytest.mark.parametrize(
        ("location", "target"),
        [
            ("c", "/a/c"),
            ("../c?x=1#part", "/c?x=1"),
            ("?x=%0d%0a", "/a/b?x=%0d%0a"),
            ("/%2E%2E/%2f", "/%2E%2E/%2f"),
            ("/ü b", "/%C3%BC%20b"),
            ("//{host}/c", "/c"),
            ("http://{host}/c", "/c"),
            ("HTTP://u:p@{host}/c", "/c"),
        ],
    )
    async def test_locations(self, fetcher: Fetcher, location: str, target: str) -> None:
        def script(request: Request) -> list[Any]:
            if len(upstream.requests) > 1:
                return [answer()]
            host = f"127.0.0.1:{upstream.port}"
            line = f"Location: {location.format(host=host)}".encode().decode("latin-1")
            return [answer(b"", "302 Found", line)]

        async with Upstream(script) as upstream:
            await get(fetcher, upstream.url("/a/b"))
            assert upstream.requests[1].target == target

    @pytest.mark.parametrize(
        ("location", "origin"),
        [
            ("https://other.example/x?token=1", "https://other.example"),
            ("//u:p@Other.Example:80/", "http://other.example"),
            ("https://source.example:{port}/", "https://source.example:{port}"),
            ("http://source.example/", "http://source.example"),
            (
                "http://source.example.evil.example:{port}/",
                "http://source.example.evil.example:{port}",
            ),
            ("http://source.example:{port}@evil.example/", "http://evil.example"),
            ("http://[::1]/", "http://[::1]"),
        ],
    )
    async def test_another_origin_is_told_and_not_followed(
        self, fetcher: Fetcher, names: Any, location: str, origin: str
    ) -> None:
        names["source.example"] = ["127.0.0.1"]
        async with Upstream(once()) as upstream:
            line = f"Location: {location.format(port=upstream.port)}"
            upstream.script = once(answer(b"", "302 Found", line))
            reason = await problem(fetcher, upstream.url(host="source.example"))
        origin = origin.format(port=upstream.port)
        assert (
            reason == f"The source redirects to another origin ({origin}), which is not followed."
        )

    @pytest.mark.parametrize("location", ["http://[", "javascript:alert(1)", "http://a..b/"])
    async def test_location_that_is_none(self, fetcher: Fetcher, location: str) -> None:
        async with Upstream(once(answer(b"", "302 Found", f"Location: {location}"))) as upstream:
            reason = await problem(fetcher, upstream.url())
        assert reason == "The source redirects to what is not an address."

    async def test_loops_end(self, fetcher: Fetcher) -> None:
        async with Upstream(once(answer(b"", "302 Found", "Location: /"))) as upstream:
            reason = await problem(fetcher, upstream.url())
        assert reason == "The source redirects more than 5 times."
        assert len(upstream.requests) == 6

    async def test_redirect_to_nowhere_is_an_answer(self, fetcher: Fetcher) -> None:
        async with Upstream(once(answer(b"lost", "302 Found"))) as upstream:
            got = await get(fetcher, upstream.url())
        assert (got.status, got.body) == (302, b"lost")


def slowly(data: bytes) -> Iterator[Any]:
    for byte in itertools.cycle(data):
        yield bytes([byte])
        yield 0.01


STAGES: dict[str, Callable[[Request], Any]] = {
    "head": once(),
    "middle of the head": once(b"HTTP/1.1 200 OK\r\nX:"),
    "slow head": lambda request: itertools.chain([b"HTTP/1.1 200 OK\r\n"], slowly(b"A: b\r\n")),
    "body": once(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
    "middle of the body": once(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[1"),
    "slow body": lambda request: itertools.chain([b"HTTP/1.1 200 OK\r\n\r\n"], slowly(b"x")),
    "endless body": lambda request: itertools.chain(
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"], slowly(chunk(b"x" * 9000))
    ),
    "body of a redirect": once(b"HTTP/1.1 302 \r\nLocation: /\r\nContent-Length: 9\r\n\r\n"),
    "target of a redirect": lambda request: (
        [answer(b"moved", "302 Found", "Location: /there")] if request.target == "/" else []
    ),
}


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def was_reset(connection: socket.socket) -> bool:
    """Whether the other side has dropped it by now."""
    connection.setblocking(False)
    try:
        while connection.recv(4096):
            pass
    except ConnectionResetError:
        return True
    return False


async def gives_up(either: Either, url: str, cancel: bool, timeout: float = 0.05) -> None:
    fetching = get(either.fetcher, url, timeout=timeout)
    if cancel:
        await deferLater(reactor, timeout / 2)
        fetching.cancel()
    with pytest.raises(CancelledError if cancel else SourceError):
        await fetching


class TestGivingUp:
    """By the deadline and by the caller, wherever the exchange is."""

    @pytest.mark.parametrize("stage", STAGES)
    async def test_deadline_covers_all(self, either: Either, stage: str) -> None:
        async with Upstream(STAGES[stage], tls=either.tls) as upstream:
            reason = await problem(either.fetcher, upstream.url(), timeout=0.1)
            await until(lambda: not upstream.open, 0.5)
            assert upstream.connections[-1].was_reset
        assert reason == "The source did not answer within 0.1 s."

    @pytest.mark.parametrize("stage", STAGES)
    async def test_cancelling_closes_the_connection_at_once(
        self, either: Either, stage: str
    ) -> None:
        async with Upstream(STAGES[stage], tls=either.tls) as upstream:
            fetching = get(either.fetcher, upstream.url())
            awaited = 2 if stage == "target of a redirect" else 1
            await until(lambda: len(upstream.requests) == awaited)
            await deferLater(reactor, 0.02)
            fetching.cancel()
            with pytest.raises(CancelledError):
                await fetching
            await until(lambda: not upstream.open, 0.5)
            assert upstream.connections[-1].was_reset

    @pytest.mark.parametrize("cancel", [True, False])
    async def test_tls_handshake_or_connection_without_an_answer(
        self, either: Either, cancel: bool
    ) -> None:
        """The upstream's kernel has taken the connection, its program never does."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            url = f"{either.scheme}://127.0.0.1:{server.getsockname()[1]}/"
            fetching = get(either.fetcher, url, timeout=0.1)
            await deferLater(reactor, 0.03)
            with server.accept()[0] as taken:
                if cancel:
                    fetching.cancel()
                with pytest.raises(CancelledError if cancel else SourceError):
                    await fetching
                await deferLater(reactor, 0.01)
                assert was_reset(taken)

    @pytest.mark.parametrize("cancel", [True, False])
    async def test_connection_that_is_not_taken(self, either: Either, cancel: bool) -> None:
        """A full backlog: the kernel drops the SYN."""
        with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
            full = [socket.socket() for _ in range(3)]
            for one in full:
                one.setblocking(False)
                one.connect_ex(server.getsockname())
            url = f"{either.scheme}://127.0.0.1:{server.getsockname()[1]}/"
            await gives_up(either, url, cancel)
            for one in full:
                one.close()

    @pytest.mark.parametrize("cancel", [True, False])
    async def test_name_that_is_looked_up_for_ever(
        self, names: Any, either: Either, cancel: bool
    ) -> None:
        names["source.example"] = None
        await gives_up(either, f"{either.scheme}://source.example/", cancel)

    @pytest.mark.parametrize("cancel", [True, False])
    async def test_several_addresses(self, names: Any, either: Either, cancel: bool) -> None:
        """One refuses, the others are not taken."""
        with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
            full = [socket.socket() for _ in range(3)]
            for one in full:
                one.setblocking(False)
                one.connect_ex(server.getsockname())
            names["source.example"] = ["127.0.0.2", "127.0.0.1", "127.0.0.1"]
            port = server.getsockname()[1]
            await gives_up(either, f"{either.scheme}://source.example:{port}/", cancel, 0.4)
            for one in full:
                one.close()


class TestDeadline:
    def test_deadline_is_the_reactors_to_the_second(self) -> None:
        clock = MemoryReactorClock()
        failures: list[Any] = []
        fetching = get(Fetcher(clock), "http://127.0.0.1/", timeout=45.5)
        fetching.addErrback(failures.append)
        clock.advance(45.4)
        assert failures == []
        clock.advance(0.1)
        assert failures[0].value.reason == "The source did not answer within 45.5 s."
        assert clock.getDelayedCalls() == []

    async def test_deadline_is_not_left_behind(self, fetcher: Fetcher) -> None:
        async with Upstream(once(answer())) as upstream:
            before = reactor.getDelayedCalls()
            await get(fetcher, upstream.url(), timeout=86400.0)
            await fetcher.close()
            assert reactor.getDelayedCalls() == before

    async def test_cancelling_what_is_over_changes_nothing(self, fetcher: Fetcher) -> None:
        async with Upstream(once(answer(b"1"))) as upstream:
            fetching = get(fetcher, upstream.url())
            await until(lambda: fetching.called)
            fetching.cancel()
            assert (await fetching).body == b"1"
            assert (await get(fetcher, upstream.url())).body == b"1"
            assert len(upstream.connections) == 1


class TestKeptConnections:
    async def test_one_connection_serves_many_requests(self, fetcher: Fetcher) -> None:
        async with Upstream(once(answer(b"1"))) as upstream:
            for _ in range(5):
                await get(fetcher, upstream.url())
            assert len(upstream.connections) == 1
            await fetcher.close()
            await until(lambda: not upstream.open)

    async def test_as_many_as_poll_at_once_up_to_a_number(
        self, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Pool, "most", 32)
        async with Upstream(once(0.01, answer(b"1"))) as upstream:
            for _ in range(2):
                for fetching in [get(fetcher, upstream.url()) for _ in range(40)]:
                    await fetching
            await until(lambda: len(upstream.open) == 32)
            assert len(upstream.connections) == 48

    async def test_those_that_are_not_needed_fall_idle_while_others_are_in_use(
        self, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Pool, "patience", 0.1)
        async with Upstream(once(0.01, answer(b"1"))) as upstream:
            for fetching in [get(fetcher, upstream.url()) for _ in range(5)]:
                await fetching
            assert len(upstream.open) == 5
            for _ in range(30):
                await get(fetcher, upstream.url())
            assert len(upstream.open) == 1
            assert len(upstream.connections) == 5

    async def test_each_origin_has_its_own(self, fetcher: Fetcher, names: Any) -> None:
        names["source.example"] = ["127.0.0.1"]
        async with Upstream(once(answer(b"1"))) as upstream:
            for host in ("127.0.0.1", "source.example") * 2:
                await get(fetcher, upstream.url(host=host))
            hosts = [request.headers("host")[0] for request in upstream.requests]
            assert len(upstream.connections) == 2
            assert [r.connection for r in upstream.requests[:2]] == [
                r.connection for r in upstream.requests[2:]
            ]
            assert len(set(hosts)) == 2

    async def test_address_needs_no_look_up(self, fetcher: Fetcher, names: Any) -> None:
        """Which would take a thread. `names` knows no name at all."""
        async with Upstream(once(answer(b"1"))) as upstream:
            assert (await get(fetcher, upstream.url())).body == b"1"

    @pytest.mark.parametrize(
        "parting",
        [
            [close],
            [0.01, close],
            [0.01, reset],
            [0.01, answer(b"", "408 Request Timeout", "Connection: close"), close],
        ],
    )
    async def test_connection_that_the_upstream_closed_is_replaced(
        self, either: Either, parting: list[Any]
    ) -> None:
        """However it closes: right after the answer, later, noticed here or not."""
        async with Upstream(once(answer(b"1"), *parting), tls=either.tls) as upstream:
            for pause in (0.0, 0.005, 0.03):
                assert (await get(either.fetcher, upstream.url())).body == b"1"
                await deferLater(reactor, pause)

    @pytest.mark.parametrize("parting", [close, reset])
    async def test_request_that_nobody_reads_any_more_is_sent_again(
        self, fetcher: Fetcher, parting: Any
    ) -> None:
        """Several connections, all closed at the moment of the next request."""

        def script(request: Request) -> list[Any]:
            old = request.connection in upstream.connections[:3]
            return [parting] if old and len(upstream.requests) > 3 else [0.01, answer(b"1")]

        async with Upstream(script) as upstream:
            for fetching in [get(fetcher, upstream.url()) for _ in range(3)]:
                await fetching
            assert (await get(fetcher, upstream.url())).body == b"1"
            assert len(upstream.connections) == 4

    @pytest.mark.parametrize("goodbye", [[], ["Connection: close"]])
    async def test_time_out_that_crossed_the_request_is_not_its_answer(
        self, either: Either, goodbye: list[str]
    ) -> None:
        async with Upstream(once(answer(b"1")), tls=either.tls) as upstream:
            await get(either.fetcher, upstream.url())
            upstream.script = once(answer(b"", "408 Request Timeout", *goodbye))
            # From a new connection it is one.
            assert (await get(either.fetcher, upstream.url())).status == 408
            assert len(upstream.connections) == 2
            assert len(upstream.requests) == 3

    @pytest.mark.parametrize("parting", [close, reset])
    async def test_new_connection_gets_one_chance(self, fetcher: Fetcher, parting: Any) -> None:
        async with Upstream(once(parting)) as upstream:
            reason = await problem(fetcher, upstream.url())
            assert len(upstream.requests) == 1
        assert reason == "The source closed the connection without an answer."

    async def test_cancelled_request_is_not_sent_again(self, fetcher: Fetcher) -> None:
        async with Upstream(once(answer(b"1"))) as upstream:
            await get(fetcher, upstream.url())
            upstream.script = once()
            fetching = get(fetcher, upstream.url())
            await until(lambda: len(upstream.requests) == 2)
            fetching.cancel()
            with pytest.raises(CancelledError):
                await fetching
            await deferLater(reactor, 0.02)
            assert len(upstream.requests) == 2

    async def test_giving_up_one_leaves_the_others(self, fetcher: Fetcher) -> None:
        def script(request: Request) -> list[Any]:
            return [0.03, answer(b"1")] if request.target == "/" else []

        async with Upstream(script) as upstream:
            await get(fetcher, upstream.url())
            lost = get(fetcher, upstream.url("/lost"))
            kept = get(fetcher, upstream.url())
            await until(lambda: len(upstream.requests) == 3)
            lost.cancel()
            assert (await kept).body == b"1"
            with pytest.raises(CancelledError):
                await lost

    async def test_closing_does_not_wait_for_the_upstream(self, either: Either) -> None:
        def be_deaf(transport: Any) -> None:
            transport.pauseProducing()

        async with Upstream(once(answer(b"1"), be_deaf), tls=either.tls) as upstream:
            await get(either.fetcher, upstream.url())
            closing = either.fetcher.close()
            await until(lambda: closing.called, 0.5)

    @pytest.mark.parametrize("parting", [[], [close]])
    async def test_idle_connections_are_closed_and_forgotten(
        self, either: Either, parting: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Pool, "patience", 0.05)
        async with Upstream(once(answer(b"1"), *parting), tls=either.tls) as upstream:
            before = reactor.getDelayedCalls()
            await get(either.fetcher, upstream.url())
            await until(lambda: not upstream.open)
            await deferLater(reactor, 0.06)
            assert reactor.getDelayedCalls() == before


class TestFailures:
    """Each is a sentence, without what may be secret."""

    async def test_name_that_there_is_not(self, fetcher: Fetcher, names: Any) -> None:
        reason = await problem(fetcher, "http://source.example/?token=secret")
        assert reason == "The source's host name was not found."

    async def test_connection_refused(self, fetcher: Fetcher) -> None:
        async with Upstream(once()) as upstream:
            pass
        assert await problem(fetcher, upstream.url()) == "The source refused the connection."

    async def test_unreachable(self, fetcher: Fetcher) -> None:
        # The broadcast address of loopback, which TCP does not know.
        reason = await problem(fetcher, "http://127.255.255.255:9/")
        assert reason == "The source cannot be reached."

    @pytest.mark.parametrize(
        "nonsense",
        [
            b"SSH-2.0-OpenSSH\r\n",
            b"HTTP/x 200 OK\r\n\r\n",
            b"HTTP/1.1 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nxx",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nxx",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nwhat\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 2000,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxxx",
        ],
    )
    async def test_what_is_not_http(self, fetcher: Fetcher, nonsense: bytes) -> None:
        async with Upstream(once(nonsense)) as upstream:
            reason = await problem(fetcher, upstream.url("/?token=secret"))
            await until(lambda: not upstream.open)
        assert reason == "The answer is not valid HTTP."

    async def test_cause_is_kept_for_the_log(self, fetcher: Fetcher) -> None:
        async with Upstream(once(b"nonsense\r\n\r\n")) as upstream:
            with pytest.raises(SourceError) as caught:
                await get(fetcher, upstream.url())
        assert "wrong number of parts" in repr(caught.value.__cause__)

    async def test_mistakes_of_ours_are_not_the_upstreams(
        self, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(body: Body, data: bytes) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(Body, "add", broken)
        async with Upstream(once(answer(b"1"), 1.0)) as upstream:
            with pytest.raises(ZeroDivisionError):
                await get(fetcher, upstream.url())
            await until(lambda: not upstream.open)


class TestTrust:
    async def test_authority_from_a_file(self, authority: Authority, ca_file: str) -> None:
        fetcher = Fetcher(reactor, ca_file=ca_file)
        async with Upstream(once(answer(b"1")), tls=authority.issue("127.0.0.1")) as upstream:
            for _ in range(2):
                assert (await get(fetcher, upstream.url())).body == b"1"
            assert len(upstream.connections) == 1
            await fetcher.close()

    async def test_several_authorities_in_a_file(self, names: Any, tmp_path: Any) -> None:
        names["source.example"] = ["127.0.0.1"]
        authorities = [Authority(f"Number {n}") for n in range(3)]
        file = tmp_path / "cas.pem"
        file.write_bytes(b"# Ours:\n" + b"\n".join(authority.pem for authority in authorities))
        fetcher = Fetcher(reactor, ca_file=str(file))
        for authority in authorities:
            tls = authority.issue("source.example")
            async with Upstream(once(answer(b"1")), tls=tls) as upstream:
                assert (await get(fetcher, upstream.url(host="source.example"))).body == b"1"
        await fetcher.close()

    @pytest.mark.parametrize(
        "content",
        [
            None,
            b"",
            b"not a certificate",
            b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
            b"-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n",
        ],
    )
    def test_file_without_certificates_is_named(self, tmp_path: Any, content: bytes | None) -> None:
        file = tmp_path / "ca.pem"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ConfigError, match=str(file)):
            Fetcher(reactor, ca_file=str(file))

    async def test_unknown_authority(self, fetcher: Fetcher, authority: Authority) -> None:
        reason = "The source's certificate is not from an authority that is trusted here."
        assert await self.refused(fetcher, authority.issue("127.0.0.1")) == reason

    async def test_expired(self, authority: Authority, ca_file: str) -> None:
        fetcher = Fetcher(reactor, ca_file=ca_file)
        reason = "The source's certificate has expired."
        assert await self.refused(fetcher, authority.issue("127.0.0.1", expired=True)) == reason

    @pytest.mark.parametrize("host", ["127.0.0.2", "source.example"])
    async def test_another_host(self, authority: Authority, ca_file: str, host: str) -> None:
        fetcher = Fetcher(reactor, ca_file=ca_file)
        reason = "The source's certificate is for another host name."
        assert await self.refused(fetcher, authority.issue(host)) == reason

    async def refused(self, fetcher: Fetcher, tls: Any) -> str:
        async with Upstream(once(answer()), tls=tls) as upstream:
            reason = await problem(fetcher, upstream.url("/?token=secret"))
            assert upstream.requests == []
            return reason

    async def test_no_tls_where_tls_is_expected(self, fetcher: Fetcher) -> None:
        async with Upstream(once(answer())) as upstream:
            upstream.script = once()
            url = upstream.url().replace("http:", "https:")
            fetching = problem(fetcher, url)
            reason = await self.greeted(upstream, fetching, b"220 mail.example ESMTP\r\n")
        assert reason == "The source does not speak TLS, or not as pushd does."

    async def greeted(self, upstream: Upstream, fetching: Any, greeting: bytes) -> str:
        started = Deferred.fromCoroutine(fetching)
        await until(lambda: upstream.connections)
        upstream.connections[0].transport.write(greeting)
        return await started

"""Compressed streams, with real sockets: who gets them, and that they say what plain ones say."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable

import pytest
from reader import Page, Parser
from served import Answer, Connection, Served
from twisted.internet.task import deferLater
from upstream import Upstream, answer, reactor, until

from pushd.event import Document, Draft, Payload

CONFIG = """
[server]
heartbeat = {heartbeat}
compress = "{compress}"
max_clients = 4
[publish]
tokens = ["secret"]
topics = ["news"]
[sources.doc]
url = "http://127.0.0.1:1/"
every = 3600
[sources.gone]
url = "{url}"
every = 0.05
"""
BROWSER = {"sec_fetch_site": "same-origin", "accept_encoding": "gzip, deflate, br, zstd"}
GZIP = {"accept_encoding": "gzip"}


def serve(compress: str = "browsers", heartbeat: float = 15.0, url: str = "http://x/") -> Served:
    return Served(CONFIG.format(compress=compress, heartbeat=heartbeat, url=url))


class Reader:
    """What a client that inflates has, of each byte that has come."""

    def __init__(self, connection: Connection, *, envelope: bool = False) -> None:
        self.connection = connection
        self._inflater = zlib.decompressobj(wbits=31)
        self._text = bytearray()
        self._parser = Parser()
        self._page = Page(envelope)

    @property
    def text(self) -> bytes:
        """All of it."""
        self._read()
        return bytes(self._text)

    @property
    def page(self) -> Page:
        """What a page makes of it."""
        self._read()
        return self._page

    def _read(self) -> None:
        data = self._inflater.decompress(self.connection._news())
        self._text += data
        for event in self._parser.feed(data):
            self._page.take(event)

    async def until(self, condition: Callable[[Page], object]) -> None:
        await until(lambda: condition(self.page))


async def read(served: Served, target: str, *, envelope: bool = False, **headers: str) -> Reader:
    connection = await served.stream(target, **(BROWSER | headers))
    assert connection.answer.headers["content-encoding"] == "gzip"
    return Reader(connection, envelope=envelope)


async def set_document(served: Served, value: object, *patch: object) -> None:
    [topic] = await served.daemon.catalogue.topics(["doc"], {})
    data = json.dumps(value).encode()
    payload = Payload("patch", json.dumps(patch).encode()) if patch else Payload("snapshot", data)
    await served.daemon.hub.publish(Draft(topic.key, (payload,), Document(data)))


def is_compressed(got: Answer) -> bool:
    assert "Accept-Encoding" in got.headers["vary"].split(", ")
    return got.headers.get("content-encoding") == "gzip"


@pytest.mark.parametrize(
    ("compress", "query", "headers", "expected"),
    [
        # Browsers, of sites with TLS and on their own machine.
        ("browsers", "", BROWSER, True),
        ("browsers", "", {**BROWSER, "accept_encoding": "br"}, False),
        ("browsers", "", {"sec_fetch_site": "none"}, False),
        # Node's fetch says Sec-Fetch-Mode, libraries say nothing of the kind.
        ("browsers", "", {**GZIP, "sec_fetch_mode": "cors"}, False),
        ("browsers", "", GZIP, False),
        ("all", "", GZIP, True),
        ("all", "", {}, False),
        ("never", "", BROWSER, False),
        # The client's own wish goes first, but it has to understand the answer.
        ("browsers", "?compress=1", GZIP, True),
        ("browsers", "?compress=1", {}, False),
        ("browsers", "?compress=0", BROWSER, False),
        ("all", "?compress=0", GZIP, False),
        ("never", "?compress=1", BROWSER, False),
        # RFC 9110, section 12.5.3.
        ("all", "", {"accept_encoding": "GZIP;Q=0.1"}, True),
        ("all", "", {"accept_encoding": "gzip;q=0"}, False),
        ("all", "", {"accept_encoding": "*"}, True),
        ("all", "", {"accept_encoding": "*;q=0"}, False),
        ("all", "", {"accept_encoding": "gzip;q=0, *"}, False),
        ("all", "", {"accept_encoding": "*;q=0, gzip"}, True),
        ("all", "", {"accept_encoding": "gzip, identity"}, True),
        ("all", "", {"accept_encoding": "gzip;q=0.5, identity"}, False),
        ("all", "", {"accept_encoding": "gzip;q=0.5, identity;q=0"}, True),
        ("all", "", {"accept_encoding": "identity"}, False),
        ("all", "", {"accept_encoding": ""}, False),
        ("all", "", {"accept_encoding": "gzip;q=x, \x7f;;=,"}, False),
    ],
)
async def test_who_gets_a_compressed_stream(
    compress: str, query: str, headers: dict[str, str], expected: bool
) -> None:
    async with serve(compress) as served:
        stream = await served.stream("/topics/news" + query, **headers)
        assert is_compressed(stream.answer) == expected
        await until(lambda: stream.body)
        assert stream.body.startswith(b"\x1f\x8b" if expected else b"retry: ")
        head = await served.ask("/topics/news" + query, "HEAD", b"", **headers)
        assert is_compressed(head) == expected


async def test_compress_is_0_or_1() -> None:
    for compress in ("browsers", "never"):
        async with serve(compress) as served:
            got = await served.ask("/topics/news?compress=gzip", "GET", b"", **BROWSER)
            assert (got.status, got.json["parameter"]) == (400, "compress")


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("query", ["", "?chunked=0", "?hello=1"])
async def test_a_compressed_stream_says_what_a_plain_one_says(query: str, version: str) -> None:
    async with serve() as served:
        await set_document(served, {"n": 0, "pad": "x" * 300})
        target = "/topics/doc" + query
        plain = await served.stream(target, version=version)
        reader = await read(served, target, version=version)
        for n in range(1, 5):
            change = {"op": "replace", "path": "/n", "value": n}
            await set_document(served, {"n": n, "pad": "x" * 300}, change)
            await reader.until(lambda page: page.documents[""]["n"] == n)  # noqa: B023
        late = await read(served, target, version=version)
        await late.until(lambda page: page.documents[""]["n"] == 4)
        assert b"event: patch" in reader.text and b"event: patch" not in late.text

        def without_retry(text: bytes) -> bytes:
            before, _, after = text.partition(b"retry: ")
            return before + after.partition(b"\n")[2]

        await until(lambda: without_retry(plain.body) == without_retry(reader.text))


async def test_a_reader_resumes_in_the_middle() -> None:
    async with serve() as served:
        for n in range(4):
            await served.publish("news", b"%d" % n)
        first = await read(served, "/topics/news")
        await served.publish("news", b"4")
        await first.until(lambda page: page.messages.get("") == [4])
        (event,) = Parser().feed(first.text)
        await served.publish("news", b"5")
        again = await read(served, "/topics/news", last_event_id=event.id)
        await again.until(lambda page: page.messages.get("") == [5])


async def test_several_topics_on_one_connection() -> None:
    async with serve() as served:
        await set_document(served, {"n": 0})
        reader = await read(served, "/events?topic=doc&topic=news", envelope=True)
        await served.publish("news", b'"hi"')
        await reader.until(lambda page: page.messages == {"news": ["hi"]})
        assert reader.page.documents == {"doc": {"n": 0}}


async def test_readers_share_the_bytes_of_each_batch_whenever_they_joined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = 0
    compressobj = zlib.compressobj

    def counting(level: int, method: int, wbits: int, *, zdict: bytes) -> object:
        nonlocal made
        made += 1
        return compressobj(level, method, wbits, zdict=zdict)

    monkeypatch.setattr(zlib, "compressobj", counting)
    async with serve() as served:
        await set_document(served, {"pad": "x" * 300})
        first = await read(served, "/topics/doc")
        # Nobody answers for the source. Once that is said, nothing else is.
        await first.until(lambda page: page.documents and page.statuses)
        made = 0
        readers = [first, *[await read(served, "/topics/doc") for _ in range(3)]]
        for reader in readers:
            await reader.until(lambda page: page.documents)
        # The snapshot; what is said to each of them alone is not worth it.
        assert made <= 1
        before = [len(reader.connection.received) for reader in readers]
        await set_document(served, {"pad": "y" * 300})
        for reader in readers:
            await reader.until(lambda page: page.documents[""]["pad"][0] == "y")
        assert made <= 2
        news = {
            bytes(reader.connection.received[at:])
            for reader, at in zip(readers, before, strict=True)
        }
        assert len(news) == 1


async def test_a_heartbeat_can_be_read() -> None:
    async with serve(heartbeat=0.05) as served:
        reader = await read(served, "/topics/news")
        await until(lambda: reader.text.endswith(b"\n\n:\n:\n"))


async def test_who_is_sent_away_is_told_when_to_come_back_and_sees_no_end() -> None:
    async with serve() as served:
        readers = [await read(served, f"/topics/news?chunked={n}") for n in (0, 1)]
        await served.daemon.stopService()
        for reader in readers:
            await until(lambda: not reader.connection.open)  # noqa: B023
            _, _, rest = reader.text.rpartition(b"\n\n")
            assert rest.startswith(b"retry: ") and rest.count(b"\n") == 1
            assert not inflated_to_its_end(reader)
            assert not reader.connection.received.endswith(b"0\r\n\r\n")


def inflated_to_its_end(reader: Reader) -> bool:
    """Whether there is a last block, and nothing behind it."""
    body = reader.connection.body
    inflater = zlib.decompressobj(wbits=-15)
    inflater.decompress(body[10:])
    assert inflater.unused_data == b""
    return inflater.eof


@pytest.mark.parametrize("chunked", ["0", "1"])
async def test_a_topic_that_has_ended_ends_the_stream(chunked: str) -> None:
    status = "200 OK"

    def script(_: object) -> object:
        yield answer(b'{"n": 1}', status, "Content-Type: application/json")

    upstream = Upstream(script)  # type: ignore[arg-type]
    async with upstream, serve(url=upstream.url("/")) as served:
        reader = await read(served, f"/topics/gone?chunked={chunked}")
        await reader.until(lambda page: page.documents)
        status = "410 Gone"
        await until(lambda: inflated_to_its_end(reader))
        if chunked == "1":
            await until(lambda: reader.connection.received.endswith(b"0\r\n\r\n"))
        else:
            await until(lambda: not reader.connection.open)


async def test_a_snapshot_larger_than_any_buffer_arrives_even_if_its_reader_pauses() -> None:
    async with serve() as served:
        # Zeros and ones cannot be made fewer than an eighth: some 700 KB.
        pad = format(zlib.crc32(b"seed"), "b")
        pad = "".join(format(zlib.crc32(b"%d" % n), "b") for n in range(180_000)) + pad
        await set_document(served, {"pad": pad})
        reader = await read(served, "/topics/doc")
        reader.connection.transport.pauseProducing()  # type: ignore[union-attr]
        (feed,) = served.daemon.feeds._feeds.values()
        (member,) = feed.members
        count = 0
        while not (count and member._paused):
            count += 1
            await set_document(served, {"n": count, "pad": pad})
            await deferLater(reactor, 0.01)
        reader.connection.transport.resumeProducing()  # type: ignore[union-attr]
        await until(lambda: feed.live)
        await reader.until(lambda page: page.documents.get("", {}).get("n") == count)
        assert reader.page.documents[""]["pad"] == pad
        await set_document(served, {"n": -1}, {"op": "replace", "path": "/n", "value": -1})
        await reader.until(lambda page: page.documents[""]["n"] == -1)


async def test_who_finds_no_room_is_told_so_in_plain() -> None:
    async with serve() as served:
        for _ in range(4):
            await read(served, "/topics/news")
        got = await served.stream("/topics/news", **BROWSER)
        await until(lambda: b"max_clients" in got.body)
        assert not is_compressed(got.answer)

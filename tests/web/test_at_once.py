"""Streams that begin at once, without Klein's Deferreds: the same answers, by the same routes."""

from __future__ import annotations

from typing import Any

import pytest
from served import Connection, Served
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from upstream import reactor, until

from pushd import config
from pushd.transports.sse import SSEStream
from pushd.web.root import Root

CONFIG = """
[server]
cors_origins = ["https://app.example.com"]
max_clients = 60
[publish]
tokens = ["secret"]
topics = ["news", "a/b", "{any}/x"]
[sources.doc]
url = "http://127.0.0.1:1/"
every = 3600
forward_headers = ["Authorization"]
"""

TARGETS = (
    "/topics/news",
    "/topics/ne%77s",
    "/topics/a%2Fb",
    "/topics/a/b",
    "/topics/doc",
    "/topics/none",
    "//topics/news",
    "topics/news",
    "/topics//news",
    "/topics/news/",
    "/topics/../topics/news",
    "/topics/news%00",
    "/topics/%ff",
    "/topics/",
    "/Topics/news",
    "http://test/topics/news",
    "/topics/news?",
    "/topics/news?chunked=0",
    "/topics/news?hello=1",
    "/topics/news?client=%01",
    "/topics/news?lastEventId=x",
    "/events?topic=news",
    "/",
)

HEADERS: tuple[dict[str, str], ...] = (
    {},
    {"accept": "*/*"},
    {"accept": "application/json, */*"},
    {"accept": "text/event-stream;charset=utf-8"},
    {"accept": "image/png"},
    {"accept": "text/event-stream;q=0"},
    {"accept": "text/event-stream" + " " * 300},
    {"last_event_id": "nonsense"},
    {"origin": "https://app.example.com"},
    {"origin": "https://other.example.com"},
    {"authorization": "Bearer a"},
    {"authorization": "Bearer \x01"},
    {"connection": "close"},
    {"x_forwarded_for": "192.0.2.1"},
)


async def answer(served: Served, target: str, version: str = "1.1", **headers: str) -> Any:
    connection = await served.send(target, version=version, **headers)
    await until(lambda: b"\r\n\r\n" in connection.received)
    await deferLater(reactor, 0.02, lambda: None)
    got = connection.answer
    connection.abort()
    served.connections.remove(connection)
    got.headers.pop("date")
    body = got.raw_body
    if b"retry: " in body:
        # It has a random part.
        body = b"retry" + body.partition(b"retry: ")[2].partition(b"\n")[2]
        body = body.partition(b"\r\n0\r\n")[0]
    return got.line, got.headers, body, connection.open


async def both(served: Served, monkeypatch: pytest.MonkeyPatch, *args: str, **headers: str) -> Any:
    """The answer of the short way, where there is one, and of the long one."""
    # The first of all hears that nobody answers for the source while it is there.
    await answer(served, *args, **headers)
    short = await answer(served, *args, **headers)
    with monkeypatch.context() as patched:
        patched.setattr(served.daemon._site, "at_once", None)
        return short, await answer(served, *args, **headers)


async def ready(served: Served) -> Connection:
    """All topics are there."""
    for name in ("doc", "a/b", "news"):
        stream = await served.stream(f"/topics/{name}")
    return stream


@pytest.mark.parametrize("target", TARGETS)
async def test_a_path_leads_where_klein_leads_it(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Served(CONFIG) as served:
        await ready(served)
        short, long = await both(served, monkeypatch, target)
        assert short == long


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("headers", HEADERS, ids=str)
async def test_headers_mean_the_same(
    headers: dict[str, str], version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Served(CONFIG) as served:
        await ready(served)
        for target in ("/topics/news", "/topics/doc"):
            short, long = await both(served, monkeypatch, target, version, **headers)
            assert short == long


async def test_what_most_ask_for_is_answered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Served(CONFIG) as served:
        await ready(served)
        monkeypatch.setattr(Root, "topic", None)
        monkeypatch.setattr(Root.app, "execute_endpoint", None)
        for target in ("/topics/news", "/topics/a/b", "/topics/doc", "/topics/ne%77s"):
            stream = await served.stream(target, accept="text/event-stream", origin="https://a.b")
            assert stream.answer.headers["content-type"] == "text/event-stream"


async def test_a_stream_that_begins_while_the_daemon_ends_is_its_connections_last() -> None:
    async with Served(CONFIG) as served:
        await ready(served)
        served.daemon._site.draining = Deferred()
        stream = await served.stream("/topics/news")
        assert stream.answer.headers["connection"] == "close"


async def test_a_body_without_chunks_ends_with_its_connection() -> None:
    async with Served(CONFIG.replace("[server]", "[server]\nchunked = false")) as served:
        stream = await ready(served)
        await until(lambda: b"id:" in stream.body)
        stream = await served.stream("/topics/news")
        assert stream.answer.headers["connection"] == "close"
        assert "transfer-encoding" not in stream.answer.headers
        served.daemon.hub.end(served.daemon.hub.topics["news"])
        await until(lambda: not stream.open)
        assert not stream.body.endswith(b"0\r\n\r\n")


async def test_a_stream_that_cannot_begin_is_broken_off_and_gives_its_seat_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Served(CONFIG) as served:
        await ready(served)
        monkeypatch.setattr(SSEStream, "open", None)
        stream = await served.send("/topics/news")
        await until(lambda: not stream.open)
        assert stream.received == b""
        assert served.daemon.admission.streams == 3


async def test_who_finds_no_seat_is_counted_and_told_once() -> None:
    async with Served(CONFIG.replace("max_clients = 60", "max_clients = 3")) as served:
        await ready(served)
        late = await served.send("/topics/news")
        await until(lambda: not late.open)
        assert b"retry: " in late.body
        text = (await served.ask("/metrics")).body
        assert b'pushd_refusals_total{why="max_clients"} 1.0' in text
        assert served.daemon.admission.streams == 3


async def test_a_topic_that_a_new_configuration_no_longer_has_is_not_at_hand() -> None:
    async with Served(CONFIG) as served:
        await ready(served)
        catalogue = served.daemon.catalogue
        assert catalogue.at_hand("news") is served.daemon.hub.topics["news"]
        assert catalogue.at_hand("doc") is served.daemon.hub.topics["doc"]
        other = CONFIG.replace('"news", ', "").replace("[sources.doc]", "[sources.more]")
        catalogue.replace(
            config.parse(other.replace("[sources.more]", '[sources.more]\ntopic = "more"'), {})
        )
        assert catalogue.at_hand("news") is None
        assert catalogue.at_hand("doc") is None
        # It has to be looked up once more; then it is.
        assert catalogue.at_hand("a/b") is None
        [topic] = await catalogue.topics(["a/b"], {})
        assert catalogue.at_hand("a/b") is topic


async def test_a_private_topic_is_at_nobodys_hand() -> None:
    async with Served(CONFIG) as served:
        [private] = await served.daemon.catalogue.topics(["doc"], {"authorization": "Bearer a"})
        assert private.key in served.daemon.hub.topics
        assert served.daemon.catalogue.at_hand(private.key) is None
        assert served.daemon.catalogue.at_hand("doc") is None

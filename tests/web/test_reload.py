"""Going over to another configuration while real clients read over real sockets."""

from __future__ import annotations

import json
from typing import Any

import pytest
from served import Connection, Served
from upstream import Upstream, answer, until

from pushd import config

PUBLISH = '[publish]\ntokens = ["secret"]\ntopics = ["news"]\n'
LAST_CHUNK = b"\r\n0\r\n\r\n"


class Api:
    """An upstream with a document for each path, which is the same until the test changes it."""

    def __init__(self) -> None:
        self.version = 1
        self.upstream = Upstream(self._script)

    def _script(self, request: Any) -> Any:
        if self.etag in request.headers("if-none-match"):
            yield answer(b"", "304 Not Modified", f"ETag: {self.etag}")
        else:
            yield answer(
                json.dumps(self.value(request.target)).encode(),
                "200 OK",
                "Content-Type: application/json",
                f"ETag: {self.etag}",
            )

    @property
    def etag(self) -> str:
        """The same for all paths: those of one are wrong for another."""
        return f'"{self.version}"'

    def value(self, path: str) -> Any:
        return {"path": path, "n": self.version, "pad": {str(n): "0123456789" for n in range(9)}}

    def polls(self, path: str) -> int:
        return [request.target for request in self.upstream.requests].count(path)

    def source(self, name: str, path: str | None = None, rest: str = "") -> str:
        url = self.upstream.url(path or f"/{name}")
        return f'[sources."{name}"]\nurl = "{url}"\nevery = 0.05\n{rest}\n'


@pytest.fixture
def api() -> Api:
    return Api()


def replace(served: Served, text: str) -> None:
    served.daemon.catalogue.replace(config.parse(text, {}))


async def holds(stream: Connection, topic: str, value: Any) -> None:
    await stream.until(lambda: stream.page.documents.get(topic) == value)


async def test_new_ones_appear(api: Api) -> None:
    async with api.upstream, Served(api.source("a")) as served:
        assert (await served.ask("/topics/b")).status == 404
        replace(served, api.source("a") + api.source("b"))
        stream = await served.stream("/topics/b")
        await holds(stream, "", api.value("/b"))


async def test_removed_ones_end_with_what_makes_an_eventsource_stop(api: Api) -> None:
    async with api.upstream, Served(api.source("a") + api.source("b")) as served:
        stream = await served.stream("/topics/b")
        await holds(stream, "", api.value("/b"))
        replace(served, api.source("a"))
        await until(lambda: stream.received.endswith(LAST_CHUNK))
        polls = api.polls("/b")
        again = await served.ask("/topics/b", last_event_id=stream.parser.last_id)
        assert (again.status, again.body) == (204, b"")
        assert (await served.ask("/events?topic=b")).status == 204
        document = await served.ask("/topics/b", accept="application/json")
        assert (document.status, document.json["parameter"]) == (410, "topic")
        assert (await served.ask("/topics/b", "HEAD")).status == 204
        assert (await served.ask("/topics/c")).status == 404
        other = await served.stream("/topics/a")
        await holds(other, "", api.value("/a"))
        assert api.polls("/b") == polls


async def test_a_private_one_that_was_removed_stops_too(api: Api) -> None:
    forwarding = 'forward_headers = ["Authorization"]'
    target = "/topics/a?header=Authorization:x"
    async with api.upstream, Served(api.source("a", rest=forwarding)) as served:
        stream = await served.stream(target)
        await holds(stream, "", api.value("/a"))
        replace(served, api.source("b"))
        await until(lambda: stream.received.endswith(LAST_CHUNK))
        assert (await served.ask(target)).status == 204


async def test_of_several_topics_one_is_removed_and_comes_back(api: Api) -> None:
    async with api.upstream, Served(PUBLISH + api.source("a") + api.source("b")) as served:
        a, b = api.source("a"), api.source("b")
        target = "/events?topic=a&topic=b&topic=news"
        stream = await served.stream(target)
        stream.page.envelope = True
        await holds(stream, "b", api.value("/b"))
        replace(served, PUBLISH + a)
        late = await served.stream(target)
        late.page.envelope = True
        api.version = 2
        for one in (stream, late):
            await holds(one, "a", api.value("/a"))
        await served.publish("news", b"1")
        for one in (stream, late):
            await one.until(lambda: one.page.messages == {"news": [1]})  # noqa: B023
        assert "b" not in late.page.documents and stream.page.documents["b"]["n"] == 1
        replace(served, PUBLISH + a + b)
        for one in (stream, late):
            await until(lambda: not one.open)  # noqa: B023
            assert not one.received.endswith(LAST_CHUNK), "it is to come back"
            again = await served.stream(target, last_event_id=one.parser.last_id)
            again.page = one.page
            await holds(again, "b", api.value("/b"))
            assert again.page.documents["a"] == api.value("/a")


@pytest.mark.parametrize("what", ["url", "emit", "select", "headers"])
async def test_changed_ones_go_on_with_their_document(api: Api, what: str) -> None:
    texts = {
        "url": api.source,
        "emit": lambda name: api.source(name, rest='emit = "snapshot"'),
        "select": lambda name: api.source(name, rest='select = "{n: n, pad: pad}"'),
        "headers": lambda name: api.source(name, rest='headers = { X-Client = "pushd" }'),
    }
    async with api.upstream, Served(api.source("a")) as served:
        stream = await served.stream("/topics/a")
        await holds(stream, "", api.value("/a"))
        head = served.daemon.hub.head
        text = api.source("a", "/other") if what == "url" else texts[what]("a")
        replace(served, text)
        newcomer = await served.ask("/topics/a", accept="application/json")
        assert newcomer.status == 200
        wanted = api.value("/other" if what == "url" else "/a")
        if what == "select":
            del wanted["path"]
        await holds(stream, "", wanted)
        polls = len(api.upstream.requests)
        await until(lambda: len(api.upstream.requests) > polls + 2)
        assert served.daemon.hub.head - head == (1 if what in ("url", "select") else 0)
        assert stream.body.count(b"event: snapshot") == 1
        api.version = 2
        await stream.until(lambda: stream.page.documents[""]["n"] == 2)
        assert (stream.body.count(b"event: snapshot") == 2) is (what == "emit")


async def test_unchanged_ones_do_not_notice(api: Api) -> None:
    async with api.upstream, Served(api.source("a")) as served:
        stream = await served.stream("/topics/a")
        await holds(stream, "", api.value("/a"))
        poller = served.daemon.hub._sources["a"]
        for text in (api.source("b") + api.source("a"), api.source("a")):
            polls = api.polls("/a")
            replace(served, text)
            assert served.daemon.hub._sources["a"] == poller
            await until(lambda: api.polls("/a") > polls)  # noqa: B023
        assert len(api.upstream.connections) == 1
        assert stream.open and stream.body.count(b"event:") == 1


async def test_who_waits_for_a_document_hears_that_it_is_gone(api: Api) -> None:
    api.upstream.script = lambda _: ()
    async with api.upstream, Served(api.source("a")) as served:
        waiting = await served.send("/topics/a", accept="application/json")
        await until(lambda: api.upstream.requests)
        replace(served, "")
        await until(lambda: waiting.answer.raw_body if waiting.received else False)
        assert waiting.answer.status == 410
        await until(lambda: not api.upstream.open)


async def test_pages_may_send_the_headers_that_are_forwarded_now(api: Api) -> None:
    server = '[server]\ncors_origins = ["*"]\n'
    async with api.upstream, Served(server + api.source("a")) as served:
        for name in ("x-one", "x-two"):
            replace(served, server + api.source("a", rest=f'forward_headers = ["{name}"]'))
            got = await served.ask("/topics/a", "OPTIONS", origin="https://app.example")
            allowed = got.headers["access-control-allow-headers"].split(", ")
            assert allowed[-1] == name and allowed.count("last-event-id") == 1

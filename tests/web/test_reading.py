"""Reading over HTTP, with real sockets: DESIGN's interface, point by point."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

import pytest
from served import Served
from twisted.internet.defer import fail
from twisted.logger import formatEvent
from upstream import Upstream, answer, until

from pushd.errors import HistoryError

CONFIG = """
[server]
heartbeat = {heartbeat}
max_topics_per_client = 3
max_topic_name = 20
cors_origins = ["https://app.example"]
[publish]
tokens = ["secret"]
topics = ["news", "other", "rooms/{{room}}"]
[sources.stocks]
url = "{url}"
every = 0.05
[sources.quotes]
topic = "quotes/{{symbol}}"
url = "{url}/{{symbol}}"
every = 0.05
max_topics = 2
[sources.private]
url = "{url}/private"
every = 60
forward_headers = ["Authorization", "X-Tenant"]
"""


class Api:
    """An upstream whose document the test sets."""

    def __init__(self) -> None:
        self.value: Any = {"n": 1, "pad": "0123456789" * 8}
        self.status = "200 OK"
        self.hold = False
        self.upstream = Upstream(self._script)

    def _script(self, request: Any) -> Any:
        if self.hold:
            return
        if "/private" in request.target:
            body = json.dumps(
                {"for": request.headers("authorization") + request.headers("x-tenant")}
            )
            yield answer(body.encode(), "200 OK", "Content-Type: application/json")
        else:
            yield answer(
                json.dumps(self.value).encode(), self.status, "Content-Type: application/json"
            )

    def serve(self, heartbeat: float = 15.0) -> Served:
        return Served(CONFIG.format(url=self.upstream.url("/api"), heartbeat=heartbeat))


@pytest.fixture
def api() -> Api:
    return Api()


async def test_a_stream_is_a_snapshot_and_then_patches(api: Api) -> None:
    async with api.upstream, api.serve() as served:
        stream = await served.stream("/topics/stocks")
        await stream.until(lambda: stream.page.documents == {"": api.value})
        api.value = {**api.value, "n": 2}
        await stream.until(lambda: stream.page.documents == {"": api.value})
        assert b"event: patch" in stream.body


async def test_the_headers_keep_proxies_from_holding_a_stream_back(api: Api) -> None:
    async with api.upstream, api.serve() as served:
        stream = await served.stream("/topics/stocks")
        headers = stream.answer.headers
        assert headers["content-type"] == "text/event-stream"
        assert headers["cache-control"] == "no-cache, no-transform"
        assert headers["x-accel-buffering"] == "no"
        assert headers["transfer-encoding"] == "chunked"
        assert set(headers["vary"].split(", ")) == {"Accept", "Accept-Encoding", "Origin"}
        assert "content-encoding" not in headers


async def test_the_first_block_carries_the_reconnection_time_and_an_id(api: Api) -> None:
    api.hold = True
    async with api.upstream, api.serve() as served:
        times = set()
        for _ in range(5):
            stream = await served.stream("/topics/stocks")
            await until(lambda: stream.body)  # noqa: B023
            match = re.fullmatch(rb"retry: (\d+)\nid: [0-9a-z]+-0\.[0-9a-f]{6}\n\n", stream.body)
            assert match, stream.body
            times.add(int(match[1]))
        assert all(3000 <= time <= 5000 for time in times)
        assert len(times) > 1


@pytest.mark.parametrize("target", ["/topics/news?hello=1", "/events?topic=news&hello=1"])
async def test_a_client_may_ask_to_be_greeted(api: Api, target: str) -> None:
    async with api.upstream, api.serve() as served:
        stream = await served.stream(target)
        pattern = (
            rb":\nevent: hello\ndata: {}\nretry: \d+\n\n"
            rb"event: hello\ndata: {}\nid: ([0-9a-z]+-0)\n\n"
        )
        await until(lambda: re.fullmatch(pattern, stream.body))
        await served.publish("news", b"1")
        await until(lambda: b"data: {}" in stream.body)
        last = re.fullmatch(pattern, stream.body[: stream.body.index(b"\n\n", 60) + 2])
        assert last
        again = await served.stream(target, last_event_id=last[1].decode())
        await until(lambda: b"-1\n\n" in again.body)
        assert again.body.count(b"hello") == 1


async def test_a_quiet_stream_beats(api: Api) -> None:
    async with api.upstream, api.serve(heartbeat=0.05) as served:
        stream = await served.stream("/topics/news")
        await until(lambda: stream.body.endswith(b"\n\n:\n:\n"))


@pytest.mark.parametrize("path", ["/topics/news", "/topics/news?client=me"])
async def test_a_client_that_another_node_told_more_waits_for_it(api: Api, path: str) -> None:
    async with api.upstream, api.serve() as served:
        stream = await served.stream("/topics/news")
        await served.publish("news", b"1")
        await stream.until(lambda: stream.page.messages == {"": [1]})
        epoch, _, seq = stream.parser.last_id.partition("-")
        ahead = await served.send(path, last_event_id=f"{epoch}-{int(seq) + 1}")
        await served.publish("news", b"2")
        await served.publish("news", b"3")
        await ahead.until(lambda: ahead.page.messages == {"": [3]})
        assert ahead.page.gaps == []


async def test_a_client_resumes_where_it_was(api: Api) -> None:
    async with api.upstream, api.serve() as served:
        stream = await served.stream("/topics/news")
        await served.publish("news", b"1")
        await stream.until(lambda: stream.page.messages == {"": [1]})
        last = stream.parser.last_id
        stream.abort()
        await served.publish("news", b"2")
        await served.publish("news", b"3")
        for ways in (
            {"target": "/topics/news", "last_event_id": last},
            {"target": f"/topics/news?lastEventId={last}"},
            {"target": f"/topics/news?Last-Event-ID={last}"},
            {"target": f"/topics/news?lastEventID={last}"},
            {"target": f"/topics/news?last_event_id={last}"},
            {"target": "/topics/news?lastEventId=nonsense", "last_event_id": last},
        ):
            again = await served.stream(**ways)
            await again.until(lambda: again.page.messages == {"": [2, 3]})  # noqa: B023
            assert again.page.gaps == []


async def test_several_topics_come_in_envelopes_under_one_id(api: Api) -> None:
    async with api.upstream, api.serve() as served:
        stream = await served.stream("/events?topic=stocks&topic=news&topic=quotes/A&topic=news")
        stream.page.envelope = True
        await stream.until(lambda: set(stream.page.documents) == {"stocks", "quotes/A"})
        await served.publish("news", b'{"a": 1}')
        await stream.until(lambda: stream.page.messages == {"news": [{"a": 1}]})
        stream.abort()
        await served.publish("news", b'"missed"')
        again = await served.stream(
            "/events?topic=stocks&topic=news&topic=quotes/A", last_event_id=stream.parser.last_id
        )
        again.page = stream.page
        await again.until(lambda: again.page.messages["news"] == [{"a": 1}, "missed"])


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "text/event-stream"),
        ("*/*", "text/event-stream"),
        ("text/event-stream", "text/event-stream"),
        ("text/html, */*;q=0.8", "text/event-stream"),
        ("application/json", "application/json"),
        ("application/*", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("text/event-stream, application/json", "text/event-stream"),
        ("text/event-stream;q=0.5, application/json", "application/json"),
        ("text/event-stream;q=0, */*", "application/json"),
        ("text/event-stream;charset=utf-8", "text/event-stream"),
        ("text/html", None),
        ("application/x-ndjson", None),
        ("*/*;q=0", None),
    ],
)
async def test_accept_decides_what_comes(api: Api, accept: str | None, kind: str | None) -> None:
    headers = {} if accept is None else {"accept": accept}
    async with api.upstream, api.serve() as served:
        connection = await served.send("/topics/stocks", **headers)
        await until(lambda: b"\r\n\r\n" in connection.received)
        got = connection.answer
        if kind is None:
            assert got.status == 406
            assert got.json["offers"] == ["text/event-stream", "application/json"]
            assert "text/event-stream" in got.json["detail"]
        else:
            assert (got.status, got.headers["content-type"]) == (200, kind)


async def test_the_document_is_asked_for_once_if_nobody_watches(api: Api) -> None:
    async with api.upstream, api.serve() as served:
        got = await served.ask("/topics/stocks", accept="application/json")
        assert (got.status, got.json) == (200, api.value)
        assert got.headers["cache-control"] == "no-cache"
        assert len(api.upstream.requests) == 1
        etag = got.headers["etag"]
        for sent in (etag, f"W/{etag}", f'"x", {etag}', "*"):
            again = await served.ask(
                "/topics/stocks", accept="application/json", if_none_match=sent
            )
            assert (again.status, again.body) == (304, b"")
            assert again.headers["etag"] == etag
        stale = await served.ask("/topics/stocks", accept="application/json", if_none_match='"x"')
        assert stale.status == 200


async def test_an_etag_is_a_position_to_stream_from(api: Api) -> None:
    async with api.upstream, api.serve() as served:
        got = await served.ask("/topics/stocks", accept="application/json")
        stream = await served.stream("/topics/stocks", last_event_id=got.headers["etag"].strip('"'))
        stream.page.documents[""] = got.json
        api.value = {**api.value, "n": 2}
        await stream.until(lambda: stream.page.documents == {"": api.value})
        assert b"event: snapshot" not in stream.body


async def test_a_document_that_cannot_be_had_is_the_upstreams_fault(api: Api) -> None:
    api.status = "500 Oops"
    async with api.upstream, api.serve() as served:
        got = await served.ask("/topics/stocks", accept="application/json")
        assert got.status == 502
        assert got.headers["content-type"] == "application/problem+json"
        assert got.json["detail"] == "The source answered 500 Internal Server Error."


async def test_a_reader_of_the_document_who_leaves_cancels_the_poll(api: Api) -> None:
    api.hold = True
    async with api.upstream, api.serve() as served:
        connection = await served.send("/topics/stocks", accept="application/json")
        await until(lambda: api.upstream.requests)
        connection.abort()
        await until(lambda: not api.upstream.open)


async def test_a_message_topic_has_no_document(api: Api) -> None:
    async with api.upstream, api.serve() as served:
        got = await served.ask("/topics/news", accept="application/json")
        assert got.status == 406


async def test_polling_begins_with_a_watcher_and_ends_with_him_however_he_leaves(api: Api) -> None:
    api.hold = True
    async with api.upstream, api.serve() as served:
        for leave in ("abortConnection", "loseConnection", "loseWriteConnection"):
            stream = await served.stream("/topics/stocks")
            await until(lambda: api.upstream.open)
            getattr(stream.transport, leave)()
            await until(lambda: not api.upstream.open)


async def test_trouble_is_told_to_those_who_watch_and_to_those_who_come(api: Api) -> None:
    async with api.upstream, api.serve() as served:
        stream = await served.stream("/topics/stocks")
        await stream.until(lambda: stream.page.documents)
        api.status = "503 Busy"
        await stream.until(lambda: stream.page.statuses == [("", "error")])
        late = await served.stream("/topics/stocks")
        await late.until(lambda: late.page.statuses == [("", "error")])
        assert late.page.documents == {"": api.value}
        api.status = "200 OK"
        await stream.until(lambda: stream.page.statuses == [("", "error"), ("", "ok")])
        (block,) = re.findall(rb"event: status\ndata: ({[^}]*error[^}]*})\n\n", stream.body)
        assert json.loads(block)["reason"] == "The source answered 503 Service Unavailable."


async def test_clients_with_other_credentials_see_other_topics(api: Api) -> None:
    async with api.upstream, api.serve() as served:
        one = await served.stream("/topics/private", authorization="Bearer a")
        two = await served.stream("/topics/private?header=" + quote("Authorization: Bearer b"))
        same = await served.stream("/topics/private?header=authorization:Bearer%20a")
        nobody = await served.stream("/topics/private", cookie="c=1")
        for stream, values in (
            (one, ["Bearer a"]),
            (two, ["Bearer b"]),
            (same, ["Bearer a"]),
            (nobody, []),
        ):
            await stream.until(lambda: stream.page.documents == {"": {"for": values}})  # noqa: B023
        assert len(api.upstream.requests) == 3


@pytest.mark.parametrize(
    ("target", "status", "parameter"),
    [
        ("/topics/stoks", 404, "topic"),
        ("/topics/quotes/..%2f..", 404, "topic"),
        ("/topics/quotes/a%0d%0ab", 404, None),
        ("/events", 400, "topic"),
        ("/events?topic=", 404, "topic"),
        ("/events?topic=stocks&topic=nope", 404, "topic"),
        ("/topics/stocks?chunked=2", 400, "chunked"),
        ("/topics/stocks?hello=yes", 400, "hello"),
        ("/topics/stocks?client=" + "x" * 129, 400, "client"),
        ("/topics/stocks?client=a%0ab", 400, "client"),
        ("/topics/stocks?header=nonsense", 400, "header"),
        ("/topics/stocks?header=Cookie:%20a", 400, "header"),
        ("/topics/private?header=X-Tenant:%20a%0d%0aEvil:%20b", 400, "header"),
        ("/nothing", 404, None),
        ("/topics/", 404, None),
        ("/topics//stocks", 404, None),
        ("/", 404, None),
        ("/static/nope.js", 404, None),
        ("/static/..%2fservice.py", 404, None),
        ("/topics/%ff", 400, None),
    ],
)
async def test_what_a_client_does_wrong_is_told_in_a_problem_document(
    api: Api, target: str, status: int, parameter: str | None
) -> None:
    async with api.upstream, api.serve() as served:
        got = await served.ask(target)
        assert got.status == status
        assert got.headers["content-type"] == "application/problem+json"
        problem = got.json
        assert (problem["status"], problem.get("parameter")) == (status, parameter)
        assert problem["detail"][-1] in ".?"


async def test_an_unknown_topic_is_answered_with_the_nearest(api: Api) -> None:
    async with api.upstream, api.serve() as served:
        got = await served.ask("/topics/stoks")
        assert got.json["nearest"] == ["stocks"]
        assert "Did you mean 'stocks'?" in got.json["detail"]


async def test_an_ended_topic_answers_204(api: Api) -> None:
    api.status = "410 Gone"
    async with api.upstream, api.serve() as served:
        stream = await served.stream("/topics/stocks")
        await until(lambda: stream.received.endswith(b"0\r\n\r\n"))
        got = await served.ask("/topics/stocks")
        assert (got.status, got.body) == (204, b"")
        assert (await served.ask("/events?topic=stocks")).status == 204
        several = await served.stream("/events?topic=stocks&topic=news")
        await until(lambda: several.body)


@pytest.mark.parametrize(
    ("target", "version"), [("/topics/news?chunked=0", "1.1"), ("/topics/news", "1.0")]
)
async def test_a_stream_may_end_with_its_connection(api: Api, target: str, version: str) -> None:
    async with api.upstream, api.serve() as served:
        stream = await served.send(target, version=version)
        await until(lambda: b"\r\n\r\n" in stream.received)
        assert "transfer-encoding" not in stream.answer.headers
        if version == "1.1":
            assert stream.answer.headers["connection"] == "close"
        assert stream.answer.headers["content-type"] == "text/event-stream"
        await served.publish("news", b"1")
        await stream.until(lambda: stream.page.messages == {"": [1]})
        await served.daemon.stopService()
        await until(lambda: not stream.open)
        assert not stream.received.endswith(b"0\r\n\r\n")


async def test_chunks_can_be_switched_off_for_all() -> None:
    text = '[server]\nchunked = false\n[publish]\ntokens=["secret"]\ntopics=["news"]'
    async with Served(text) as served:
        for target, chunked in (("/topics/news", False), ("/topics/news?chunked=1", True)):
            stream = await served.stream(target)
            assert ("transfer-encoding" in stream.answer.headers) is chunked


async def test_head_gets_the_headers_and_watches_nothing(api: Api) -> None:
    async with api.upstream, api.serve() as served:
        got = await served.ask("/topics/stocks", "HEAD")
        assert (got.status, got.raw_body) == (200, b"")
        assert got.headers["content-type"] == "text/event-stream"
        assert api.upstream.requests == []
        got = await served.ask("/topics/stocks", "HEAD", accept="application/json")
        assert (got.status, got.raw_body) == (200, b"")
        assert int(got.headers["content-length"]) > 0
        assert (await served.ask("/topics/nope", "HEAD")).status == 404


async def test_a_head_with_a_path_that_is_no_text_is_refused_and_its_token_in_no_log(
    api: Api, capture: list[dict[str, Any]]
) -> None:
    async with api.upstream, api.serve() as served:
        got = await served.ask("/topics/%ff?access_token=geheim", "HEAD")
        assert (got.status, got.raw_body) == (400, b"")
        assert got.headers["content-type"] == "application/problem+json"
        assert int(got.headers["content-length"]) > 0
    told = [formatEvent(event) for event in capture]
    assert any("HEAD /topics/%ff?access_token=..." in line for line in told)
    assert not any("geheim" in line for line in told)


@pytest.mark.parametrize("method", ["get", "Head", "post", "opTions", "123"])
async def test_methods_are_what_they_are_letter_by_letter(api: Api, method: str) -> None:
    async with api.upstream, api.serve() as served:
        got = await served.ask("/topics/news", method)
        assert (got.status, got.headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")


async def test_options_and_other_methods(api: Api) -> None:
    async with api.upstream, api.serve() as served:
        got = await served.ask("/topics/stocks", "OPTIONS")
        assert (got.status, got.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")
        got = await served.ask("/topics/stocks", "DELETE")
        assert (got.status, got.headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")
        assert (await served.ask("/events?topic=news", "POST")).status == 405


async def test_pages_of_listed_origins_may_read(api: Api) -> None:
    origin = "https://app.example"
    async with api.upstream, api.serve() as served:
        stream = await served.stream("/topics/stocks", origin=origin)
        assert stream.answer.headers["access-control-allow-origin"] == origin
        assert stream.answer.headers["access-control-allow-credentials"] == "true"
        assert "Origin" in stream.answer.headers["vary"]
        for target in ("/topics/nope", "/nothing", "/static/jsonpatch.js"):
            got = await served.ask(target, origin=origin)
            assert got.headers["access-control-allow-origin"] == origin
        for other in ("https://evil.example", "https://app.example.evil", "null"):
            got = await served.ask("/topics/nope", origin=other)
            assert "access-control-allow-origin" not in got.headers
            assert "Origin" in got.headers["vary"]
        got = await served.ask(
            "/topics/stocks",
            "OPTIONS",
            origin=origin,
            access_control_request_method="GET",
            access_control_request_headers="last-event-id",
        )
        allowed = got.headers["access-control-allow-headers"].split(", ")
        assert {"last-event-id", "authorization", "cache-control", "x-tenant"} <= set(allowed)
        assert got.headers["access-control-allow-origin"] == origin


async def test_a_star_lets_everybody_in_without_credentials() -> None:
    async with Served('[server]\ncors_origins = ["*"]') as served:
        got = await served.ask("/topics/nope", origin="https://any.example")
        assert got.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in got.headers


async def test_a_host_that_is_no_name_is_no_matter(api: Api) -> None:
    async with api.upstream, api.serve() as served:
        for host in ("a..b", "\xff", "[::1", "x" * 300):
            connection = await served.connect()
            connection.transport.write(  # type: ignore[union-attr]
                f"GET /topics/nope HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1")
            )
            await until(lambda: connection.received)  # noqa: B023
            assert connection.answer.status == 404


async def test_headers_that_are_no_utf_8_are_no_error_of_ours(api: Api) -> None:
    async with api.upstream, api.serve() as served:
        for header, status in (
            ("Accept", 406),
            ("Origin", 404),
            ("Last-Event-ID", 404),
            ("X-Tenant", 400),
            ("Authorization", 400),
            ("If-None-Match", 404),
        ):
            connection = await served.connect()
            connection.transport.write(  # type: ignore[union-attr]
                b"GET /topics/nope HTTP/1.1\r\nHost: a\r\n%b: \xff\xfe\r\n\r\n" % header.encode()
            )
            await until(lambda: connection.received)  # noqa: B023
            assert connection.answer.status == status, header


async def test_an_id_does_not_speak_for_the_topic_of_other_credentials(api: Api) -> None:
    async with api.upstream, api.serve() as served:
        one = await served.stream("/topics/private", authorization="Bearer a")
        await one.until(lambda: one.page.documents)
        other = await served.stream("/topics/private", authorization="Bearer b")
        await other.until(lambda: other.page.documents)
        again = await served.stream(
            "/topics/private", authorization="Bearer b", last_event_id=one.parser.last_id
        )
        await again.until(lambda: again.page.documents == {"": {"for": ["Bearer b"]}})


async def test_a_private_document_is_for_no_shared_cache(api: Api) -> None:
    async with api.upstream, api.serve() as served:
        for headers, expected in (
            ({}, "no-cache"),
            ({"authorization": "Bearer a"}, "private, no-cache"),
        ):
            got = await served.ask("/topics/private", accept="application/json", **headers)
            assert got.headers["cache-control"] == expected


async def test_a_source_may_be_polled_whether_anybody_watches_or_not(api: Api) -> None:
    text = '[sources.a]\nurl = "{url}"\nevery = 0.05\nwhen = "always"\n'
    async with api.upstream, Served(text.format(url=api.upstream.url("/a"))) as served:
        await until(lambda: len(api.upstream.requests) >= 3)
        stream = await served.stream("/topics/a")
        await stream.until(lambda: stream.page.documents)
        stream.abort()
        await until(lambda: not served.daemon.feeds._feeds)
        before = len(api.upstream.requests)
        await until(lambda: len(api.upstream.requests) > before + 1)


async def test_stopping_while_somebody_waits_for_a_document_stops_everything(api: Api) -> None:
    api.hold = True
    async with api.upstream:
        async with api.serve() as served:
            stream = await served.stream("/topics/stocks")
            connection = await served.send("/topics/quotes/A", accept="application/json")
            await until(lambda: len(api.upstream.requests) == 2)
        assert not stream.open
        assert not connection.open
        await until(lambda: not api.upstream.open)
        assert not served.daemon.hub._watchers


async def test_what_the_history_refuses_is_503_and_a_stream_waits(api: Api) -> None:
    async with api.upstream, api.serve() as served:
        history = served.daemon.hub._history
        reason = "The disk\n\nis full."
        history.load = lambda key: fail(HistoryError(reason))  # type: ignore[method-assign]
        history.append = history.load  # type: ignore[method-assign,assignment]
        for got in (
            await served.ask("/topics/stocks", accept="application/json"),
            await served.publish("news", b"1"),
        ):
            assert (got.status, got.headers["retry-after"]) == (503, "5")
            assert reason in got.json["detail"]
        stream = await served.stream("/events?topic=news")
        await until(lambda: not stream.open)
        assert re.fullmatch(
            rb"retry: \d+\n: The history is not available: The disk is full.\n", stream.body
        )
        assert not stream.received.endswith(b"0\r\n\r\n")
        assert served.daemon.metrics.refusals.labels("history")._value.get() == 1


async def test_a_template_whose_topics_are_all_watched_is_503_and_a_stream_waits(api: Api) -> None:
    async with api.upstream, api.serve() as served:
        watched = await served.stream("/topics/quotes/A")
        await served.stream("/topics/quotes/B")
        got = await served.ask("/topics/quotes/C", accept="application/json")
        assert (got.status, got.headers["retry-after"]) == (503, "10")
        stream = await served.stream("/topics/quotes/C")
        await until(lambda: not stream.open)
        assert b"(max_topics)" in stream.body
        assert served.daemon.metrics.refusals.labels("max_topics")._value.get() == 2
        watched.abort()
        await until(lambda: served.daemon.admission.streams == 1)
        stream = await served.stream("/topics/quotes/C")
        await stream.until(lambda: stream.page.documents == {"": api.value})


async def test_a_connection_reads_so_many_topics(api: Api) -> None:
    async with api.upstream, api.serve() as served:
        got = await served.ask("/events?topic=rooms/1&topic=rooms/2&topic=rooms/3&topic=rooms/4")
        assert (got.status, got.json["parameter"]) == (400, "topic")
        assert "at most 3 topics" in got.json["detail"]
        await served.stream("/events?topic=rooms/1&topic=rooms/2&topic=rooms/3&topic=rooms/1")


async def test_a_name_that_is_too_long_is_told_so_and_not_repeated(api: Api) -> None:
    async with api.upstream, api.serve() as served:
        name = "rooms/" + "x" * 14
        await served.stream(f"/topics/{name}")
        assert (await served.publish(name, b"1")).status == 201
        got = await served.ask(f"/topics/{name}x")
        assert (got.status, got.json["parameter"]) == (404, "topic")
        refused = await served.publish(f"{name}x", b"1")
        assert (refused.status, refused.json["parameter"]) == (400, "topic")
        for answered in (got, refused):
            assert "at most 20 characters (max_topic_name)" in answered.json["detail"]
            assert name not in answered.json["detail"]


@pytest.mark.parametrize(
    ("target", "detail"),
    [
        ("/topics/stocks?header=X-Tenant:a", "'x-tenant' is not forwarded to the source of this"),
        ("/topics/news?header=X-Tenant:a", "'x-tenant' is not forwarded to the source of this"),
        ("/events?topic=stocks&topic=news&header=x-tenant:a", "source of any of these topics"),
    ],
)
@pytest.mark.parametrize("accept", ["text/event-stream", "*/*"])
async def test_a_header_that_the_topics_source_would_not_see_is_refused(
    api: Api, target: str, detail: str, accept: str
) -> None:
    async with api.upstream, api.serve() as served:
        got = await served.ask(target, accept=accept)
        assert (got.status, got.json["parameter"]) == (400, "header")
        assert detail in got.json["detail"]
        assert api.upstream.requests == []


async def test_a_header_that_one_of_several_sources_sees_is_none_too_many(api: Api) -> None:
    async with api.upstream, api.serve() as served:
        stream = await served.stream("/events?topic=stocks&topic=private&header=X-Tenant:%20a")
        stream.page.envelope = True
        await stream.until(lambda: stream.page.documents.get("private") == {"for": ["a"]})
        got = await served.ask("/topics/stoks?header=X-Tenant:%20a")
        assert got.status == 404

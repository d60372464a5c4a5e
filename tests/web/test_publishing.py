"""Publishing over HTTP."""

from __future__ import annotations

import pytest
from served import Served
from twisted.internet.task import deferLater
from upstream import reactor, until

from pushd.event import Position

CONFIG = """
[publish]
tokens = ["another", "secret"]
max_body = 1000
[sources.stocks]
url = "http://127.0.0.1:1/"
"""


async def test_a_message_is_recorded_and_then_read() -> None:
    async with Served(CONFIG) as served:
        first = await served.publish("news", b'{"a": 1}')
        assert first.status == 201
        position = Position.parse(first.json["id"])
        assert position is not None and position.seq == 1
        stream = await served.stream("/topics/news", last_event_id=str(position))
        second = await served.publish("news?event=greeting", b'"hello"')
        await until(lambda: b"hello" in stream.body)
        (event,) = stream.events()
        assert (event.name, event.data, event.id) == ("greeting", '"hello"', second.json["id"])


@pytest.mark.parametrize(
    ("body", "kind", "data"),
    [
        (b' {"a":\r\n [1,\n2]}\n', "application/json", '{"a":   [1, 2]}'),
        ("ü\r\n\r\nb\rc\n".encode(), "text/plain", "ü\n\nb\nc\n"),
        (b"\xfc", "text/plain; charset=latin-1", "ü"),
        (b"", "text/plain", ""),
        (b"null", "application/json; charset=utf-8", "null"),
        (b"id: 1\ndata: x\n\n: y", "text/plain", "id: 1\ndata: x\n\n: y"),
        (b"1e400", "application/json", "1e400"),
    ],
)
async def test_data_of_any_kind_arrives(body: bytes, kind: str, data: str) -> None:
    async with Served(CONFIG) as served:
        await served.publish("news", b"0")
        stream = await served.stream("/topics/news")
        got = await served.publish("news", body, content_type=kind)
        assert got.status == 201, got.body
        await until(lambda: b"data: " in stream.body)
        (event,) = stream.events()
        assert event.data == data


@pytest.mark.parametrize(
    ("target", "body", "headers", "status", "parameter"),
    [
        ("news", b"1", {"authorization": "Bearer wrong"}, 401, None),
        ("news", b"1", {"authorization": "Basic secret"}, 401, None),
        ("news", b"1", {"authorization": ""}, 401, None),
        ("news", b"1", {"authorization": "Bearer "}, 401, None),
        ("stocks", b"1", {}, 409, "topic"),
        ("a//b", b"1", {}, 400, "topic"),
        ("news?event=a%0ab", b"1", {}, 400, "event"),
        ("news?event=a%0d", b"1", {}, 400, "event"),
        ("news?event=a%00", b"1", {}, 400, "event"),
        ("news?event=gap", b"1", {}, 400, "event"),
        ("news?event=error", b"1", {}, 400, "event"),
        ("news?id=1%0a", b"1", {}, 400, "id"),
        ("news", b"{", {}, 400, None),
        ("news", b"", {}, 400, None),
        ("news", b'"\xff"', {}, 400, None),
        ("news", b"[" * 900, {}, 400, None),
        ("news", b"\xff", {"content_type": "text/plain"}, 400, None),
        ("news", b"a", {"content_type": "text/plain; charset=nope"}, 400, None),
        (
            "news",
            b"a=b",
            {"content_type": "application/x-www-form-urlencoded"},
            415,
            "Content-Type",
        ),
        ("news", b"a", {"content_type": ""}, 415, "Content-Type"),
        ("news", b'"' + b"x" * 1000 + b'"', {}, 413, None),
    ],
)
async def test_what_is_refused_is_told_why(
    target: str, body: bytes, headers: dict[str, str], status: int, parameter: str | None
) -> None:
    async with Served(CONFIG) as served:
        headers = {"authorization": "Bearer secret", "content_type": "application/json", **headers}
        got = await served.ask(f"/topics/{target}", "POST", body, **headers)
        assert got.status == status, got.body
        assert got.headers["content-type"] == "application/problem+json"
        assert got.json.get("parameter") == parameter
        if status == 401:
            assert got.headers["www-authenticate"].startswith("Bearer")
        assert served.daemon.hub.head == 0


@pytest.mark.parametrize(
    "body",
    [
        b'"\\ud83d"',
        b'["\\ud83d and more, and more"]',
        b'"\\ud83d\\u0041"',
        b'{"a": {"\\udc00": 1}}',
        b'"\\ud83d\\ude00\\ud83d"',
    ],
)
async def test_half_a_character_is_told_from_half_a_body(body: bytes) -> None:
    async with Served(CONFIG) as served:
        got = await served.publish("news", body)
        assert got.status == 400
        assert got.json["detail"] == (
            "The body is not valid JSON: it has half of a surrogate pair."
        )
        for other in (b'"\\ud83d\\ude00', b'"\\\\ud83d', b'"abc', b"[NaN]"):
            got = await served.publish("news", other)
            assert got.status == 400
            assert "surrogate" not in got.json["detail"]
        whole = await served.publish("news", b'"\\ud83d\\ude00 \\\\ud83d"')
        assert whole.status == 201


async def test_a_token_publishes_at_its_rate_and_is_never_told() -> None:
    config = '[publish]\ntokens = ["secret", "another"]\nmax_rate = 2'
    async with Served(config) as served:
        statuses = [(await served.publish("news", b"1")).status for _ in range(4)]
        assert statuses[:2] == [201, 201]
        assert statuses[3] == 429
        got = await served.publish("news", b"1")
        assert got.headers["content-type"] == "application/problem+json"
        assert got.headers["retry-after"] == "1"
        assert "2 messages a second" in got.json["detail"]
        assert b"secret" not in got.raw_body
        assert (await served.publish("news", b"1", token="another")).status == 201
        assert (await served.publish("news", b"1", token="wrong")).status == 401


async def test_a_token_may_come_as_a_parameter() -> None:
    async with Served(CONFIG) as served:
        target = "/topics/news?access_token="
        assert (
            await served.ask(target + "secret", "POST", b"1", content_type="application/json")
        ).status == 201
        assert (
            await served.ask(target + "x", "POST", b"1", content_type="application/json")
        ).status == 401


async def test_without_tokens_nobody_may_publish() -> None:
    async with Served() as served:
        got = await served.publish("news", b"1")
        assert got.status == 403


async def test_a_body_in_chunks_is_bounded_too() -> None:
    async with Served(CONFIG) as served:
        chunk = b"400\r\n" + b" " * 1024 + b"\r\n"
        got = await served.ask(
            "/topics/news",
            "POST",
            chunk * 4 + b"0\r\n\r\n",
            authorization="Bearer secret",
            content_type="application/json",
            transfer_encoding="chunked",
        )
        assert got.status == 413


async def test_who_goes_on_sending_is_cut_off() -> None:
    async with Served(CONFIG) as served:
        connection = await served.send(
            "/topics/news",
            "POST",
            b" " * 100,
            authorization="Bearer secret",
            content_type="application/json",
            content_length="10000000000",
        )
        for _ in range(100):
            connection.transport.write(b" " * 1000)  # type: ignore[union-attr]
        await until(lambda: not connection.open)


async def test_a_publisher_who_hangs_up_has_published_all_the_same() -> None:
    async with Served(CONFIG) as served:
        connection = await served.send(
            "/topics/news",
            "POST",
            b"1",
            authorization="Bearer secret",
            content_type="application/json",
        )
        connection.transport.loseConnection()  # type: ignore[union-attr]
        await until(lambda: served.daemon.hub.head == 1)


async def test_a_body_is_kept_for_those_only_who_may_publish() -> None:
    body = b'"' + b"x" * 200_000
    async with Served('[publish]\ntokens = ["secret"]\ntopics = ["news"]') as served:

        async def held(target: str, method: str = "POST", **more: str) -> int:
            connection = await served.connect()
            request = [f"{method} {target} HTTP/1.1", "Host: a", "Content-Length: 1000000"]
            request += [f"{name}: {value}" for name, value in more.items()]
            connection.transport.write("\r\n".join([*request, "", ""]).encode() + body)
            channels = served.daemon._site.channels
            await until(lambda: any(c.requests and c.requests[0]._received for c in channels))
            await deferLater(reactor, 0.05)
            (request,) = [request for channel in channels for request in channel.requests]
            size = len(request.content.getvalue())
            connection.abort()
            await until(lambda: not channels)
            return size

        assert await held("/topics/news", authorization="Bearer secret") > 0
        assert await held("/topics/news?access_token=secret") > 0
        assert await held("/topics/news") == 0
        assert await held("/topics/news?access_token=guess") == 0
        assert await held("/topics/news", "GET", authorization="Bearer secret") == 0

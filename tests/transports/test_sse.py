"""A stream and a real transport: what one does when the other has had enough."""

from __future__ import annotations

import json
from typing import Any

from served import Connection, Served
from twisted.internet.task import deferLater
from upstream import reactor, until

from pushd.event import Document, Draft, Payload

CONFIG = """
[publish]
tokens = ["secret"]
topics = ["news"]
[sources.doc]
url = "http://127.0.0.1:1/"
every = 3600
"""
SIZE = 10_000


def say(served: Served, number: int) -> None:
    payload = Payload(None, json.dumps([number, "x" * SIZE]).encode())
    served.daemon.hub.publish(Draft("news", (payload,)))


def buffered(served: Served) -> int:
    """Bytes that the server's transports hold for their clients."""
    (feed,) = served.daemon.feeds._feeds.values()
    return sum(_held(member.subscriber) for member in feed.members)


def _held(stream: Any) -> int:
    transport = stream._transport
    return len(transport.dataBuffer) - transport.offset + transport._tempDataLen


async def stalled(served: Served, target: str) -> Connection:
    """A client that stops reading once it has seen the beginning."""
    stream = await served.stream(target)
    await until(lambda: b"id:" in stream.body)
    stream.transport.pauseProducing()  # type: ignore[union-attr]
    return stream


async def test_a_reader_of_messages_that_stalls_is_not_queued_for_and_misses_nothing() -> None:
    async with Served(CONFIG) as served:
        slow, quick = await stalled(served, "/topics/news"), await served.stream("/topics/news")
        for number in range(900):
            say(served, number)
            if number % 30 == 0:
                await quick.until(lambda: True)
        expected = list(range(900))
        await quick.until(lambda: numbers(quick) == expected)
        assert buffered(served) < 200_000
        slow.transport.resumeProducing()  # type: ignore[union-attr]
        await slow.until(lambda: numbers(slow) == expected)
        say(served, 900)
        await slow.until(lambda: numbers(slow)[-1] == 900)


def numbers(stream: Connection) -> list[int]:
    return [message[0] for message in stream.page.messages.get("", [])]


async def test_a_reader_of_a_document_that_stalls_gets_the_document_as_it_is_then() -> None:
    async with Served(CONFIG) as served:
        [topic] = await served.daemon.catalogue.topics(["doc"], {})
        slow = await stalled(served, "/topics/doc")
        for number in range(1000):
            data = json.dumps({"n": number, "pad": "x" * SIZE}).encode()
            draft = Draft(topic.key, (Payload("snapshot", data),), Document(data))
            served.daemon.hub.publish(draft)
            if number % 30 == 0:
                await until(lambda: True)
        assert buffered(served) < 200_000
        slow.transport.resumeProducing()  # type: ignore[union-attr]
        await slow.until(lambda: slow.page.documents.get("", {}).get("n") == 999)
        assert slow.body.count(b"event: snapshot") < 600


async def test_a_snapshot_larger_than_any_buffer_arrives() -> None:
    async with Served(CONFIG) as served:
        [topic] = await served.daemon.catalogue.topics(["doc"], {})
        data = json.dumps({"pad": "x" * 3_000_000}).encode()
        draft = Draft(topic.key, (Payload("snapshot", data),), Document(data))
        served.daemon.hub.publish(draft)
        for target in ("/topics/doc", "/topics/doc?chunked=0"):
            stream = await served.stream(target)
            await stream.until(lambda: "" in stream.page.documents)  # noqa: B023
            assert len(stream.page.documents[""]["pad"]) == 3_000_000


async def test_leaving_while_stalled_is_noticed() -> None:
    async with Served(CONFIG) as served:
        slow = await stalled(served, "/topics/news")
        for number in range(900):
            say(served, number)
        await until(lambda: buffered(served) > 0)
        slow.abort()
        await until(lambda: not served.daemon.feeds._feeds)


async def test_a_large_document_is_not_copied_for_a_client_that_stalls() -> None:
    async with Served(CONFIG) as served:
        [topic] = await served.daemon.catalogue.topics(["doc"], {})
        clients = [await stalled(served, "/topics/doc") for _ in range(5)]
        for number in range(3):
            data = json.dumps({"n": number, "pad": "x" * 3_000_000}).encode()
            draft = Draft(topic.key, (Payload("snapshot", data),), Document(data))
            served.daemon.hub.publish(draft)
            await deferLater(reactor, 0.01)
        assert buffered(served) < 5 * 400_000
        for client in clients:
            client.transport.resumeProducing()  # type: ignore[union-attr]
            await client.until(lambda: client.page.documents.get("", {}).get("n") == 2)  # noqa: B023


async def test_a_client_that_is_sent_away_while_it_stalls_is_disconnected() -> None:
    async with Served(CONFIG) as served:
        slow = await stalled(served, "/topics/news")
        for number in range(900):
            say(served, number)
        await until(lambda: buffered(served) > 0)
        served.daemon.feeds.close()
        slow.transport.resumeProducing()  # type: ignore[union-attr]
        await until(lambda: not slow.open)

"""Clients that stop reading: what they cost, whom they disturb, what they get when they go on."""

from __future__ import annotations

import gc
import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from served import Connection, Served
from test_sse import buffered, stalled
from twisted.internet.task import deferLater
from upstream import reactor, until

from pushd.event import Document, Draft, Payload

CONFIG = """
[server]
client_timeout = 60
[history]
keep_bytes = 3000000
[publish]
tokens = ["secret"]
topics = ["news"]
[sources.doc]
url = "http://127.0.0.1:1/"
every = 3600
"""
SIZE = 100_000
ENOUGH = 1050
"""So many of that size are more than 100 MB."""


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def publish(served: Served, topic: str, quick: Connection | None = None) -> int:
    """Publishes 100 MB; by how many bytes this process has grown at most meanwhile."""
    gc.collect()
    before = most = resident()
    for number in range(ENOUGH):
        data = json.dumps([number, "x" * SIZE]).encode()
        document = Document(data) if topic == "doc" else None
        name = "snapshot" if document else None
        served.daemon.hub.publish(Draft(topic, (Payload(name, data),), document))
        await deferLater(reactor, 0)
        if number % 10 == 0:
            if quick is not None:
                await quick.until(lambda: True)
                # What the client of this test keeps is none of the server's.
                quick.page.messages[""][:] = [[n] for n, *_ in quick.page.messages.get("", [])]
                del quick.received[quick._taken :]
            most = max(most, resident())
        assert buffered(served) < 2 * 500_000
    return most - before


def numbers(stream: Connection) -> list[int]:
    return [message[0] for message in stream.page.messages.get("", [])]


async def test_100_mb_of_messages_pass_by_and_what_is_lost_is_told() -> None:
    async with Served(CONFIG) as served:
        slow = await stalled(served, "/topics/news")
        grown = await publish(served, "news")
        assert grown < 25_000_000, grown
        slow.transport.resumeProducing()  # type: ignore[union-attr]
        await slow.until(lambda: numbers(slow)[-1:] == [ENOUGH - 1])
        got = numbers(slow)
        assert got == sorted(set(got)), "in order, none doubled"
        holes = [(before, after) for before, after in pairwise(got) if after != before + 1]
        # What the system takes in on the way, it may take in in between.
        assert 1 <= len(holes) == len(slow.page.gaps) < 5, "each is told"
        assert ENOUGH - 1 - holes[-1][0] > 900, "most have passed by"
        assert ENOUGH - holes[-1][1] >= 28, "all that is still kept"


async def test_100_mb_of_a_document_pass_by_and_the_newest_is_what_comes() -> None:
    async with Served(CONFIG) as served:
        await served.daemon.catalogue.topics(["doc"], {})
        slow = await stalled(served, "/topics/doc")
        grown = await publish(served, "doc")
        assert grown < 25_000_000, grown
        slow.transport.resumeProducing()  # type: ignore[union-attr]
        await slow.until(lambda: slow.page.documents.get("", [None])[0] == ENOUGH - 1)
        assert slow.body.count(b"event: snapshot") < 100


async def test_one_that_stalls_does_not_hold_up_the_others() -> None:
    async with Served(CONFIG) as served:
        quick = await served.stream("/topics/news")
        slow = [await stalled(served, "/topics/news") for _ in range(20)]
        latest = 0.0
        for number in range(100):
            data = json.dumps([number, "x" * SIZE]).encode()
            began = time.monotonic()
            served.daemon.hub.publish(Draft("news", (Payload(None, data),)))
            await deferLater(reactor, 0)
            await quick.until(lambda: numbers(quick)[-1:] == [number])  # noqa: B023
            latest = max(latest, time.monotonic() - began)
        assert latest < 0.5
        assert all(one.open for one in slow)


def logged(capture: list[dict[str, Any]]) -> list[Any]:
    return [event["why"] for event in capture if "why" in event]


async def test_one_that_takes_nothing_is_cut_off_in_time(capture: list[dict[str, Any]]) -> None:
    async with Served(CONFIG.replace("= 60", "= 0.5")) as served:
        slow = await stalled(served, "/topics/news")
        data = json.dumps("x" * SIZE).encode()
        for _ in range(200):
            served.daemon.hub.publish(Draft("news", (Payload(None, data),)))
            await deferLater(reactor, 0)
        await until(lambda: buffered(served) > 0)
        began = time.monotonic()
        await until(lambda: not served.daemon.feeds._feeds)
        assert 0.2 < time.monotonic() - began < 1.5
        assert logged(capture) == ["stalled"]
        slow.transport.resumeProducing()  # type: ignore[union-attr]
        await until(lambda: not slow.open)


async def test_one_that_takes_little_by_little_is_not(capture: list[dict[str, Any]]) -> None:
    config = CONFIG.replace("= 60", "= 1\nsend_buffer = 65536")
    async with Served(config) as served:
        slow = await stalled(served, "/topics/news")
        slow.transport.socket.setsockopt(1, 8, 8192)  # type: ignore[union-attr]  # SO_RCVBUF
        slow.transport.bufferSize = 8192  # type: ignore[union-attr]
        data = json.dumps("x" * SIZE).encode()
        for _ in range(200):
            served.daemon.hub.publish(Draft("news", (Payload(None, data),)))
            await deferLater(reactor, 0)
        await until(lambda: buffered(served) > 0)
        (feed,) = served.daemon.feeds._feeds.values()
        (member,) = feed.members
        began = time.monotonic()
        while time.monotonic() - began < 3:
            slow.transport.resumeProducing()  # type: ignore[union-attr]
            await deferLater(reactor, 0.001)
            slow.transport.pauseProducing()  # type: ignore[union-attr]
            await deferLater(reactor, 0.1)
            assert member._paused, "it stands still all the time"
        assert logged(capture) == []
        slow.abort()
        await until(lambda: not served.daemon.feeds._feeds)
        assert logged(capture) == ["connection lost"]

"""A daemon and clients that do whatever clients can do: nobody else notices."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from faults.rudeness import RUDENESS, Place, calling, get, many_at_once
from served import Connection, Served
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from upstream import Upstream, answer, until

reactor: Any = _reactor
TOKEN = "secret"
AT_ONCE = 0.5
"""Seconds. It takes two milliseconds, where nobody else runs."""

LARGE = json.dumps([{"number": n, "text": "x" * 100} for n in range(40_000)]).encode()
assert len(LARGE) > 4_000_000

CONFIG = """
    [server]
    header_timeout = 0.5
    body_timeout = 0.5
    client_timeout = 1.0
    max_url = 1024
    [publish]
    tokens = ["secret"]
    topics = ["news"]
    max_body = 4096
    max_rate = 100000.0
    [sources.large]
    url = "URL"
    every = 600.0
"""
"""What has to be waited for is short."""

KINDS = (
    "Feed",
    "Subscription",
    "SSEStream",
    "Seat",
    "HTTPChannel",
    "PushChannel",
    "PushRequest",
    "BoundedRequest",
    "Server",
    "DelayedCall",
)
"""What a client is made of, and what it might leave."""


class Scene:
    """A daemon, and a reader who is there all the time."""

    def __init__(self, served: Served, reader: Connection) -> None:
        self.served = served
        self.reader = reader
        self.said = 0
        self.place = Place(
            ("127.0.0.1", served.port),
            stream="/topics/news",
            large="/topics/large",
            publish=f"/topics/news?access_token={TOKEN}",
        )

    @property
    def streams(self) -> int:
        return len(self.served.daemon.feeds)

    def watched(self) -> set[str]:
        hub = self.served.daemon.hub
        return {key for key, topic in hub.topics.items() if hub.watched(topic)}

    async def say(self) -> None:
        """Publish a number, and be answered at once."""
        began = reactor.seconds()
        self.said += 1
        body = b'{"number": %d}' % self.said
        assert (await self.served.publish("news", body, TOKEN)).status == 201
        assert reactor.seconds() - began < AT_ONCE

    def heard(self) -> list[int]:
        """The numbers that the reader got; what else was published is not among them."""
        self.reader.events()
        found = self.reader.page.messages.get("", [])
        return [one["number"] for one in found if isinstance(one, dict)]

    async def is_as_before(self) -> None:
        await self.say()
        await until(lambda: len(self.heard()) == self.said)
        assert self.heard() == list(range(1, self.said + 1))
        assert self.reader.open
        # Whom the test before sent away may still be leaving.
        await until(lambda: (self.streams, self.watched()) == (1, {"news"}), 3.0)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    upstream = Upstream(lambda request: [answer(LARGE, "200 OK", "Content-Type: application/json")])

    def run(awaited: Any) -> Any:
        return pytest_twisted.blockon(Deferred.fromCoroutine(awaited))

    run(upstream.__aenter__())
    served = Served(CONFIG.replace("URL", upstream.url()))
    run(served.__aenter__())
    try:
        for _ in range(3):
            # It is read in a process that has to start first.
            got = run(served.ask("/topics/large", accept="application/json"))
        assert got.status == 200
        yield Scene(served, run(served.stream("/topics/news")))
    finally:
        run(served.__aexit__())
        run(upstream.__aexit__())


@pytest.mark.parametrize("name", RUDENESS)
async def test_nobody_notices(scene: Scene, name: str) -> None:
    await scene.say()
    rude = deferToThread(RUDENESS[name], scene.place)
    while not rude.called:
        await scene.say()
    await rude
    await scene.is_as_before()


async def test_thousands_come_at_once_and_are_gone(scene: Scene) -> None:
    await deferToThread(many_at_once, scene.place, 3000)
    await scene.is_as_before()


def _count() -> Counter[str]:
    # What the daemon has frozen would not be counted.
    gc.unfreeze()
    gc.collect()
    kinds = Counter(type(one).__name__ for one in gc.get_objects())
    found = Counter({kind: kinds[kind] for kind in KINDS})
    found["DelayedCall"] = len(reactor.getDelayedCalls())
    found["readers"] = len(reactor.getReaders())
    found["writers"] = len(reactor.getWriters())
    return found


def _come_and_go(place: Place, times: int) -> None:
    """In all the ways that are quick."""
    for n in range(times):
        with calling(place) as line:
            if n % 4 == 1:
                line.say(b"GET / HT")
            elif n % 4 == 2:
                line.say(get(place.stream))
            elif n % 4 == 3:
                line.say(get(place.stream))
                line.hear(1)
            if n % 8 > 3:
                line.reset()


async def test_ten_thousand_come_and_go_and_leave_nothing(scene: Scene) -> None:
    await deferToThread(_come_and_go, scene.place, 200)
    await scene.is_as_before()
    before = _count()
    await deferToThread(_come_and_go, scene.place, 10_000)
    await scene.is_as_before()
    await until(lambda: _count() <= before, 5.0)

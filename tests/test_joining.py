"""Compressed bytes are shared by all who are live, whoever comes, stalls and goes in between."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import pytest
from house import Client, House
from hypothesis import given, settings
from hypothesis import strategies as st

from pushd import feed, wire
from pushd.topic import Topic
from pushd.wire import SSE

GZIP = wire.gzipped(SSE)


class Inflating(Client):
    """A client of a compressed stream."""

    def __init__(self, house: House, topic: Topic) -> None:
        super().__init__(house, (topic,), False)
        self.sent = b""

    def connect(self, given: str | None = None, pull: bool = True) -> Client:
        self.sent = GZIP.begin(b"")
        self.buffer = b""
        self.parser.drop()
        self.subscription = self.house.feeds.subscribe(
            self.topics, GZIP, self, given or self.parser.last_id or None
        )
        self.subscription.pull()
        return self

    def write(self, data: bytes) -> None:
        self.sent += data
        super().write(data)

    def receive(self, size: int | None = None) -> Client:
        self.buffer = b""
        whole = zlib.decompressobj(wbits=31).decompress(self.sent)
        self.parser.drop()
        for event in self.parser.feed(whole)[self.taken :]:
            self.taken += 1
            self.page.take(event)
        if self.subscription is not None:
            self.subscription.resume()
        return self

    taken = 0


def text(number: int) -> str:
    return f"message {number}, much like the one before"


class Story:
    """Readers of one topic, and what each has to have read."""

    def __init__(self) -> None:
        self.house = House(heartbeat=1.0)
        self.topic = self.house.messages("m")
        self.clients: list[tuple[Inflating, int]] = []
        self.said = 0
        # Without a watcher it would be forgotten.
        self.house.hub.watch(self.topic)

    def say(self, _: int) -> None:
        self.said += 1
        self.house.say("m", text(self.said))

    def beat(self, _: int) -> None:
        self.house.clock.advance(1.0)

    def turn(self, _: int) -> None:
        self.house.turn()

    def join(self, _: int) -> None:
        client = Inflating(self.house, self.topic)
        client.connect()
        self.clients.append((client, self.said))

    def drop(self, number: int) -> None:
        if self.clients:
            self.clients.pop(number % len(self.clients))[0].drop()

    def stall(self, number: int) -> None:
        """Be full with the next bytes."""
        if self.clients:
            self.clients[number % len(self.clients)][0].room = 1

    def read(self, number: int) -> None:
        if self.clients:
            client, _ = self.clients[number % len(self.clients)]
            client.room = None
            client.receive()

    def check(self) -> None:
        for number in range(len(self.clients)):
            self.read(number)
        for _ in range(50):
            self.house.turn()
        for client, before in self.clients:
            got = client.receive().page.messages.get("", [])
            # Who comes in the middle of a broadcast may be told what waits behind it.
            assert len(got) >= self.said - before
            first = self.said - len(got) + 1
            assert got == [text(number) for number in range(first, self.said + 1)]


ACTS = [Story.say, Story.beat, Story.turn, Story.join, Story.drop, Story.stall, Story.read]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 9))), st.integers(1, 4))
def test_everyone_can_inflate_everything(
    acts: list[tuple[Callable[[Story, int], None], int]], at_once: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, "AT_ONCE", at_once)
        patch.setattr(feed, "PULLS_AT_ONCE", at_once)
        story = Story()
        for act, number in acts:
            act(story, number)
        story.check()


def test_who_joins_does_not_need_what_went_before_and_the_others_profit_from_it() -> None:
    house = House()
    topic = house.messages("m")

    def said(*clients: Inflating) -> int:
        """How many bytes a message takes."""
        before = [len(client.sent) for client in clients]
        house.say("m", "one message like all others, and not too short for it")
        house.turn()
        (size,) = {len(client.sent) - at for client, at in zip(clients, before, strict=True)}
        return size

    first = Inflating(house, topic)
    first.connect()
    alone = said(first)
    assert said(first) < alone / 2
    second = Inflating(house, topic)
    second.connect()
    # The same bytes for both: alone again, once.
    assert said(first, second) >= alone - 4
    house.clock.advance(15)
    assert first.sent[-7:] == second.sent[-7:] == GZIP.pack(GZIP.heartbeat, b"")
    assert said(first, second) < alone / 2
    for client, count in ((first, 4), (second, 2)):
        assert len(client.receive().page.messages[""]) == count

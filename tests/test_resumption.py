"""Nothing lost, nothing doubled: clients drop and resume at every point of random histories."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from house import Client, House
from hypothesis import given, settings
from hypothesis import strategies as st

from pushd.config import History
from pushd.event import Payload, Position, mark

ROOM = 400


class Story:
    """What happens in a hub, told step by step, with what a right client has to know."""

    def __init__(self, documents: int, messages: int, keep: History | None = None) -> None:
        self.house = House(keep)
        self.documents = [self.house.document(f"d{n}") for n in range(documents)]
        self.messages = [self.house.messages(f"m{n}") for n in range(messages)]
        self.state: dict[str, dict[str, int]] = {}
        self.said: dict[str, list[int]] = {}
        self.number = itertools.count(1)
        self.client = self.house.client(*self.documents, *self.messages, envelope=True)

    def change(self, which: int) -> None:
        """A document gets a patch, mostly; sometimes it is new altogether."""
        if not self.documents:
            return self.say(which)
        key = self.documents[which % len(self.documents)].key
        number = next(self.number)
        old = self.state.get(key)
        if old is None or number % 5 == 0:
            self.state[key] = {"pad" * 8: 0, str(number): number}
            self.house.snapshot(key, self.state[key])
        else:
            # "add" would do the same twice over; "remove" of what is gone fails
            # loudly, so a patch that is missed or doubled cannot go unnoticed.
            gone = list(old)[-1]
            self.state[key] = {**{k: v for k, v in old.items() if k != gone}, str(number): number}
            patch = b'[{"op":"remove","path":"/%b"},{"op":"add","path":"/%d","value":%d}]' % (
                gone.encode(),
                number,
                number,
            )
            self.house.change(key, Payload("patch", patch), self.state[key])
        return None

    def say(self, which: int) -> None:
        if not self.messages:
            return
        key = self.messages[which % len(self.messages)].key
        number = next(self.number)
        self.said.setdefault(key, []).append(number)
        self.house.say(key, number)

    def begin(self) -> None:
        """Have the client come; only what is said from now on counts for it."""
        self.heard_from = next(self.number)
        self.client.connect()
        self.client.receive()

    def check(self) -> None:
        """Let the client catch up, and compare."""
        client = self.client
        client.room = None
        if client.subscription is None:
            client.connect()
        else:
            client.subscription.resume()
        self.house.turn()
        client.receive()
        assert client.page.documents == self.state
        for topic in self.messages:
            expected = [n for n in self.said.get(topic.key, []) if n > self.heard_from]
            assert client.page.messages.get(topic.key, []) == expected
        assert client.page.gaps == []


def act(story: Story, step: tuple[str, int]) -> None:
    what, number = step
    client = story.client
    if what == "change":
        story.change(number)
    elif what == "say":
        story.say(number)
    elif what == "turn":
        story.house.turn()
    elif what == "receive":
        client.receive(number)
    elif what == "drop":
        client.drop()
    elif what == "connect" and client.subscription is None:
        client.room = ROOM if number % 2 else None
        client.connect()


steps = st.lists(
    st.tuples(
        st.sampled_from(["change", "say", "change", "say", "turn", "receive", "drop", "connect"]),
        st.integers(0, 300),
    ),
    max_size=60,
)


@given(shape=st.sampled_from([(1, 0), (0, 1), (3, 0), (0, 2), (2, 2)]), before=steps, after=steps)
@settings(max_examples=600, deadline=None)
def test_a_client_that_drops_at_any_byte_ends_up_right(
    shape: tuple[int, int], before: Any, after: Any
) -> None:
    story = Story(*shape)
    for step in before:
        if step[0] in ("change", "say", "turn"):
            act(story, step)
    story.begin()
    for step in after:
        act(story, step)
    story.check()


def _mixed(story: Story) -> None:
    """Patches and messages in turn, more of them than the documents weigh."""
    for n in range(12):
        story.change(n)
        story.say(n)


@pytest.mark.parametrize(("documents", "messages"), [(1, 0), (0, 1), (3, 0), (0, 3), (2, 2)])
def test_every_cut_of_a_catch_up_is_survived(documents: int, messages: int) -> None:
    size = 1
    cut = 0
    while cut <= size:
        story = Story(documents, messages)
        _mixed(story)
        story.begin()
        story.house.turn()
        story.client.receive().drop()
        _mixed(story)
        story.house.turn()
        story.client.connect()
        size = len(story.client.buffer)
        story.client.receive(cut).drop()
        story.change(1)
        story.say(1)
        story.house.turn()
        story.client.connect()
        story.check()
        cut += 1 if size < 400 else 7


@given(pauses=st.booleans(), steps=steps, keep=st.integers(1, 5))
@settings(max_examples=300, deadline=None)
def test_what_is_lost_for_good_is_told_as_a_gap(pauses: bool, steps: Any, keep: int) -> None:
    story = Story(1, 2, History(keep_events=keep))
    for topic in story.messages:
        topic.LOG_EVENTS = 2  # the rest has to be asked of the history
    story.begin()
    seen: list[Any] = []
    take = story.client.page.take
    story.client.page.take = lambda event: (seen.append(event), take(event))  # type: ignore[method-assign]
    for step in steps:
        act(story, step)
    client = story.client.drop()
    client.room = ROOM if pauses else None
    client.connect()
    for _ in range(100):
        client.receive()
        story.house.turn()
    assert client.page.documents == story.state
    for topic in story.messages:
        _account_for(story, topic.key, seen)


def _account_for(story: Story, key: str, seen: list[Any]) -> None:
    """Each message was received once, in order, or lies within a gap that was told."""
    told = [event for event in seen if event.json["topic"] == key]
    got = [event.json["data"] for event in told if event.name == "message"]
    assert got == sorted(set(got))
    missing = set(story.said.get(key, [])) - set(got)
    if missing:
        assert any(event.name == "gap" for event in told), (missing, got)
    last = max(story.said.get(key, [0]))
    assert last in got or not last, "the newest message is always kept"


@pytest.mark.parametrize(
    "given_id", ["nonsense", "0000000000-3", "é\u2028", "-1", "9" * 400, "a-01", "a-1-1"]
)
def test_an_id_that_means_nothing_gets_the_document_whole(given_id: str) -> None:
    story = Story(1, 0)
    story.change(1)
    client = story.client.connect(given_id).receive()
    assert client.page.documents == story.state
    assert Position.parse(client.parser.last_id) == Position(
        story.house.hub.epoch, 1, mark=mark(["d0"])
    )


@pytest.mark.parametrize("future", [False, True])
def test_an_id_that_means_nothing_gets_a_gap_and_then_what_is_kept(future: bool) -> None:
    story = Story(0, 1, History(keep_events=3))
    story.messages[0].LOG_EVENTS = 1
    for n in range(5):
        story.say(n)
    epoch = story.house.hub.epoch
    given_id = f"{epoch}-6" if future else "0000000000-2"
    client = story.client.connect(given_id).receive()
    assert client.page.messages["m0"] == [3, 4, 5]
    assert client.page.gaps == [("m0", {"after": given_id, "resumed": f"{epoch}-2"})]
    assert client.parser.last_id == f"{epoch}-5"


def test_what_weighs_more_than_the_document_is_not_sent() -> None:
    story = Story(1, 0)
    for n in (1, 2, 3):
        story.change(n)
    client: Client = story.client.connect().receive()
    for n in (6, 7, 8, 9):
        story.change(n)
    client.drop()
    for n in range(40):
        story.change(n)
    story.house.turn()
    client.connect()
    assert client.buffer.count(b"event: snapshot") == 1
    assert client.buffer.count(b"event: patch") == 0
    client.receive()
    assert client.page.documents == story.state


def test_a_client_that_comes_back_for_more_topics_gets_their_documents() -> None:
    story = Story(2, 1)
    for n in range(6):
        story.change(n)
    house = story.house
    client = house.client(story.documents[0], envelope=True).connect().receive().drop()
    story.change(0)
    story.say(0)
    client.topics = (*story.documents, *story.messages)
    client.connect().receive()
    assert client.page.documents == story.state
    assert client.page.messages == {"m0": story.said["m0"]}

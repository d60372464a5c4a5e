"""Another configuration while clients read: whoever is concerned notices, and nobody else."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import pytest
from house import Client, House, now
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.web.http_headers import Headers

from pushd import config
from pushd.config import Source
from pushd.errors import ClientError
from pushd.event import Draft, Payload
from pushd.interfaces import ISource, Kept
from pushd.sources.always import Always
from pushd.sources.catalogue import Catalogue
from pushd.sources.directory import Changes
from pushd.sources.fetch import Answer
from pushd.sources.pace import Slots
from pushd.sources.poll import Poller, Surroundings
from pushd.sources.worker import Worker
from pushd.throttle import Throttle
from pushd.topic import DocumentTopic, Topic

HOST = "https://api.example"


class Api:
    """
    Answers at once, or, while it is held, when it is let go.

    All addresses and all clients are given the same ETags: those of one are
    wrong for the other.
    """

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.version = 1
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.held: list[Deferred[Answer]] | None = None
        self.cancelled = 0
        self.status = 200

    def fetch(
        self, url: str, headers: Mapping[str, str], *, timeout: float, max_bytes: int
    ) -> Deferred[Answer]:
        self.shop.check(url, headers)
        self.asked.append((url.removeprefix(HOST), dict(headers)))
        if self.held is None:
            return succeed(self.answer(url, headers))
        waiting: Deferred[Answer] = Deferred(self._cancel)
        waiting.addCallback(lambda _: self.answer(url, headers))
        self.held.append(waiting)
        return waiting

    def _cancel(self, waiting: Deferred[Answer]) -> None:
        assert self.held is not None
        self.cancelled += 1
        self.held.remove(waiting)

    def hold(self, hold: bool) -> None:
        if not hold:
            self.release()
        elif self.held is None:
            self.held = []

    def release(self) -> None:
        held, self.held = self.held or [], None
        for waiting in held:
            waiting.callback(None)

    def value(self, url: str, authorization: str | None) -> Any:
        pad = {str(n): n for n in range(9)}
        return {"v": {"n": self.version, "at": url, **pad}, "for": authorization, "pad": pad}

    def answer(self, url: str, headers: Mapping[str, str]) -> Answer:
        etag = f'"{self.version}"'
        given = Headers({"ETag": [etag], "Content-Type": ["application/json"]})
        if self.status != 200:
            return Answer(self.status, given, b"")
        if headers.get("If-None-Match") == etag:
            return Answer(304, given, b"")
        value = self.value(url, headers.get("Authorization"))
        return Answer(200, given, json.dumps(value).encode())

    def polls(self, path: str) -> int:
        return [asked for asked, _ in self.asked].count(path)


class Reader(Client):
    """A client that tells what an end means: EventSource goes by the same."""

    ended = False
    cuts = 0

    def finish(self) -> None:
        self.ended = True
        super().finish()

    def cut(self) -> None:
        self.cuts += 1
        super().finish()


class Shop:
    """A catalogue with real pollers, of an upstream that is not there."""

    def __init__(self, text: str) -> None:
        self.house = House()
        self.api = Api(self)
        self.pollers: list[Poller] = []
        self.around = Surroundings(
            self.house.hub,
            Worker(None),  # type: ignore[arg-type]
            self.house.clock,
            self.house.now,
            lambda: 0.5,
            self.house.metrics,
            Throttle(self.house.clock),
            Slots(0.5),
        )
        self.config = config.parse(text, {})
        self.catalogue = Catalogue(self.config, self.house.hub, self._build)

    def _build(
        self,
        topic: DocumentTopic,
        source: Source,
        url: str,
        headers: Mapping[str, str],
        forgotten: Callable[[], None],
        before: ISource | None,
    ) -> ISource:
        fetcher: Any = self.api
        poller = Poller(topic, source, url, headers, self.around, fetcher, forgotten, before)
        self.pollers.append(poller)
        return poller

    def check(self, url: str, headers: Mapping[str, str]) -> None:
        """Nobody is asked who is no longer, or with the headers of before."""
        wanted = [
            source
            for source in self.config.sources.values()
            if url.startswith(source.url.partition("{")[0])
            and source.headers.get("X") == headers.get("X")
        ]
        assert wanted, (url, headers)
        assert "Authorization" not in headers or any(s.forward_headers for s in wanted)

    def replace(self, text: str) -> Changes:
        self.config = config.parse(text, {})
        return self.catalogue.replace(self.config)

    def topics(self, *names: str, **headers: str) -> Sequence[Topic]:
        found: Sequence[Topic] = now(self.catalogue.topics(names, headers))
        return found

    def reader(self, *names: str, **headers: str) -> Reader:
        reader = Reader(self.house, tuple(self.topics(*names, **headers)), True)
        reader.connect()
        self.turn(reader)
        return reader

    def again(self, reader: Reader, *names: str, **headers: str) -> None:
        """Connect as after a break. As EventSource, it is stopped by 204."""
        reader.topics = tuple(self.topics(*names, **headers))
        reader.drop()
        reader.ended = all(topic.ended for topic in reader.topics)
        if not reader.ended:
            reader.connect()
            self.turn(reader)

    def turn(self, *readers: Reader) -> None:
        self.house.turn()
        for reader in readers:
            reader.receive()

    def wait(self, seconds: float, *readers: Reader) -> None:
        self.house.clock.pump([1 / 16] * round(seconds * 16))
        self.turn(*readers)

    def poller(self, key: str) -> Poller:
        poller = self.house.hub._sources[key][0]
        assert isinstance(poller, Poller)
        return poller


def source(topic: str, rest: str = "", path: str | None = None) -> str:
    url = f"{HOST}/{topic if path is None else path}"
    return f'[sources."{topic}"]\ntopic = "{topic}"\nurl = "{url}"\n{rest}\n'


A, B = source("a"), source("b")
MESSAGES = '[publish]\ntokens = ["t"]\ntopics = ["m"]\n'


def test_what_did_not_change_does_not_notice() -> None:
    shop = Shop(A + B)
    reader = shop.reader("a")
    shop.wait(3.25, reader)
    poller, topic, polls = shop.poller("a"), shop.house.hub.topics["a"], shop.api.polls("/a")
    calls = shop.house.clock.getDelayedCalls()
    for text in (A + B, B + A, A, A + source("c"), source("a").replace('"a"]', '"renamed"]')):
        shop.replace(text)
    assert shop.poller("a") is poller and shop.house.hub.topics["a"] is topic
    assert shop.house.clock.getDelayedCalls() == calls
    assert shop.api.polls("/a") == polls and len(shop.pollers) == 1
    assert not reader.finished and reader.buffer == b""
    shop.wait(1, reader)
    assert shop.api.polls("/a") == polls + 1
    assert "If-None-Match" in shop.api.asked[-1][1]


def test_what_changed_is_told() -> None:
    shop = Shop(A + B)
    assert shop.replace(A + B) == Changes((), (), ())
    text = source("a", "every = 2.0") + source("q/{x}")
    assert shop.replace(text) == Changes(("q/{x}",), ("b",), ("a",))


def test_a_new_source_can_be_read_at_once() -> None:
    shop = Shop(A)
    with pytest.raises(ClientError):
        shop.topics("b")
    shop.replace(A + B)
    assert shop.reader("b").page.documents["b"] == shop.api.value(f"{HOST}/b", None)


def test_a_removed_one_ends_is_polled_no_more_and_stays_ended() -> None:
    shop = Shop(A + B)
    reader = shop.reader("b")
    shop.replace(A)
    assert reader.ended and reader.cuts == 0
    shop.wait(5)
    assert shop.api.polls("/b") == 1
    assert shop.topics("b")[0].ended
    assert set(shop.house.hub.topics) == set()
    assert shop.house.clock.getDelayedCalls() == []
    assert now(shop.house.history.load("b")) == Kept([], 0, None)


def test_names_of_a_removed_template_are_remembered() -> None:
    shop = Shop(A + source("q/{x}"))
    shop.replace(A)
    shop.replace(A + B)
    assert shop.topics("q/1")[0].ended
    with pytest.raises(ClientError) as raised:
        shop.topics("q/1/2")
    assert raised.value.status == 404


def test_a_poll_under_way_for_what_is_removed_is_cancelled() -> None:
    shop = Shop(A + B)
    shop.api.held = []
    reader = shop.reader("b", "a")
    shop.replace(A)
    assert (shop.api.cancelled, len(shop.api.held)) == (1, 1)
    shop.api.release()
    shop.turn(reader)
    assert not reader.finished and set(reader.page.documents) == {"a"}


def test_a_stream_of_several_goes_on_with_the_others_until_all_are_removed() -> None:
    shop = Shop(MESSAGES + A + B)
    reader = shop.reader("a", "b", "m")
    shop.replace(MESSAGES + A)
    assert not reader.finished
    shop.api.version = 2
    shop.house.say("m", 1)
    shop.wait(2, reader)
    assert reader.page.documents["a"]["v"]["n"] == 2
    assert reader.page.documents["b"]["v"]["n"] == 1
    assert reader.page.messages == {"m": [1]}
    assert shop.api.polls("/b") == 1
    shop.replace("")
    assert reader.ended and reader.cuts == 0
    hub = shop.house.hub
    assert hub._audience._listeners == hub._watchers == hub.dropped == {}


@pytest.mark.parametrize("back", [B, '[publish]\ntokens = ["t"]\ntopics = ["b"]\n'])
def test_who_reads_on_without_what_was_removed_gets_it_when_it_comes_back(back: str) -> None:
    shop = Shop(A + B)
    reader = shop.reader("a", "b")
    shop.replace(A)
    late = shop.reader("a")
    shop.replace(back + A)
    assert (reader.cuts, late.cuts) == (1, 0)
    shop.again(reader, "a", "b")
    shop.api.version = 2
    shop.house.say("b", 1) if "tokens" in back else None
    shop.wait(2, reader)
    assert reader.page.documents["a"]["v"]["n"] == 2
    assert reader.page.messages == {"b": [1]} or reader.page.documents["b"]["v"]["n"] == 2
    assert shop.house.hub.dropped == {}


def test_who_asks_for_what_was_removed_along_with_others_gets_it_when_it_comes_back() -> None:
    shop = Shop(A + B + source("c"))
    before = shop.reader("a", "b")
    shop.replace(A + source("c"))
    late = [shop.reader("b", "c"), shop.reader("b", "a"), shop.reader("c")]
    assert all(reader.page.documents.keys() <= {"a", "c"} for reader in late)
    shop.replace(A + B + source("c"))
    assert [reader.cuts for reader in (before, *late)] == [1, 1, 1, 0]


def test_a_name_that_is_removed_may_be_published_to_if_any_may() -> None:
    tokens = '[publish]\ntokens = ["t"]\n'
    shop = Shop(tokens + A + B)
    both = shop.reader("a", "b")
    shop.replace(tokens + A)
    assert shop.topics("b")[0].ended
    shop.house.say(shop.catalogue.message_topic("b"), 1)
    shop.turn(both)
    assert both.page.messages == {}
    reader = shop.reader("b")
    shop.house.say("b", 2)
    shop.turn(reader)
    assert reader.page.messages == {"b": [2]}
    assert both.cuts == 1


CHANGES = {
    "url": source("a", path="other"),
    "headers": source("a", 'headers = { X = "1" }'),
    "emit": source("a", 'emit = "snapshot"'),
    "select": source("a", 'select = "{v: v, pad: pad}"'),
    "every": source("a", "every = 2.0"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_changed_goes_on_with_its_document(what: str) -> None:
    shop = Shop(A)
    reader = shop.reader("a")
    topic, before = shop.house.hub.topics["a"], shop.poller("a")
    head = shop.house.hub.head
    shop.replace(CHANGES[what])
    assert reader.buffer == b"" and not reader.finished
    assert shop.house.hub.topics["a"] is topic and shop.poller("a") is not before
    assert topic.document is not None  # type: ignore[attr-defined]
    shop.house.clock.advance(1)
    assert shop.api.asked[-1][1].keys() == ({"X"} if what == "headers" else set())
    shop.house.turn()
    sent = reader.buffer
    reader.receive()
    url = f"{HOST}/{'other' if what == 'url' else 'a'}"
    value = shop.api.value(url, None)
    if what == "select":
        del value["for"]
    assert reader.page.documents["a"] == value
    assert (b"event: patch" in sent) is (what in ("url", "select"))
    assert (shop.house.hub.head > head) is (what in ("url", "select"))
    assert b"event: snapshot" not in sent
    shop.api.version = 2
    shop.wait(5, reader)
    assert not reader.finished
    assert json.dumps(reader.page.documents["a"]).count('"n": 2') == 1


def test_a_change_is_in_time_for_who_waits_and_spread_for_who_has_something() -> None:
    shop = Shop(source("q/{x}"))
    readers = [shop.reader(f"q/{n}") for n in range(3)]
    shop.api.held = []
    waiting = shop.reader("q/waiting")
    shop.replace(source("q/{x}", "every = 0.5"))
    assert len(shop.api.held) == 1 and shop.api.asked[-1][0] == "/q/waiting"
    shop.api.release()
    shop.turn(waiting)
    assert waiting.page.documents
    asked = len(shop.api.asked)
    shop.wait(0.5, *readers)
    assert len(shop.api.asked) == asked + 3


def test_the_poll_under_way_is_cancelled_and_asked_anew() -> None:
    shop = Shop(A)
    shop.api.held = []
    reader = shop.reader("a")
    for path in ("other", "third"):
        shop.replace(source("a", path=path))
    assert (shop.api.cancelled, [asked for asked, _ in shop.api.asked]) == (
        2,
        ["/a", "/other", "/third"],
    )
    shop.api.release()
    shop.turn(reader)
    assert reader.page.documents["a"]["v"]["at"] == f"{HOST}/third"


def test_who_waits_for_a_document_gets_that_of_the_new_source() -> None:
    shop = Shop(A)
    shop.api.held = []
    (topic,) = shop.topics("a")
    assert isinstance(topic, DocumentTopic)
    shop.house.hub.watch(topic)
    refreshed = shop.house.hub.refresh(topic)
    shop.replace(source("a", path="other"))
    assert not refreshed.called
    shop.api.release()
    assert refreshed.called
    assert topic.document is not None and b"/other" in topic.document.data
    shop.house.hub.unwatch(topic)


def test_who_waits_for_a_document_that_is_removed_waits_no_longer() -> None:
    shop = Shop(A)
    shop.api.held = []
    (topic,) = shop.topics("a")
    assert isinstance(topic, DocumentTopic)
    shop.house.hub.watch(topic)
    refreshed = shop.house.hub.refresh(topic)
    shop.replace("")
    assert refreshed.called and topic.ended
    shop.house.hub.unwatch(topic)
    assert shop.house.clock.getDelayedCalls() == []


def test_a_source_in_error_stays_so_until_the_first_answer() -> None:
    shop = Shop(A)
    shop.api.status = 500
    reader = shop.reader("a")
    shop.wait(1, reader)
    since = shop.house.hub.topics["a"].status.since
    shop.replace(source("a", "every = 0.5"))
    shop.turn(reader)
    shop.api.status = 200
    assert reader.page.statuses == [("a", "error")]
    assert shop.house.hub.topics["a"].status.since == since
    shop.replace(source("a", "every = 1.0"))
    shop.wait(1, reader)
    assert reader.page.statuses == [("a", "error"), ("a", "ok")]


def test_a_source_that_asked_to_be_left_alone_is_unless_it_is_another_now() -> None:
    shop = Shop(A)
    reader = shop.reader("a")
    shop.poller("a")._left_alone = 100.0
    polls = len(shop.api.asked)
    shop.replace(source("a", 'select = "v"'))
    shop.replace(source("a", "every = 2.0"))
    shop.wait(60, reader)
    assert len(shop.api.asked) == polls
    shop.replace(source("a", path="other"))
    shop.wait(1, reader)
    assert len(shop.api.asked) == polls + 1


def test_a_source_goes_stale_by_its_new_patience() -> None:
    shop = Shop(source("a", "every = 5.0\nstale_after = 60.0"))
    reader = shop.reader("a")
    shop.wait(3, reader)
    shop.api.held = []
    shop.replace(source("a", "every = 5.0\nstale_after = 6.0"))
    shop.wait(2, reader)
    assert reader.page.statuses == []
    shop.wait(2, reader)
    assert reader.page.statuses == [("a", "stale")]


def test_what_is_being_recorded_is_there_before_the_next_change(monkeypatch: Any) -> None:
    shop = Shop(A)
    reader = shop.reader("a")
    append = shop.house.history.append
    held: list[Callable[[], object]] = []

    def slowly(draft: Any) -> Deferred[Any]:
        waiting: Deferred[Any] = Deferred()
        held.append(lambda: append(draft).chainDeferred(waiting))
        return waiting

    monkeypatch.setattr(shop.house.history, "append", slowly)
    shop.api.version = 2
    shop.wait(2, reader)
    assert len(held) == 1
    shop.replace(source("a", path="other"))
    shop.api.version = 3
    shop.wait(2, reader)
    assert len(held) == 1, "or two changes would both be told from the same document"
    held.pop()()
    shop.turn(reader)
    assert reader.page.documents["a"]["v"]["n"] == 2
    held.pop()()
    shop.turn(reader)
    assert reader.page.documents["a"] == shop.api.value(f"{HOST}/other", None)


def test_linger_counts_at_once() -> None:
    shop = Shop(source("q/{x}", "linger = 60.0"))
    shop.reader("q/1").drop()
    shop.replace(source("q/{x}", "linger = 5.0"))
    shop.wait(5)
    assert shop.house.hub.topics == {}
    shop.reader("q/1").drop()
    shop.wait(5)
    assert shop.house.hub.topics == {}


def test_what_is_kept_for_ever_still_is() -> None:
    shop = Shop(A)
    reader = shop.reader("a")
    shop.replace(source("a", "linger = 5.0"))
    reader.drop()
    shop.wait(6)
    assert set(shop.house.hub.topics) == {"a"}


def test_lowering_max_topics_throws_nobody_out() -> None:
    shop = Shop(source("q/{x}", "max_topics = 4"))
    readers = [shop.reader(f"q/{n}") for n in range(4)]
    for _ in range(2):
        shop.replace(source("q/{x}", "max_topics = 2"))
    assert not any(reader.finished for reader in readers)
    for more in ("q/4", "q/5"):
        with pytest.raises(ClientError) as raised:
            shop.topics(more)
        assert raised.value.status == 503
    shop.again(readers[0], "q/0")
    for reader in readers[:3]:
        reader.drop()
    shop.reader("q/4")


def test_a_name_that_becomes_another_sources_is_read_there() -> None:
    shop = Shop(source("q/{x}"))
    one, two = shop.reader("q/1"), shop.reader("q/2")
    shop.replace(source("q/1", path="special") + source("q/{x}"))
    assert (one.cuts, one.ended, two.finished) == (1, False, False)
    shop.again(one, "q/1")
    assert one.page.documents["q/1"]["v"]["at"] == f"{HOST}/special"
    shop.replace(source("q/{x}"))
    assert (one.cuts, one.ended, two.finished) == (2, False, False)
    shop.again(one, "q/1")
    assert one.page.documents["q/1"]["v"]["at"] == f"{HOST}/q/1"
    assert "/special" not in [asked for asked, _ in shop.api.asked[-1:]]


def test_a_name_may_go_from_a_source_to_messages_and_back() -> None:
    declared = '[publish]\ntokens = ["t"]\ntopics = ["b"]\n'
    shop = Shop(A + B)
    reader = shop.reader("b")
    shop.replace(declared + A)
    assert (reader.cuts, reader.ended) == (1, False)
    shop.again(reader, "b")
    shop.house.say("b", 1)
    shop.turn(reader)
    assert reader.page.messages == {"b": [1]} and reader.page.gaps == []
    shop.replace(A + B)
    assert (reader.cuts, reader.ended) == (2, False)
    shop.again(reader, "b")
    shop.api.version = 2
    shop.wait(2, reader)
    assert reader.page.documents["b"] == shop.api.value(f"{HOST}/b", None)
    assert reader.page.messages == {"b": [1]}


def test_message_topics_that_are_no_longer_declared_end() -> None:
    shop = Shop(MESSAGES)
    reader = shop.reader("m")
    shop.replace(MESSAGES.replace('"m"', '"m", "n"'))
    shop.replace(MESSAGES.replace('topics = ["m"]', ""))
    shop.house.say("m", 1)
    shop.turn(reader)
    assert reader.page.messages == {"m": [1]}, "any may be published to"
    shop.replace(MESSAGES.replace('"m"', '"n"'))
    assert reader.ended
    assert shop.topics("m")[0].ended
    shop.replace(MESSAGES)
    shop.again(reader, "m")
    shop.house.say("m", 2)
    shop.turn(reader)
    assert reader.page.messages == {"m": [1, 2]}


FORWARDING = source("a", 'forward_headers = ["Authorization"]')


def test_private_topics_go_on_with_their_headers() -> None:
    shop = Shop(FORWARDING)
    reader = shop.reader("a", authorization="one")
    other = shop.reader("a", authorization="two")
    shop.replace(FORWARDING.replace('"Authorization"', '"authorization"') + "every = 2.0\n")
    shop.api.version = 2
    shop.wait(3, reader, other)
    assert [r.page.documents["a"]["for"] for r in (reader, other)] == ["one", "two"]
    assert [r.page.documents["a"]["v"]["n"] for r in (reader, other)] == [2, 2]
    assert not reader.finished and not other.finished
    keys = set(shop.house.hub.topics)
    shop.reader("a", authorization="one")
    assert set(shop.house.hub.topics) == keys


def test_private_topics_are_left_when_their_header_no_longer_counts() -> None:
    shop = Shop(FORWARDING)
    reader, public = shop.reader("a", authorization="one"), shop.reader("a")
    shop.replace(A)
    assert (reader.cuts, public.cuts) == (1, 0)
    assert set(shop.house.hub.topics) == {"a"}
    shop.again(reader, "a", authorization="one")
    assert reader.page.documents["a"]["for"] is None


def test_all_come_back_when_a_header_is_forwarded_that_was_not() -> None:
    """They may have sent it all along."""
    shop = Shop(A)
    reader = shop.reader("a", authorization="one")
    shop.replace(FORWARDING)
    assert (reader.cuts, reader.ended) == (1, False)
    shop.again(reader, "a", authorization="one")
    assert reader.page.documents["a"]["for"] == "one"


def test_headers_of_what_was_removed_may_still_be_named() -> None:
    shop = Shop(FORWARDING)
    shop.replace(B)
    assert shop.catalogue.forwardable == {"authorization"} == shop.catalogue.wanted(["a"])
    shop.replace(A)
    assert shop.catalogue.forwardable == frozenset() == shop.catalogue.wanted(["a"])


def test_what_its_source_had_ended_is_asked_for_again_once_that_is_changed() -> None:
    shop = Shop(A + B)
    several = shop.reader("a", "b")
    shop.api.status = 410
    reader = shop.reader("b")
    shop.wait(2, reader, several)
    assert reader.ended
    shop.api.status = 200
    shop.replace(A + B)
    assert shop.topics("b")[0].ended
    shop.replace(A + source("b", path="other"))
    shop.again(reader, "b")
    assert reader.page.documents["b"]["v"]["at"] == f"{HOST}/other"


def held_loads(shop: Shop, monkeypatch: Any) -> list[Callable[[], None]]:
    """From now on what the history holds is told when it is asked to."""
    load = shop.house.history.load
    held: list[Callable[[], None]] = []

    def slowly(key: str) -> Deferred[Kept]:
        waiting: Deferred[Kept] = Deferred()
        held.append(lambda: load(key).chainDeferred(waiting))
        return waiting

    monkeypatch.setattr(shop.house.history, "load", slowly)
    return held


@pytest.mark.parametrize(
    ("before", "after"),
    list(
        product(
            [A, '[publish]\ntokens = ["t"]\ntopics = ["a"]\n'],
            [A, source("a", path="other"), "", '[publish]\ntokens = ["t"]\ntopics = ["a"]\n'],
        )
    ),
)
def test_what_is_being_opened_meanwhile_becomes_what_it_is_now(
    before: str, after: str, monkeypatch: Any
) -> None:
    shop = Shop(before)
    held = held_loads(shop, monkeypatch)
    opened: list[Any] = []
    for _ in range(2):
        Deferred.fromCoroutine(shop.catalogue.topics(["a"], {})).addBoth(opened.append)
    shop.replace(after)
    while held:
        held.pop(0)()
    ((one,), (two,)) = opened
    assert one is two or (one.ended and two.ended)
    if after == "":
        assert one.ended
        return
    assert shop.house.hub.topics["a"] is one
    assert isinstance(one, DocumentTopic) is ("sources" in after)
    if "sources" in after:
        shop.house.hub.watch(one)
        assert shop.api.asked[-1][0] == ("/other" if "other" in after else "/a")


def test_one_that_is_opened_while_another_is_removed_is_had_without_it(monkeypatch: Any) -> None:
    shop = Shop(A + B)
    held = held_loads(shop, monkeypatch)
    opened: list[Any] = []
    Deferred.fromCoroutine(shop.catalogue.topics(["a", "b"], {})).addBoth(opened.append)
    held.pop(0)()
    shop.replace(B)
    while held:
        held.pop(0)()
    assert [(topic.name, topic.ended) for topic in opened[0]] == [("a", True), ("b", False)]


def test_what_is_recorded_for_a_name_that_became_something_else_is_nobodys(
    monkeypatch: Any,
) -> None:
    declared = '[publish]\ntokens = ["t"]\ntopics = ["b"]\n'
    shop = Shop(declared)
    shop.reader("b")
    append = shop.house.history.append
    held: list[Any] = []
    monkeypatch.setattr(shop.house.history, "append", lambda d: held.append(d) or Deferred())
    shop.house.hub.publish(Draft("b", (Payload(None, b"1"),)))
    monkeypatch.undo()
    shop.replace(B)
    reader = shop.reader("b")
    append(held.pop())
    shop.wait(2, reader)
    assert reader.page.messages == {}
    assert reader.page.documents["b"] == shop.api.value(f"{HOST}/b", None)


ALWAYS = 'when = "always"'


def always(shop: Shop) -> Always:
    return Always(shop.house.hub, shop.catalogue, shop.house.clock, lambda: 0.5)


def test_what_is_always_polled_begins_and_ends_with_the_configuration() -> None:
    shop = Shop(source("a", ALWAYS))
    watch = always(shop)
    now(watch.follow())
    assert shop.api.asked == []
    shop.wait(1)
    assert shop.api.polls("/a") == 1
    poller = shop.poller("a")
    shop.replace(source("a", ALWAYS) + source("b", ALWAYS))
    now(watch.follow())
    shop.wait(1)
    assert (shop.api.polls("/a"), shop.api.polls("/b")) == (2, 1) or shop.api.polls("/b") == 1
    assert shop.poller("a") is poller
    shop.replace(source("a", ALWAYS, path="other") + B)
    now(watch.follow())
    asked = shop.api.polls("/b")
    shop.wait(5)
    assert shop.api.polls("/b") == asked and shop.api.polls("/other") >= 4
    shop.replace(B)
    now(watch.follow())
    assert shop.house.hub._watchers == {}
    shop.replace(source("a", ALWAYS) + B)
    now(watch.follow())
    asked = shop.api.polls("/a")
    shop.wait(2)
    assert shop.api.polls("/a") > asked


def test_what_is_always_polled_is_not_begun_after_it_was_removed_or_all_is_stopped() -> None:
    shop = Shop(source("a", ALWAYS) + source("b", ALWAYS + "\nevery = 100.0"))
    watch = always(shop)
    now(watch.follow())
    shop.replace(source("b", ALWAYS + "\nevery = 100.0"))
    shop.wait(2)
    now(watch.follow())
    watch.stop()
    shop.wait(100)
    assert shop.api.asked == []
    shop.replace(source("c", ALWAYS))
    now(watch.follow())
    assert shop.house.clock.getDelayedCalls() == []


def test_all_topics_of_a_template_change_at_once_and_are_asked_one_after_the_other() -> None:
    shop = Shop(source("q/{x}") + "".join(source(f"s{n}") for n in range(20)))
    for n in range(200):
        shop.house.hub.watch(shop.topics(f"q/{n}")[0])
    asked = len(shop.api.asked)
    shop.replace(source("q/{x}", "every = 2.0"))
    assert len(shop.api.asked) == asked
    shop.wait(2)
    assert len(shop.api.asked) == asked + 200


# Any sequence of configurations, connections, drops and changes.

NAMES = ("a", "b", "q/1", "q/2", "m")


@st.composite
def texts(draw: Any) -> str:
    """A configuration."""
    text = ""
    taken = set()
    for topic in draw(st.permutations(["a", "b", "q/1", "m"])):
        if draw(st.booleans()):
            text += _some_source(draw, topic)
            taken.add(topic)
    if draw(st.booleans()):
        text += _some_source(draw, "q/{x}")
    declared = [name for name in ("m", "a") if name not in taken and draw(st.booleans())]
    if declared:
        text = f'[publish]\ntokens = ["t"]\ntopics = {json.dumps(declared)}\n{text}'
    return text


def _some_source(draw: Any, topic: str) -> str:
    rest = draw(
        st.sampled_from(
            ["", 'select = "v"', 'emit = "snapshot"', "every = 2.0", 'headers = { X = "1" }']
        )
    )
    if draw(st.booleans()):
        rest += '\nforward_headers = ["Authorization"]'
    path = draw(st.sampled_from([None, None, "other/" + topic]))
    return source(topic, rest, path)


events = st.one_of(
    st.tuples(st.just("replace"), texts()),
    st.tuples(
        st.just("read"), st.tuples(st.sets(st.sampled_from(NAMES), min_size=1), st.booleans())
    ),
    st.tuples(st.just("drop"), st.integers(0, 3)),
    st.tuples(st.just("change"), st.just(None)),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.25, 1.0, 3.0])),
    st.tuples(st.just("say"), st.sampled_from(["a", "m"])),
    st.tuples(st.just("hold"), st.booleans()),
)


class Visit:
    """A page: what it reads, and its connection."""

    def __init__(self, shop: Shop, names: set[str], authorized: bool) -> None:
        self.shop = shop
        self.names = sorted(names)
        self.given = {"authorization": "me"} if authorized else {}
        self.reader = Reader(shop.house, (), True)
        self.closed = False
        self.come_back()

    def come_back(self) -> None:
        """As EventSource does. Only 200 lets it go on."""
        if self.closed:
            return
        try:
            self.shop.again(self.reader, *self.names, **self.given)
        except ClientError:
            self.closed = True
        else:
            self.closed = self.reader.ended

    def go_on(self) -> None:
        self.reader.receive()
        if self.reader.finished:
            self.come_back()

    def check(self) -> None:
        served = [name for name in self.names if self.shop_serves(name)]
        if not self.closed:
            assert served and self.reader.subscription is not None
            for name in served:
                self.check_name(name)

    def shop_serves(self, name: str) -> bool:
        directory = self.shop.catalogue._directory
        return directory.owner(name) is not None or directory.declared(name)

    def check_name(self, name: str) -> None:
        owner = self.shop.catalogue._directory.owner(name)
        page = self.reader.page
        if owner is None:
            assert "last words" in page.messages[name]
            return
        source, values = owner
        url = source.url.replace("{x}", values.get("x", ""))
        wanted = self.shop.api.value(
            url, self.given.get("authorization") if source.forward_headers else None
        )
        assert page.documents[name] == (wanted["v"] if source.select else wanted)


@given(first=texts(), happens=st.lists(events, max_size=25))
@settings(max_examples=300, deadline=None)
def test_whatever_happens_clients_end_up_right(first: str, happens: list[Any]) -> None:
    shop = Shop(first)
    visits: list[Visit] = []
    for what, how in happens:
        act(shop, visits, what, how)
    shop.api.release()
    for _ in range(3):
        for visit in visits:
            visit.go_on()
        shop.wait(3)
    for name in shop.config.publish.topics:
        shop.house.say(name, "last words")
    shop.turn()
    for visit in visits:
        visit.go_on()
        visit.check()
    for visit in visits:
        visit.reader.drop()
    asked = len(shop.api.asked)
    shop.wait(61)
    hub = shop.house.hub
    assert len(shop.api.asked) == asked
    assert hub._watchers == hub._audience._listeners == hub.dropped == shop.house.feeds._feeds == {}
    assert set(hub.topics) <= {"a", "b", "q/1", "m"}


def act(  # noqa: C901  # a table of what may happen
    shop: Shop, visits: list[Visit], what: str, how: Any
) -> None:
    match what:
        case "replace":
            shop.replace(how)
        case "read":
            visits.append(Visit(shop, *how))
        case "drop":
            for visit in visits[how : how + 1]:
                visit.reader.drop()
                visit.come_back()
        case "change":
            shop.api.version += 1
        case "wait":
            shop.wait(how)
            for visit in visits:
                visit.go_on()
        case "say":
            if how in shop.config.publish.topics:
                shop.house.say(how, "something")
        case "hold":
            shop.api.hold(how)


def test_a_change_under_a_request_for_the_document_does_not_poll_for_nobody() -> None:
    shop = Shop(source("t/{x}", path="t/{x}"))
    reader = shop.reader("t/1")
    shop.wait(1)
    reader.drop()
    shop.api.held = []
    shop.wait(3)
    (topic,) = shop.topics("t/1")
    hub = shop.house.hub
    # What a request does, which leaves when it is answered.
    hub.watch(topic)
    refreshed = hub.refresh(topic)
    refreshed.addBoth(lambda _: hub.unwatch(topic))
    shop.replace(source("t/{x}", path="t/{x}", rest="emit='snapshot'"))
    shop.api.release()
    shop.wait(100)
    assert refreshed.called and hub.topics == {}
    asked = len(shop.api.asked)
    shop.wait(10)
    assert len(shop.api.asked) == asked


def test_a_late_look_up_of_messages_does_not_drop_a_document() -> None:
    shop = Shop('[publish]\ntokens = ["t"]\n')
    history = shop.house.history
    shop.house.say("a", 1)
    load, waiting = history.load, []

    def slow(key: str) -> Deferred[Kept]:
        waiting.append((Deferred(), key))
        return waiting[-1][0]

    history.load = slow  # type: ignore[method-assign]
    late: list[object] = []
    Deferred.fromCoroutine(shop.catalogue.topics(["a"], {})).addBoth(late.append)
    shop.replace('[publish]\ntokens = ["t"]\n' + A)
    history.load = load  # type: ignore[method-assign]
    reader = shop.reader("a")
    assert reader.page.documents["a"]
    while waiting:
        answer, key = waiting.pop()
        load(key).chainDeferred(answer)
        shop.turn(reader)
    assert late and reader.cuts == 0

"""The hub: recorded before seen, told once a turn, watched and forgotten."""

from __future__ import annotations

from typing import Any

import pytest
from house import Client, House, Silent, dumps, now
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.logger import LogLevel, formatEvent
from zope.interface import implementer
from zope.interface.verify import verifyObject

from pushd.config import History
from pushd.errors import HistoryError
from pushd.event import Document, Draft, Event, Payload
from pushd.history.memory import MemoryHistory
from pushd.hub import MESSAGES_LINGER, REACH_SECONDS
from pushd.interfaces import IHistoryListener, IHub, IListener, Kept
from pushd.once import WOKEN_AT_ONCE
from pushd.wire import Frame

MESSAGE = Draft("m", (Payload(None, b"1"),))


@implementer(IListener)
class Notes:
    def __init__(self) -> None:
        self.told: list[object] = []

    def offer(self, frame: Frame) -> None:
        self.told.append(frame.payload.data if frame.payload else None)

    def ended(self) -> None:
        self.told.append("ended")

    def cut(self) -> None:
        self.told.append("cut")

    def flush(self) -> None:
        self.told.append("flush")


class Slow(MemoryHistory):
    """A history that records when it is told to."""

    waiting: list[tuple[Draft, Deferred[tuple[Event, ...]]]]

    def append(self, draft: Draft) -> Deferred[tuple[Event, ...]]:
        recorded: Deferred[tuple[Event, ...]] = Deferred()
        self.waiting.append((draft, recorded))
        return recorded

    def record(self) -> None:
        for draft, recorded in self.waiting:
            super().append(draft).chainDeferred(recorded)


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
def slow(house: House) -> Slow:
    house.history.__class__ = Slow
    house.history.waiting = []  # type: ignore[attr-defined]
    assert isinstance(house.history, Slow)
    return house.history


def warned(capture: list[dict[str, Any]]) -> list[str]:
    """What the operator was warned of."""
    return [formatEvent(event) for event in capture if event["log_level"] is LogLevel.warn]


def test_it_is_a_hub(house: House) -> None:
    verifyObject(IHub, house.hub)
    verifyObject(IHistoryListener, house.hub)


def test_an_event_is_seen_only_after_it_is_recorded(house: House, slow: Slow) -> None:
    notes = Notes()
    house.hub.listen(house.messages("m"), notes)
    recorded = house.hub.publish(MESSAGE)
    house.turn()
    assert (notes.told, recorded.called, house.hub.head) == ([], False, 0)
    slow.record()
    house.turn()
    assert (notes.told, recorded.called, house.hub.head) == ([b"1", "flush"], True, 1)


def test_what_is_published_together_is_told_whole_and_in_order(house: House) -> None:
    notes = Notes()
    house.hub.listen(house.messages("m"), notes)
    now(house.hub.publish(Draft("m", tuple(Payload(None, data) for data in (b"1", b"2", b"3")))))
    house.turn()
    assert notes.told == [b"1", b"2", b"3", "flush"]


def test_a_publisher_who_hangs_up_does_not_undo_the_recording(house: House, slow: Slow) -> None:
    failures: list[object] = []
    waiting = house.hub.publish(MESSAGE)
    waiting.addErrback(failures.append)
    waiting.cancel()
    assert failures[0].check(CancelledError)  # type: ignore[attr-defined]
    slow.record()
    assert house.hub.head == 1


def test_a_publisher_hears_that_nothing_was_recorded(house: House, slow: Slow) -> None:
    waiting = house.hub.publish(MESSAGE)
    slow.waiting[0][1].errback(HistoryError("The disk is full."))
    with pytest.raises(HistoryError):
        now(waiting)


def test_a_turn_is_told_at_its_end_and_once(house: House) -> None:
    notes = Notes()
    house.hub.listen(house.messages("m"), notes)
    house.hub.listen(house.messages("n"), notes)
    for topic in ("m", "n", "m", "other"):
        house.say(topic, topic)
    assert "flush" not in notes.told
    house.turn()
    assert notes.told == [b'"m"', b'"n"', b'"m"', "flush"]
    house.turn()
    assert notes.told.count("flush") == 1


def test_who_no_longer_listens_is_not_told(house: House) -> None:
    topic, notes = house.messages("m"), Notes()
    house.hub.listen(topic, notes)
    house.hub.unlisten(topic, notes)
    house.say("m", 1)
    house.turn()
    assert notes.told == []


def test_a_status_is_told_when_it_changes_and_keeps_its_beginning(house: House) -> None:
    topic, notes = house.document("d"), Notes()
    house.hub.listen(topic, notes)
    house.hub.tell(topic, "ok", None)
    assert notes.told == []
    house.hub.tell(topic, "error", "Why.")
    since = topic.status.since
    house.clock.advance(5)
    house.hub.tell(topic, "error", "Why.")
    house.hub.tell(topic, "error", "Something else.")
    assert topic.status.since == since == 1_000_000
    house.hub.tell(topic, "ok", None)
    assert (topic.status.since, topic.status.number) == (1_000_005, 3)
    assert len([told for told in notes.told if told != "flush"]) == 3


def test_an_ended_topic_tells_its_listeners(house: House) -> None:
    topic, notes = house.document("d"), Notes()
    house.hub.listen(topic, notes)
    house.hub.end(topic)
    assert topic.ended
    assert notes.told == ["ended"]


def test_a_source_hears_of_the_first_watcher_and_the_last(house: House) -> None:
    topic = house.document("d")
    for _ in range(2):
        house.hub.watch(topic)
    assert house.hub.watched(topic)
    house.hub.unwatch(topic)
    assert house.source.told == ["watched"]
    house.hub.unwatch(topic)
    assert house.source.told == ["watched", "unwatched"]
    assert not house.hub.watched(topic)


def test_an_unwatched_topic_lingers_and_is_then_forgotten(house: House) -> None:
    topic = house.document("d", linger=60)
    house.snapshot("d", 1)
    house.hub.watch(topic)
    house.clock.advance(100)
    house.hub.unwatch(topic)
    house.clock.advance(59)
    house.hub.watch(topic)
    house.clock.advance(100)
    assert house.hub.topics == {"d": topic}
    house.hub.unwatch(topic)
    house.clock.advance(60)
    assert house.hub.topics == {}
    assert house.source.told[-1] == "forgotten"
    assert now(house.history.load("d")) == Kept([], 0, None)


def test_a_topic_that_nobody_ever_watched_is_forgotten_too(house: House) -> None:
    house.document("d", linger=60)
    house.messages("m")
    house.clock.advance(60)
    assert house.hub.topics == {}


def test_messages_that_nobody_watches_stay_in_the_history(house: House) -> None:
    house.messages("m")
    house.say("m", 1)
    house.clock.advance(MESSAGES_LINGER)
    assert house.hub.topics == {}
    assert [event.seq for event in now(house.history.load("m")).events] == [1]


def test_what_cannot_be_forgotten_is_told(house: House, capture: list[dict[str, Any]]) -> None:
    house.document("d", linger=60)
    house.history.forget = lambda _: fail(HistoryError("The disk is full."))
    house.clock.advance(60)
    assert warned(capture) == ["'d' is not forgotten: The disk is full."]


@pytest.mark.parametrize(
    ("kept", "recorded"),
    [
        (Kept([], 0, None), False),
        (Kept([Event(1, "m", Payload(None, b"1"), 0.0)], 0, None), True),
        (Kept([], 7, None), True),
        (Kept([], 7, Document(b"1")), False),
    ],
    ids=["nothing", "messages", "messages that are gone", "a document"],
)
def test_messages_that_there_were_are_known_to_have_been(
    house: House, kept: Kept, recorded: bool
) -> None:
    house.history.load = lambda _: succeed(kept)
    assert now(house.hub.recorded("m")) is recorded


def test_a_topic_that_lingers_can_be_released_a_watched_one_not(house: House) -> None:
    topic = house.document("d", linger=60)
    house.hub.watch(topic)
    assert not house.hub.release("d")
    house.hub.unwatch(topic)
    assert house.hub.release("d")
    assert house.hub.topics == {}
    assert house.clock.getDelayedCalls() == []


def test_a_topic_comes_back_with_what_the_history_kept(house: House) -> None:
    house.say("m", 1)
    topic = house.messages("m")
    assert topic.log.floor == 0 and len(topic.log) == 1
    now(house.hub.publish(Draft("d", (Payload("snapshot", b"1"),), Document(b"1"))))
    document = house.document("d")
    assert (document.document, document.seq) == (Document(b"1"), 2)


def test_a_document_topic_begun_anew_does_not_vouch_for_its_past(house: House) -> None:
    house.say("m", 1)
    assert house.document("d").log.floor == 1


def test_what_is_recorded_while_a_topic_is_loaded_is_in_it(house: House) -> None:
    loading: Deferred[Any] = Deferred()
    load = house.history.load
    answers = [loading]
    house.history.load = lambda key: answers.pop() if answers else load(key)  # type: ignore[method-assign]
    opened: list[object] = []
    Deferred.fromCoroutine(house.hub.message_topic("m")).addCallback(opened.append)
    second: list[object] = []
    Deferred.fromCoroutine(house.hub.message_topic("m")).addCallback(second.append)
    house.say("m", 1)
    loading.callback(now(load("m")))
    assert opened == second == [house.hub.topics["m"]]
    assert [e.seq for e in house.messages("m").after(0)] == [1]  # type: ignore[union-attr]


def test_readers_hear_that_the_history_is_not_available_and_that_it_is_again(house: House) -> None:
    topic, messages = house.document("d"), house.messages("m")
    house.snapshot("d", 1)
    document, message = house.client(topic).connect(), house.client(messages).connect()
    house.hub.unavailable("the disk is full")
    assert house.messages("other").status.state == "error"
    house.turn()
    assert topic.status.reason == "The history is not available: the disk is full"
    house.hub.tell(topic, "stale", "No good answer.")
    house.turn()
    assert document.receive().page.statuses == message.receive().page.statuses == [("", "error")]
    house.hub.available()
    house.turn()
    assert document.receive().page.statuses == [("", "error"), ("", "stale")]
    assert message.receive().page.statuses == [("", "error"), ("", "ok")]


def test_readers_of_what_was_dropped_hear_that_the_history_is_not_available_too(
    house: House,
) -> None:
    topic = house.messages("m")
    reader = house.client(topic).connect()
    house.hub.drop(topic)
    house.hub.unavailable("the disk is full")
    house.turn()
    assert reader.receive().page.statuses == [("", "error")]


def test_while_the_history_is_not_available_the_log_says_it_once(
    house: House, capture: list[dict[str, Any]]
) -> None:
    came_back: list[str] = []
    house.hub.came_back = lambda: came_back.append(str(house.hub.trouble))
    house.hub.available()
    for reason in ("the disk is full", "the disk is full", "the disk is gone"):
        house.hub.unavailable(reason)
    assert came_back == []
    house.hub.available()
    house.hub.available()
    assert came_back == ["None"], "what could not be opened meanwhile is opened"
    assert [formatEvent(event) for event in capture] == [
        "the history is not available: the disk is full",
        "the history is available again",
    ]


def readers(house: House) -> tuple[Client, Client]:
    """One of a document and one of messages, with an event each."""
    topics = house.document("d", linger=60), house.messages("m")
    house.snapshot("d", 1)
    house.say("m", 1)
    document, message = (house.client(topic).connect().receive() for topic in topics)
    return document, message


def come_back(house: House, document: Client, message: Client) -> None:
    """As they do who were cut."""
    document.topics, message.topics = (house.document("d"),), (house.messages("m"),)
    for client in (document, message):
        client.receive().connect()


def test_if_the_history_is_lost_all_readers_come_back_to_begin_anew(
    house: House, capture: list[dict[str, Any]]
) -> None:
    document, message = readers(house)
    came_back: list[int] = []
    house.hub.came_back = lambda: came_back.append(house.hub.head)
    house.history = MemoryHistory(History(), house.now)
    house.hub._history = house.history
    now(house.history.open(house.hub))
    house.hub.restarted(0)
    assert came_back == [0]
    assert warned(capture) == ["the history was lost: all clients begin anew"]
    assert house.source.told == ["watched", "unwatched", "forgotten"]
    assert house.hub.topics == house.hub.dropped == {}
    house.snapshot("d", 2)
    come_back(house, document, message)
    assert document.receive().page.documents == {"": 2}
    assert len(message.receive().page.gaps) == 1


def test_if_some_of_the_history_is_not_told_all_readers_come_back_and_miss_nothing(
    house: House, capture: list[dict[str, Any]]
) -> None:
    document, message = readers(house)
    patch = Payload("patch", dumps([{"op": "replace", "path": "", "value": 2}]))
    house.hub.committed = lambda *_: None  # type: ignore[method-assign]
    whole = Document(dumps("a" * 100))
    house.history.append(Draft("d", (patch,), whole))
    house.history.append(Draft("m", (Payload(None, b"2"),)))
    del house.hub.committed
    house.hub.restarted(4)
    assert warned(capture) == ["the history was not heard for too long: all clients come back"]
    come_back(house, document, message)
    assert document.receive().page.documents == {"": 2}
    assert message.receive().page.gaps == []
    assert message.page.messages == {"": [2]}


def test_who_was_told_more_by_another_node_waits_until_it_is_known_here(house: House) -> None:
    seqs = (2, 1, 1, 2)
    waiting = [Deferred.fromCoroutine(house.hub.reach(seq)) for seq in seqs]
    house.say("nobody reads this", 1)
    assert [one.called for one in waiting] == [seq == 1 for seq in seqs]
    house.say("m", 2)
    assert all(one.called for one in waiting)
    assert Deferred.fromCoroutine(house.hub.reach(2)).called
    assert house.clock.getDelayedCalls() == []


def test_who_leaves_while_it_waits_for_that_is_in_nobody_s_way(house: House) -> None:
    leaving = Deferred.fromCoroutine(house.hub.reach(2)).addErrback(
        lambda failure: failure.trap(CancelledError)
    )
    leaving.cancel()
    for number in range(3):
        house.say("m", number)
    assert house.hub.head == 3
    assert house.hub._awaited == []
    assert house.clock.getDelayedCalls() == []


def test_who_was_told_what_nobody_knows_does_not_wait_for_ever(house: House) -> None:
    waiting = Deferred.fromCoroutine(house.hub.reach(9))
    house.clock.advance(REACH_SECONDS)
    assert now(waiting) is None
    house.say("m", 1)


def test_closing_stops_the_sources(house: House) -> None:
    house.hub.watch(house.document("d", linger=60))
    other = Silent()
    now(house.hub.document_topic("e", lambda _: other, 60.0))
    now(house.hub.close())
    assert house.source.told == ["watched", "unwatched"]
    assert other.told == []
    assert house.clock.getDelayedCalls() == []


def test_another_source_may_take_over_a_topic_with_all_that_it_has(house: House) -> None:
    topic = house.document("d", linger=60)
    house.snapshot("d", 1)
    other, before = Silent(), []
    house.hub.watch(topic)
    house.hub.refill(topic, lambda old: before.append(old) or other, 5)  # type: ignore[func-returns-value]
    assert before == [house.source]
    assert house.source.told == ["watched", "unwatched"]
    assert other.told == ["watched"]
    assert topic.document == Document(b"1")
    house.hub.unwatch(topic)
    assert house.source.told == ["watched", "unwatched"]
    house.clock.advance(5)
    assert other.told == ["watched", "unwatched", "forgotten"]


def test_a_source_that_takes_over_begins_when_the_one_before_has_stopped(house: House) -> None:
    topic, other = house.document("d"), Silent()
    other.told = house.source.told
    house.hub.watch(topic)
    house.hub.refill(topic, lambda _: other, None)
    assert other.told == ["watched", "unwatched", "watched"], "never two polls at a time"


def test_a_source_that_takes_over_an_unwatched_topic_is_told_nothing(house: House) -> None:
    topic = house.document("d", linger=60)
    other = Silent()
    house.hub.refill(topic, lambda _: other, 5)
    assert house.source.told == other.told == []
    house.clock.advance(5)
    assert other.told == ["forgotten"]
    assert house.clock.getDelayedCalls() == []


def test_a_topic_that_is_dropped_leaves_its_key_to_another(house: House) -> None:
    old = house.document("d", linger=60)
    house.snapshot("d", 1)
    house.hub.watch(old)
    house.hub.watch(old)
    house.hub.drop(old)
    assert house.source.told == ["watched", "unwatched", "forgotten"]
    assert old.document is None
    new = house.document("d")
    assert new is not old and new.document is None
    house.hub.watch(new)
    told = len(house.source.told)
    house.hub.unwatch(old)
    house.hub.unwatch(old)
    house.hub.drop(old)
    assert house.hub.topics == {"d": new}
    assert house.hub.watched(new) and not house.hub.watched(old)
    assert len(house.source.told) == told
    assert house.clock.getDelayedCalls() == []


def test_who_listens_to_a_dropped_topic_is_cut_when_its_key_is_opened_anew(house: House) -> None:
    old, notes = house.document("d"), Notes()
    house.hub.listen(old, notes)
    house.hub.drop(old)
    assert house.hub.dropped == {"d": old}
    new = house.messages("d")
    assert notes.told == ["cut"]
    house.say("d", 1)
    house.turn()
    assert notes.told == ["cut"]
    assert new is house.hub.topics["d"]
    house.hub.unlisten(old, notes)
    assert house.hub.dropped == {}


def test_who_comes_to_what_has_ended_is_cut_too(house: House) -> None:
    ended, notes = house.document("d"), Notes()
    house.hub.end(ended)
    house.hub.drop(ended)
    house.hub.listen(ended, notes)
    house.hub.watch(ended)
    assert house.source.told == ["forgotten"]
    house.document("d")
    assert notes.told == ["cut"]
    house.hub.unwatch(ended)
    house.hub.unlisten(ended, notes)
    assert house.hub.dropped == {}


@pytest.mark.parametrize("kinds", [("document", "messages"), ("messages", "document")])
def test_a_key_may_become_another_kind_of_topic(house: House, kinds: tuple[str, str]) -> None:
    first, second = (getattr(house, kind) for kind in kinds)
    old, notes = first("k"), Notes()
    house.hub.listen(old, notes)
    new = second("k")
    assert new is house.hub.topics["k"] is not old
    assert notes.told[0] == "cut"


@pytest.fixture
def loading(house: House) -> list[tuple[str, Deferred[Kept]]]:
    """What is asked of the history, which does not answer."""
    asked: list[tuple[str, Deferred[Kept]]] = []

    def load(key: str) -> Deferred[Kept]:
        asked.append((key, Deferred()))
        return asked[-1][1]

    house.history.load = load  # type: ignore[method-assign]
    return asked


def opening(house: House, key: str) -> tuple[Deferred[Any], list[Any]]:
    results: list[Any] = []
    one = Deferred.fromCoroutine(house.hub.message_topic(key))
    one.addBoth(results.append)
    return one, results


def test_however_many_come_while_a_topic_is_loaded_it_is_loaded_once(
    house: House, loading: list[tuple[str, Deferred[Kept]]]
) -> None:
    # As after a start. Were they woken one by another, Python would soon have enough of it.
    waiting = [opening(house, key) for _ in range(1000) for key in ("m", "n")]
    gone, _ = waiting[0]
    gone.cancel()
    assert [key for key, _ in loading] == ["m", "n"], "none waits for another's"
    for _, answer in loading:
        answer.callback(Kept([], 0, None))
    assert not waiting[-1][1], "others have their turn in between"
    for _ in range(1000 // WOKEN_AT_ONCE):
        house.turn()
    (_, (left,)), *others = waiting
    assert left.check(CancelledError)
    assert {result for _, (result,) in others} == {house.hub.topics["m"], house.hub.topics["n"]}


def test_a_topic_that_cannot_be_loaded_is_tried_again_by_who_comes_next(
    house: House, loading: list[tuple[str, Deferred[Kept]]]
) -> None:
    waiting = [opening(house, "m") for _ in range(3)]
    loading[0][1].errback(HistoryError("no"))
    assert all(result.check(HistoryError) for _, (result,) in waiting)
    _, results = opening(house, "m")
    loading[1][1].callback(Kept([], 0, None))
    assert results == [house.hub.topics["m"]]


def test_what_is_recorded_for_the_other_kind_of_topic_is_not_told(house: House, slow: Slow) -> None:
    message = house.hub.publish(Draft("k", (Payload(None, b"1"),)))
    topic, notes = house.document("k"), Notes()
    house.hub.listen(topic, notes)
    slow.record()
    house.turn()
    assert message.called and notes.told == [] and topic.document is None
    assert house.hub.head == 1


def test_closing_leaves_no_timer(house: House) -> None:
    client = house.client(house.document("d", linger=60)).connect()
    now(house.hub.close())
    client.drop()
    assert house.clock.getDelayedCalls() == []


def test_what_nobody_reads_does_not_count_as_slow(house: House) -> None:
    told: list[float] = []
    house.hub._metrics.reached = told.append  # type: ignore[method-assign]
    silent, heard = house.document("a"), house.document("b")
    house.snapshot(silent.key, 1)
    house.clock.advance(50)
    house.client(heard).connect()
    house.snapshot(heard.key, 1)
    house.turn()
    house.clock.advance(1)
    assert told and max(told) < 5


def test_how_long_it_takes_counts_from_when_it_was_learned(house: House) -> None:
    told: list[float] = []
    house.hub._metrics.reached = told.append  # type: ignore[method-assign]
    house.client(house.messages("m")).connect()
    house.clock.advance(50)
    for began in (None, 47.0):
        now(house.hub.publish(Draft("m", (Payload(None, b"1"),), began=began)))
        house.clock.pump([0, 0])
    assert told == [0.0, 3.0]

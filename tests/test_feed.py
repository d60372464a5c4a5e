"""Feeds: encoded once, no queue per client, heartbeats when it is quiet."""

from __future__ import annotations

import gc
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from house import Client, House
from twisted.internet.defer import Deferred
from twisted.logger import formatEvent, globalLogBeginner, globalLogPublisher
from twisted.python.failure import Failure

from pushd import feed
from pushd.config import History
from pushd.cursor import Page
from pushd.errors import HistoryError
from pushd.throttle import MOST, SECONDS


@pytest.fixture
def house() -> House:
    return House()


def test_live_members_get_the_very_same_bytes(house: House) -> None:
    topic = house.document("d")
    written: list[bytes] = []
    for _ in range(3):
        client = house.client(topic)
        client.write = written.append  # type: ignore[method-assign]
        client.connect()
    written.clear()
    house.snapshot("d", {"a": 1})
    house.turn()
    assert len(written) == 3
    assert all(data is written[0] for data in written)


def test_one_turn_is_one_write(house: House) -> None:
    client = house.client(house.messages("m")).connect()
    writes: list[bytes] = []
    client.write = writes.append  # type: ignore[method-assign]
    for n in range(10):
        house.say("m", n)
    house.turn()
    assert len(writes) == 1
    assert writes[0].count(b"data:") == 10


def test_the_past_and_the_present_meet_without_a_seam(house: House) -> None:
    topic = house.messages("m")
    first = house.client(topic).connect()
    house.say("m", 1)
    # Not told yet: whoever joins now gets it with the past, and not once more.
    second = house.client(topic).connect(f"{house.hub.epoch}-0")
    house.say("m", 2)
    house.turn()
    for client in (first, second):
        assert client.receive().page.messages == {"": [1, 2]}


def test_the_many_who_return_to_one_place_share_their_bytes(house: House) -> None:
    topic = house.document("d")
    house.snapshot("d", {"a": 1})
    written: list[bytes] = []
    for _ in range(3):
        client = house.client(topic)
        client.write = written.append  # type: ignore[method-assign]
        client.connect()
    assert len(written) == 3
    assert all(data is written[0] for data in written)


def test_a_client_that_has_enough_is_passed_over_and_then_pulls(house: House) -> None:
    topic = house.messages("m")
    slow, quick = house.client(topic), house.client(topic)
    slow.room = 10
    for client in (slow, quick):
        client.connect()
    slow.receive()
    for n in range(50):
        house.say("m", n)
        house.turn()
    assert len(slow.buffer) < 100
    assert quick.receive().page.messages[""] == list(range(50))
    for _ in range(60):
        slow.receive()
    assert slow.page.messages[""] == list(range(50))
    slow.room = None
    house.say("m", 50)
    house.turn()
    assert slow.receive().page.messages[""][-1] == 50


def test_a_client_that_fell_behind_gets_the_document_and_not_a_flood(house: House) -> None:
    client = house.client(house.document("d"))
    client.room = 10
    client.connect().receive()
    for n in range(100):
        house.snapshot("d", {"n": n})
        house.turn()
    client.receive()
    assert client.buffer.count(b"event: snapshot") == 1
    assert client.receive().page.documents[""] == {"n": 99}


def test_a_client_that_fell_behind_hears_the_status_it_missed(house: House) -> None:
    topic = house.document("d")
    client = house.client(topic)
    client.room = 1
    client.connect().receive()
    house.hub.tell(topic, "error", "Why.")
    house.turn()
    house.hub.tell(topic, "ok", None)
    house.turn()
    client.receive()
    client.receive()
    assert [state for _, state in client.page.statuses] == ["error", "ok"]


def test_a_message_topic_is_read_from_its_history_when_the_log_is_too_short(house: House) -> None:
    topic = house.messages("m")
    topic.LOG_EVENTS = 2  # type: ignore[attr-defined]
    for n in range(5):
        house.say("m", n)
    client = house.client(topic).connect(f"{house.hub.epoch}-1").receive()
    assert client.page.messages[""] == [1, 2, 3, 4]


class Waiting:
    """A history that answers when it is told to."""

    def __init__(self, house: House) -> None:
        self.asked: list[Deferred[Page]] = []
        self._read = house.history.read
        house.history.read = self.read  # type: ignore[method-assign]

    def read(self, topics: object, after: int, size: int) -> Deferred[Page]:
        waiting: Deferred[Page] = Deferred()
        page: list[Page] = []
        self._read(topics, after, size).addCallback(page.append)  # type: ignore[arg-type]
        self.page = page[0]
        self.asked.append(waiting)
        return waiting


@pytest.fixture
def late(house: House) -> Client:
    """A client whose past only the history knows."""
    topic = house.messages("m")
    topic.LOG_EVENTS = 1  # type: ignore[attr-defined]
    for n in range(1, 4):
        house.say("m", n)
    return house.client(topic)


def test_what_is_said_while_the_history_is_asked_comes_after_it(house: House, late: Client) -> None:
    history = Waiting(house)
    late.connect(f"{house.hub.epoch}-0")
    house.say("m", 4)
    house.turn()
    assert late.buffer == b""
    for _ in range(2):
        history.asked.pop().callback(history.page)
        if not history.asked:
            break
    assert late.receive().page.messages[""] == [1, 2, 3, 4]


def test_the_history_is_asked_once_however_often_a_transport_resumes(
    house: House, late: Client
) -> None:
    history = Waiting(house)
    late.connect(f"{house.hub.epoch}-0")
    assert late.subscription is not None
    late.subscription.pause()
    late.subscription.resume()
    assert len(history.asked) == 1


def test_an_answer_for_somebody_who_has_left_is_dropped(house: House, late: Client) -> None:
    history = Waiting(house)
    late.connect(f"{house.hub.epoch}-0").drop()
    history.asked.pop().callback(history.page)
    assert late.buffer == b""


def test_when_the_history_cannot_be_read_the_client_is_sent_away_with_its_id(
    house: House, late: Client
) -> None:
    history = Waiting(house)
    late.connect(f"{house.hub.epoch}-0")
    history.asked.pop().errback(Failure(HistoryError("The disk is gone.")))
    assert late.finished and late.buffer == b""


def test_of_many_who_are_sent_away_the_log_has_a_few_and_their_number(
    house: House, late: Client, capture: list[dict[str, Any]]
) -> None:
    history = Waiting(house)
    for _ in range(MOST + 7):
        late.drop().connect(f"{house.hub.epoch}-0")
        history.asked.pop().errback(Failure(HistoryError("The disk is gone.")))
    assert sum("log_failure" in event for event in capture) == MOST
    house.clock.advance(SECONDS)
    said = "7 more within 10 s: history cannot be read; a client is sent away"
    assert said in [formatEvent(event) for event in capture]


def test_a_quiet_feed_beats_and_a_busy_one_does_not(house: House) -> None:
    client = house.client(house.messages("m")).connect().receive()
    house.clock.advance(10)
    house.say("m", 1)
    house.turn()
    client.receive()
    house.clock.advance(14)
    assert client.buffer == b""
    house.clock.advance(1)
    assert client.buffer == b":\n"
    house.clock.advance(15)
    assert client.buffer == b":\n:\n"


def test_a_client_that_is_behind_is_not_sent_heartbeats(house: House) -> None:
    client = house.client(house.messages("m"))
    client.room = 1
    client.connect()
    before = client.buffer
    for _ in range(100):
        house.clock.advance(15)
    assert client.buffer == before


def test_an_ended_topic_ends_its_streams_after_what_was_said(house: House) -> None:
    topic = house.document("d")
    live, behind = house.client(topic).connect(), house.client(topic)
    behind.room = 1
    behind.connect()
    house.snapshot("d", 1)
    house.hub.end(topic)
    assert live.finished
    assert live.receive().page.documents == {"": 1}
    assert not behind.finished
    behind.receive()
    behind.receive()
    assert behind.finished
    assert behind.page.documents == {"": 1}


def test_a_stream_of_several_topics_ends_with_the_last(house: House) -> None:
    one, other = house.document("c"), house.document("d")
    client = house.client(one, other).connect()
    house.hub.end(one)
    assert not client.finished
    house.hub.end(other)
    assert client.finished


def test_closing_ends_all_streams(house: House) -> None:
    clients = [house.client(house.messages(key)).connect() for key in ("m", "n", "n")]
    clients[1].room = 1
    house.say("n", 1)
    house.feeds.close()
    assert all(client.finished for client in clients)
    assert house.source.told == []


def test_ten_thousand_clients_leave_nothing_behind(house: House) -> None:
    # Until logging begins, Twisted keeps what is logged.
    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)
    topic = house.document("d")
    house.snapshot("d", {"a": 1})

    def come_and_go(number: int) -> None:
        clients = [house.client(topic).connect() for _ in range(number)]
        house.say("other", 1)
        house.turn()
        for client in clients:
            client.drop()

    come_and_go(10)
    gc.collect()
    before = Counter(type(thing).__name__ for thing in gc.get_objects())
    come_and_go(10_000)
    gc.collect()
    after = Counter(type(thing).__name__ for thing in gc.get_objects())
    assert {name: n for name, n in (after - before).items() if n > 100} == {}
    assert after["Subscription"] <= before["Subscription"]
    assert not house.hub.watched(topic)
    assert house.clock.getDelayedCalls() == []


def test_messages_lost_while_a_client_stood_still_are_told_as_a_gap(house: House) -> None:
    house.history._keep = History(keep_events=2)
    topic = house.messages("m")
    topic.LOG_EVENTS = 2  # type: ignore[attr-defined]
    client = house.client(topic)
    client.room = 1
    client.connect()
    for n in range(1, 9):
        house.say("m", n)
        house.turn()
    for _ in range(10):
        client.receive()
    assert client.page.messages[""] == [7, 8]
    assert [gap for _, gap in client.page.gaps] == [
        {"after": f"{house.hub.epoch}-0", "resumed": f"{house.hub.epoch}-6"}
    ]


def drained(house: House, seconds: float) -> list[Any]:
    done: list[Any] = []
    work = Deferred.fromCoroutine(house.feeds.drain(seconds, lambda: 4.5))
    work.addBoth(done.append)
    return done


def test_clients_are_sent_away_a_few_at_a_time(house: House) -> None:
    topic = house.messages("m")
    clients = [house.client(topic).connect() for _ in range(2000)]
    done = drained(house, 10)
    left = []
    while not done:
        house.clock.advance(0.1)
        left.append(sum(client.finished for client in clients))
    assert len(left) == pytest.approx(20, abs=1), "a thousand a second"
    assert all(98 <= after - before <= 102 for before, after in pairwise(left[:19]))
    assert all(client.finished for client in clients)
    assert all(client.buffer.endswith(b"\n\nretry: 4500\n") for client in clients)
    assert house.clock.getDelayedCalls() == [house.hub._lingering["m"]]


def test_sending_away_takes_the_time_it_may_and_no_more(house: House) -> None:
    topic = house.messages("m")
    clients = [house.client(topic).connect() for _ in range(2000)]
    done = drained(house, 1)
    house.clock.pump([0.1] * 11)
    assert done and all(client.finished for client in clients)


def test_what_was_said_last_reaches_those_who_are_sent_away(house: House) -> None:
    topic = house.messages("m")
    client = house.client(topic).connect()
    house.say("m", "last words")
    drained(house, 1)
    client.receive()
    assert client.page.messages[""] == ["last words"]


def test_who_stands_in_the_middle_of_something_is_cut_off_without_a_word(house: House) -> None:
    topic = house.document("d")
    house.snapshot("d", "x" * 1_000_000)
    client = house.client(topic)
    client.room = 1000
    client.connect()
    before = client.buffer
    drained(house, 1)
    assert client.finished and client.buffer == before


def test_a_stream_that_ends_is_logged_with_what_it_was(house: House) -> None:
    topic = house.messages("m")
    client = house.client(topic).connect()
    client.client = "page 7"
    logged: list[Any] = []
    globalLogPublisher.addObserver(logged.append)
    try:
        for n in range(3):
            house.say("m", n)
            house.turn()
        house.clock.advance(2)
        size = len(client.buffer)
        client.drop()
    finally:
        globalLogPublisher.removeObserver(logged.append)
    (event,) = [event for event in logged if "why" in event]
    told = ("transport", "topics", "client", "peer", "duration", "events", "size", "why")
    assert [event[name] for name in told] == [
        "sse", ["m"], "page 7", "192.0.2.1", 2.0, 3, size, "client left"
    ]  # fmt: skip


def test_events_are_counted_for_who_is_live_for_who_catches_up_and_for_who_does_both(
    house: House,
) -> None:
    topic = house.messages("m")
    clients = [house.client(topic) for _ in range(3)]
    for client, room in zip(clients, (None, 1, 200), strict=True):
        client.room = room
        client.connect()
    sizes = dict.fromkeys(clients, 0)
    for n in range(20):
        house.say("m", "x" * 30)
        house.turn()
        if n % 3 == 0:
            for client in clients[1:]:
                sizes[client] += len(client.buffer)
                client.receive()
    for client in clients:
        while client.buffer:
            sizes[client] += len(client.buffer)
            client.receive()
        subscription = client.subscription
        assert subscription is not None
        client.drop()
        assert (subscription._events, subscription._size) == (20, sizes[client])


def test_all_readers_of_a_feed_are_cut_whether_live_or_behind(house: House) -> None:
    topic, other = house.messages("m"), house.messages("n")
    live = house.client(topic, other).connect()
    slow = house.client(topic, other)
    slow.room = 1
    slow.connect()
    bystander = house.client(other).connect()
    house.say("m", "last words")
    house.hub.cut(topic)
    assert live.finished and slow.finished and not bystander.finished
    assert live.receive().page.messages == {"m": ["last words"]}
    assert len(house.feeds) == 1 and not house.hub.watched(topic)


# More clients than are written to in a turn.


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "AT_ONCE", 3)
    monkeypatch.setattr(feed, "PULLS_AT_ONCE", 2)


def one_turn(house: House) -> None:
    """Unlike a Clock's, a reactor's turn does not make the calls that are asked for in it."""
    for call in house.clock.getDelayedCalls():
        if call.active() and call.getTime() <= house.clock.seconds():
            wanted, arguments = call.func, call.args
            call.cancel()
            wanted(*arguments)


@pytest.mark.usefixtures("parts")
def test_a_broadcast_lets_others_have_their_turn(house: House) -> None:
    topic = house.messages("m")
    clients = [house.client(topic).connect() for _ in range(10)]
    house.say("m", 1)
    got = []
    for _ in range(4):
        one_turn(house)
        got.append(sum(b"data: 1\n" in client.buffer for client in clients))
    assert got == [3, 6, 9, 10]


@pytest.mark.usefixtures("parts")
def test_who_comes_and_goes_during_a_broadcast_misses_nothing_and_gets_nothing_twice(
    house: House,
) -> None:
    topic = house.messages("m")
    clients = [house.client(topic).connect() for _ in range(10)]
    house.say("m", 1)
    one_turn(house)
    # In between, with nothing but the broadcast: 1 is in the past.
    early = house.client(topic).connect()
    back = house.client(topic).connect(f"{house.hub.epoch}-0")
    clients[8].drop().connect(f"{house.hub.epoch}-0")
    house.say("m", 2)
    # In between, with more behind the broadcast: to be placed when that is over.
    late = house.client(topic).connect()
    back_late = house.client(topic).connect(f"{house.hub.epoch}-0")
    one_turn(house)
    house.say("m", 3)
    for _ in range(20):
        one_turn(house)
    for client in [*clients, early, late, back, back_late]:
        client.receive()
    said = [client.page.messages[""] for client in (*clients, back, back_late)]
    assert said == [[1, 2, 3]] * 12
    assert (early.page.messages[""], late.page.messages[""]) == ([2, 3], [2, 3])


@pytest.mark.usefixtures("parts")
def test_who_comes_while_one_broadcast_follows_another_does_not_wait_for_the_last(
    house: House,
) -> None:
    topic = house.messages("m")
    clients = [house.client(topic).connect() for _ in range(10)]
    house.say("m", 0)
    one_turn(house)
    house.say("m", 1)
    late = [house.client(topic).connect(f"{house.hub.epoch}-0") for _ in range(5)]
    for number in range(2, 60):
        house.say("m", number)
        one_turn(house)
    for client in late:
        assert client.receive().page.messages[""][:50] == list(range(50))
    for _ in range(20):
        one_turn(house)
    said = [client.receive().page.messages[""] for client in (*clients, *late)]
    assert said == [list(range(60))] * 15


@pytest.mark.usefixtures("parts")
def test_nor_does_who_has_to_be_given_what_only_the_history_knows(
    house: House, late: Client
) -> None:
    clients = [house.client(*late.topics).connect() for _ in range(10)]
    history = Waiting(house)
    for number in range(4, 60):
        house.say("m", number)
        if number == 5:
            late.connect(f"{house.hub.epoch}-0")
        if history.asked:
            history.asked.pop().callback(history.page)
        one_turn(house)
    assert late.receive().page.messages[""][:50] == list(range(1, 51))
    for _ in range(20):
        one_turn(house)
        if history.asked:
            history.asked.pop().callback(history.page)
    assert late.receive().page.messages[""] == list(range(1, 60))
    assert [client.receive().page.messages[""] for client in clients] == [list(range(4, 60))] * 10


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("over", [False, True], ids=["in it", "behind it"])
def test_who_has_enough_before_a_broadcast_came_to_it_misses_nothing(
    house: House, over: bool
) -> None:
    """HTTP/2 says so when the client's window is full, which is in some later turn."""
    topic = house.messages("m")
    clients = [house.client(topic).connect() for _ in range(10)]
    subscription = clients[8].subscription
    assert subscription is not None
    house.say("m", 1)
    one_turn(house)
    subscription.pause()
    house.say("m", 2)
    for _ in range(20 if over else 1):
        one_turn(house)
    subscription.resume()
    for _ in range(20):
        one_turn(house)
    assert [client.receive().page.messages[""] for client in clients] == [[1, 2]] * 10


@pytest.mark.usefixtures("parts")
def test_who_is_sent_away_during_a_broadcast_has_got_it(house: House) -> None:
    topic = house.messages("m")
    clients = [house.client(topic).connect() for _ in range(10)]
    house.say("m", 1)
    one_turn(house)
    house.say("m", 2)
    house.feeds.close()
    for client in clients:
        assert client.receive().page.messages[""] == [1, 2]
        assert client.finished
    one_turn(house)
    one_turn(house)
    assert house.clock.getDelayedCalls() == [house.hub._lingering["m"]]


@pytest.mark.usefixtures("parts")
def test_a_document_that_ends_during_a_broadcast_reaches_all(house: House) -> None:
    topic = house.document("d")
    house.snapshot("d", {"a": 1})
    one_turn(house)
    clients = [house.client(topic).connect() for _ in range(10)]
    house.snapshot("d", {"a": 2})
    one_turn(house)
    house.hub.end(topic)
    for client in clients:
        assert client.receive().page.documents[""] == {"a": 2}
        assert client.finished


@pytest.mark.usefixtures("parts")
def test_a_burst_reaches_a_few_at_a_time(house: House) -> None:
    topic = house.document("d")
    house.snapshot("d", {"a": 1})
    clients = [house.client(topic).connect() for _ in range(7)]
    house.snapshot("d", "x" * 1_000_000)
    got = []
    for _ in range(5):
        one_turn(house)
        got.append(sum(len(client.buffer) > 1_000_000 for client in clients))
    assert got == [0, 2, 4, 6, 7]


@pytest.mark.usefixtures("parts")
def test_all_leaving_during_a_broadcast_leaves_nothing_behind(house: House) -> None:
    topic = house.messages("m")
    clients = [house.client(topic).connect() for _ in range(10)]
    house.say("m", 1)
    one_turn(house)
    for client in clients:
        client.drop()
    assert house.clock.getDelayedCalls() == [house.hub._lingering["m"]]

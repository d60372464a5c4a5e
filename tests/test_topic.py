"""A log holds the newest events; reading it after a position has three answers."""

from __future__ import annotations

from pushd.event import Document, Event, Payload
from pushd.topic import OLDER, RESET, DocumentTopic, Log, MessageTopic


def event(seq: int, data: bytes = b"x", at: float = 0.0) -> Event:
    return Event(seq, "t", Payload(None, data), at)


def test_a_log_gives_what_came_after_a_position() -> None:
    log = Log(floor=2)
    events = [event(3), event(7), event(9)]
    for one in events:
        log.append(one)
    assert log.after(1) is None
    assert log.after(2) == events
    assert log.after(3) == log.after(6) == events[1:]
    assert log.after(9) == log.after(100) == []


def test_a_log_is_trimmed_by_number_size_and_age() -> None:
    for bounds in ({"events": 1}, {"size": 3}, {"before": 2.5}):
        log = Log(floor=0)
        for one in (event(1, b"aa", 1.0), event(2, b"aa", 2.0), event(3, b"aa", 3.0)):
            log.append(one)
        log.trim(**bounds)  # type: ignore[arg-type]
        assert (len(log), log.size, log.floor) == (1, 2, 2)


def test_a_document_topic_without_a_document_has_nothing_yet() -> None:
    assert DocumentTopic("t", floor=5).after(0) == []


def test_changes_that_weigh_no_more_than_the_document_are_given() -> None:
    topic = DocumentTopic("t", floor=0)
    topic.record([event(1, b"123456")], Document(b"123456"))
    topic.record([event(2, b"abc"), event(3, b"def")], Document(b"123456"))
    assert [e.seq for e in topic.after(1)] == [2, 3]
    assert topic.seq == 3


def test_changes_that_outweigh_the_document_are_a_reset() -> None:
    topic = DocumentTopic("t", floor=0)
    topic.record([event(1, b"123456")], Document(b"123456"))
    topic.record([event(2, b"abcd"), event(3, b"efg")], Document(b"123456"))
    assert topic.after(1) is RESET
    assert [e.seq for e in topic.after(2)] == [3]


def test_a_document_that_shrinks_takes_its_log_with_it() -> None:
    topic = DocumentTopic("t", floor=0)
    topic.record([event(1, b"123456")], Document(b"123456"))
    topic.record([event(2, b"ab")], Document(b"1"))
    assert topic.after(1) is RESET
    assert topic.log.size == 0


def test_a_restored_document_topic_goes_on_where_it_was() -> None:
    topic = DocumentTopic("t", floor=4)
    topic.restore([event(6, b"ab")], Document(b"123456"))
    assert (topic.seq, [e.seq for e in topic.after(4)]) == (6, [6])
    empty = DocumentTopic("t", floor=4)
    empty.restore([], Document(b"1"))
    assert (empty.seq, empty.after(4), empty.after(3)) == (4, [], RESET)


def test_a_message_topic_sends_to_the_history_for_what_is_older() -> None:
    topic = MessageTopic("t", floor=0)
    topic.LOG_EVENTS = 2
    topic.record([event(n) for n in (1, 2, 3)])
    assert topic.after(0) is OLDER
    assert [e.seq for e in topic.after(1)] == [2, 3]

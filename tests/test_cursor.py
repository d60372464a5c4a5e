"""What a reader gets next, told by tables; test_resumption.py tells what that is good for."""

from __future__ import annotations

import msgspec
import pytest

from pushd import cursor
from pushd.cursor import Cursor, Older, Page, Step, advance, arrive, documents
from pushd.event import Document, Event, Payload, mark
from pushd.topic import DocumentTopic, MessageTopic, Status, Topic

EPOCH = "e"


def document(key: str, *seqs: int) -> DocumentTopic:
    topic = DocumentTopic(key, floor=0)
    for seq in seqs:
        topic.record([change(key, seq)], Document(b"a document of some weight"))
    return topic


def change(key: str, seq: int) -> Event:
    return Event(seq, key, Payload("patch", b"%d" % seq), 0.0)


def messages(key: str, *seqs: int, floor: int = 0) -> MessageTopic:
    topic = MessageTopic(key, floor)
    topic.record([said(key, seq) for seq in seqs])
    return topic


def said(key: str, seq: int) -> Event:
    return Event(seq, key, Payload(None, b"%d" % seq), 0.0)


def told(topics: list[Topic], given: str | None, head: int) -> list[tuple[str, str, str | None]]:
    """Name, data and id of each frame that a reader gets who comes with `given`."""
    if given is not None and given.startswith("e-"):
        given += mark(documents(topics))
    step = advance(topics, arrive(topics, given, EPOCH, head, head), EPOCH, head)
    assert isinstance(step, Step) and step.complete
    return [
        (f.payload.name or "message", f.payload.data.decode(), f.id)
        if f.payload
        else ("", "", f.id)
        for f in step.frames
    ]


WHOLE = "a document of some weight"


@pytest.mark.parametrize(
    ("topics", "given", "expected"),
    [
        # Somebody new: documents whole, no messages, and an id in any case.
        ([document("d", 1, 2)], None, [("snapshot", WHOLE, "e-9")]),
        ([document("d")], None, [("", "", "e-9")]),
        ([messages("m", 1, 2)], None, [("", "", "e-9")]),
        (
            [document("c", 1), document("d", 2), messages("m", 3)],
            None,
            [("snapshot", WHOLE, None), ("snapshot", WHOLE, "e-9")],
        ),
        # Somebody who missed something, or nothing.
        ([document("d", 1, 2, 3)], "e-1", [("patch", "2", "e-2"), ("patch", "3", "e-3")]),
        ([document("d", 1, 2)], "e-2", [("", "", "e-9")]),
        ([messages("m", 1, 2)], "e-1", [("message", "2", "e-2")]),
        (
            [document("d", 1, 4), messages("m", 3, 5)],
            "e-2",
            [("message", "3", "e-3"), ("patch", "4", "e-4"), ("message", "5", "e-5")],
        ),
        # Somebody whose document cannot be mended: messages under marked ids, then the document.
        (
            [document("d", *range(1, 9)), messages("m", 3, 9)],
            "e-2w",
            [("message", "3", "e-3w"), ("message", "9", "e-9w"), ("snapshot", WHOLE, "e-9")],
        ),
        # Somebody from another life, from the future, or from nowhere.
        ([document("d", 1)], "f-1", [("snapshot", WHOLE, "e-9")]),
        ([document("d", 1)], "e-10", [("snapshot", WHOLE, "e-9")]),
        ([document("d", 1)], "?", [("snapshot", WHOLE, "e-9")]),
        (
            [messages("m", 5)],
            "f-1",
            [("gap", '{"after":"f-1","resumed":"e-0"}', None), ("message", "5", "e-5")],
        ),
        ([messages("m")], "?", [("gap", '{"after":"?","resumed":"e-0"}', "e-9")]),
    ],
)
def test_a_reader_gets(topics: list[Topic], given: str | None, expected: list[object]) -> None:
    assert told(topics, given, head=9) == expected


def test_for_older_messages_the_history_is_asked() -> None:
    topics = [messages("m", 8, floor=7)]
    asked = advance(topics, Cursor(3), EPOCH, 9)
    assert asked == Older(("m",), 3)


def test_what_the_history_gives_comes_in_order_with_the_gap_in_its_place() -> None:
    topics: list[Topic] = [messages("m", 8, floor=7), document("d", 1, 6)]
    page = Page([said("m", 5), said("m", 7)], upto=7, floors={"m": 4})
    step = advance(topics, Cursor(3), EPOCH, 9, page)
    assert isinstance(step, Step)
    assert [frame.id for frame in step.frames] == [None, "e-5", "e-6", "e-7"]
    assert (step.cursor, step.complete) == (Cursor(7), False)


def test_a_gap_further_on_is_not_told_before_its_time() -> None:
    topics: list[Topic] = [messages("m", 9, floor=8), messages("n", 9, floor=8)]
    page = Page([said("m", 4)], upto=4, floors={"m": 3, "n": 8})
    step = advance(topics, Cursor(3), EPOCH, 9, page)
    assert isinstance(step, Step)
    assert [frame.topic for frame in step.frames] == ["m"]
    page = Page([], upto=9, floors={"m": 3, "n": 8})
    step = advance(topics, step.cursor, EPOCH, 9, page)
    assert isinstance(step, Step)
    assert [(frame.topic, frame.payload and frame.payload.name) for frame in step.frames] == [
        ("n", "gap")
    ]


def test_a_long_past_is_given_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cursor, "STEP_BYTES", 2)
    topics = [messages("m", 1, 2, 3, 4, 5)]
    ids: list[list[str | None]] = []
    place, complete = Cursor(0), False
    while not complete:
        step = advance(topics, place, EPOCH, 5)
        assert isinstance(step, Step)
        ids.append([frame.id for frame in step.frames])
        place, complete = step.cursor, step.complete
    assert ids == [["e-1", "e-2"], ["e-3", "e-4"], ["e-5"]]


def test_a_newcomer_hears_what_is_not_well() -> None:
    well, ill = document("d", 1), document("i", 2)
    ill.status = Status("error", 0.0, "Why.", number=4)
    step = advance([well, ill], Cursor(9), EPOCH, 9)
    assert isinstance(step, Step)
    assert [frame.topic for frame in step.frames[1:]] == ["i"]
    assert step.frames[1].id is None
    assert step.cursor.heard == 4


def test_who_fell_behind_hears_what_changed_meanwhile() -> None:
    topic = document("d", 1)
    topic.status = Status("ok", 0.0, number=5)
    for heard, frames in ((4, 1), (5, 0)):
        step = advance([topic], Cursor(9, heard=heard), EPOCH, 9)
        assert isinstance(step, Step)
        assert len(step.frames) == frames


def test_a_cursor_is_small_whatever_was_missed() -> None:
    assert len(msgspec.json.encode(Cursor(10**9, heard=10**6))) < 100


def test_an_id_speaks_only_for_the_documents_that_its_stream_carried() -> None:
    one, other, messages_too = document("d", 1, 3), document("c", 2), messages("m", 4)
    given = "e-1" + mark(["d"])
    for topics in ([other], [one, other], [one, other, messages_too]):
        cursor = arrive(topics, given, EPOCH, 9, 9)
        assert cursor == Cursor(1, documents(topics))
    assert arrive([one, messages_too], given, EPOCH, 9, 9) == Cursor(1)
    assert arrive([one], "e-1", EPOCH, 9, 9) == Cursor(1, frozenset("d"))

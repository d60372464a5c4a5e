"""
Where one reader stands, and what it gets next.

This is the whole of resumption, as a function from values to values: nothing
here waits, writes or knows a client. The one question it cannot answer from
the logs, the older messages, it hands back to be asked of the history.

How ids are given while documents are owed: the id of a frame promises that
the client has everything up to it. A reader that is owed a document gets
first the events it missed, under ids marked ``whole`` ("has the messages, not
the documents"), and last the documents, with the plain id on the very last
frame. So a drop between any two frames loses nothing and doubles nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from pushd import wire
from pushd.event import Event, Payload, Position, mark
from pushd.topic import OLDER, RESET, DocumentTopic, MessageTopic, Topic, public_name
from pushd.wire import Frame

STEP_BYTES = 65_536
"""How much a reader that is behind is given at once: what a transport buffers anyway."""


class Cursor(msgspec.Struct, frozen=True):
    """
    A reader's place.

    :ivar seq: everything up to here has been given, but for what is owed.
    :ivar owed: keys of the document topics to be sent whole.
    :ivar lost: the id with which the client came, if it means nothing here:
        each message topic answers it with a gap.
    :ivar heard: the number of the last status that it was told; None for a
        reader that has just come and takes everything to be well.
    """

    seq: int
    owed: frozenset[str] = frozenset()
    lost: str | None = None
    heard: int | None = None


class Page(msgspec.Struct, frozen=True):
    """
    What a history answered: messages of several topics, in order.

    :ivar upto: the page holds all there is up to this seq.
    :ivar floors: by topic key, the seq of the last message that is gone.
    """

    events: Sequence[Event]
    upto: int
    floors: Mapping[str, int]


class Step(msgspec.Struct, frozen=True):
    """
    The next frames for a reader.

    :ivar cursor: where it stands after them.
    :ivar complete: whether it has caught up.
    """

    frames: list[Frame]
    cursor: Cursor
    complete: bool


class Older(msgspec.Struct, frozen=True):
    """To go on, the history has to be read: messages of `topics` after `after`."""

    topics: tuple[str, ...]
    after: int


def documents(topics: Sequence[Topic]) -> frozenset[str]:
    """The keys of the document topics among `topics`."""
    return frozenset(topic.key for topic in topics if isinstance(topic, DocumentTopic))


def arrive(
    topics: Sequence[Topic], given: str | None, epoch: str, head: int, newest: int
) -> Cursor:
    """
    The place of a reader that has just come.

    :param given: its last event id; None if it has none.
    :param head: the seq of the newest event of the hub.
    :param newest: that of the newest event of `topics`, or any between the two.
    """
    owed = documents(topics)
    if given is None:
        return Cursor(newest, owed)
    position = Position.parse(given)
    if position is None or position.epoch != epoch or position.seq > head:
        return Cursor(0, owed, lost=given)
    vouched = position.mark == mark(owed) and not position.whole
    return Cursor(position.seq, frozenset() if vouched else owed)


def advance(
    topics: Sequence[Topic], cursor: Cursor, epoch: str, head: int, page: Page | None = None
) -> Step | Older:
    """
    What a reader at `cursor` gets next.

    :param head: the seq of the newest event that the topics have recorded.
    :param page: the history's answer to the :class:`Older` that came before.
    """
    messages = [topic for topic in topics if isinstance(topic, MessageTopic)]
    if page is None:
        page = _from_logs(messages, cursor, head)
        if page is None:
            return Older(tuple(topic.key for topic in messages), cursor.seq)
    changes, owed = _changes(topics, cursor)
    events, upto = _cut([*page.events, *changes], page.upto)
    gaps = _gaps(messages, cursor, page.floors, epoch)
    frames = _in_order([gap for gap in gaps if gap[0] <= upto], events, epoch, whole=bool(owed))
    if upto < head:
        return Step(frames, Cursor(upto, owed, heard=cursor.heard), complete=False)
    frames += _snapshots(topics, owed)
    frames = _promise(frames, Position(epoch, head), arrived=cursor.heard is None)
    heard = max(topic.status.number for topic in topics)
    return Step(frames + _news(topics, cursor.heard), Cursor(head, heard=heard), complete=True)


def frame(event: Event, epoch: str, *, whole: bool = False) -> Frame:
    """An event under its id."""
    return Frame(public_name(event.topic), event.payload, str(Position(epoch, event.seq, whole)))


def status_frame(topic: Topic) -> Frame:
    """How a topic's source is doing. It has no id: it is no part of the history."""
    status = topic.status
    return Frame(topic.name, wire.status(status.state, status.since, status.reason), None)


def _from_logs(messages: Sequence[MessageTopic], cursor: Cursor, head: int) -> Page | None:
    """The missed messages, if the logs hold them all."""
    events: list[Event] = []
    for topic in messages:
        missed = topic.after(cursor.seq)
        if missed is OLDER:
            return None
        events += missed
    return Page(events, head, {topic.key: topic.log.floor for topic in messages})


def _changes(topics: Sequence[Topic], cursor: Cursor) -> tuple[list[Event], frozenset[str]]:
    """The missed changes of documents, and which documents are to be sent whole instead."""
    changes: list[Event] = []
    owed = set()
    for topic in topics:
        if isinstance(topic, DocumentTopic) and topic.document is not None:
            missed = RESET if topic.key in cursor.owed else topic.after(cursor.seq)
            if missed is RESET:
                owed.add(topic.key)
            else:
                changes += missed
    return changes, frozenset(owed)


def _gaps(
    messages: Sequence[MessageTopic], cursor: Cursor, floors: Mapping[str, int], epoch: str
) -> list[tuple[int, Frame]]:
    """
    Where messages are lost for good, each with the seq behind which it is told.

    A gap has no id of its own: until something behind it arrives, the client
    keeps the id under which it would be told again.
    """
    after = cursor.lost or str(Position(epoch, cursor.seq))
    gaps = []
    for topic in messages:
        floor = floors[topic.key]
        if floor > cursor.seq or cursor.lost is not None:
            resumed = str(Position(epoch, floor))
            gaps.append((floor, Frame(topic.name, wire.gap(after, resumed), None)))
    return gaps


def _cut(events: list[Event], upto: int) -> tuple[list[Event], int]:
    """The first of `events`, in order: about :data:`STEP_BYTES`, none past `upto`; and how far."""
    events.sort(key=lambda event: event.seq)
    room = STEP_BYTES
    taken: list[Event] = []
    for event in events:
        if event.seq > upto:
            break
        if room <= 0:
            return taken, taken[-1].seq
        taken.append(event)
        room -= len(event.payload.data)
    return taken, upto


def _in_order(
    gaps: list[tuple[int, Frame]], events: list[Event], epoch: str, *, whole: bool
) -> list[Frame]:
    """Events under their ids, and each gap behind the seq that it goes up to."""
    placed = [((event.seq, 0), frame(event, epoch, whole=whole)) for event in events]
    placed += [((floor, 1), gap) for floor, gap in gaps]
    placed.sort(key=lambda place: place[0])
    return [frame for _, frame in placed]


def _snapshots(topics: Sequence[Topic], owed: frozenset[str]) -> list[Frame]:
    """The documents that are owed, without ids: any of them alone promises nothing."""
    return [
        Frame(topic.name, Payload("snapshot", topic.document.data, topic.document.is_json), None)
        for topic in topics
        if isinstance(topic, DocumentTopic) and topic.key in owed and topic.document is not None
    ]


def _promise(frames: list[Frame], position: Position, *, arrived: bool) -> list[Frame]:
    """`frames` with an id on the last: behind it the reader has everything."""
    if frames and frames[-1].id is None:
        last = frames[-1]
        return [*frames[:-1], Frame(last.topic, last.payload, str(position))]
    if not frames and arrived:
        return [Frame("", None, str(position))]
    return frames


def _news(topics: Sequence[Topic], heard: int | None) -> list[Frame]:
    """The statuses that a reader who has heard those up to `heard` does not know."""
    return [
        status_frame(topic)
        for topic in topics
        if (topic.status.state != "ok" if heard is None else topic.status.number > heard)
    ]

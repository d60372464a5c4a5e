"""
Topics: what was said last, and what is true now.

A topic's log is the newest part of its history, held in memory. Reading it
after a position has three answers: some events, nothing yet (no events), or a
reset; a message topic whose log does not reach back so far says that its
history must be asked. No Twisted here, and time only as an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import Literal, TypeAlias

import msgspec

from pushd.event import Document, Event


class Missed(Enum):
    """Why a log has no events to give for a position."""

    RESET = "send the document whole"
    OLDER = "ask the history"


RESET: Literal[Missed.RESET] = Missed.RESET
OLDER: Literal[Missed.OLDER] = Missed.OLDER


State: TypeAlias = Literal["ok", "stale", "error"]


class Status(msgspec.Struct, frozen=True):
    """
    How a document topic's source is doing.

    :ivar since: seconds since 1970.
    :ivar reason: a sentence for people; None when all is well.
    :ivar number: how many changes of status, of any topic, came up to this one.
    """

    state: State
    since: float
    reason: str | None = None
    number: int = 0


class Log:
    """
    The newest events of one topic, oldest first.

    :ivar floor: every event of the topic with a greater seq is in here.
    :ivar size: bytes of data held.
    """

    def __init__(self, floor: int) -> None:
        self.floor = floor
        self.size = 0
        self._events: deque[Event] = deque()

    def __len__(self) -> int:
        return len(self._events)

    def append(self, event: Event) -> None:
        """Take the event that comes next in the order."""
        self._events.append(event)
        self.size += len(event.payload.data)

    def after(self, seq: int) -> list[Event] | None:
        """The events past `seq`; None if some of them are no longer held."""
        if seq < self.floor:
            return None
        missed = []
        for event in reversed(self._events):
            if event.seq <= seq:
                break
            missed.append(event)
        missed.reverse()
        return missed

    def trim(
        self, *, events: int | None = None, size: int | None = None, before: float | None = None
    ) -> None:
        """Drop the oldest until at most `events`, `size` bytes, none recorded `before` are left."""
        while self._events and (
            (events is not None and len(self._events) > events)
            or (size is not None and self.size > size)
            or (before is not None and self._events[0].at < before)
        ):
            oldest = self._events.popleft()
            self.floor = oldest.seq
            self.size -= len(oldest.payload.data)


class Topic:
    """
    What all topics have.

    :ivar key: tells it from all others in the hub and the history.
    :ivar name: what clients call it. Private topics, one for each set of
        forwarded header values, share a name and differ in their keys.
    :ivar health: how its source is doing, and a sentence if that is not well; message
        topics are always ok.
    :ivar status: what its readers were told of that, or of the history.
    :ivar ended: nothing will ever come again.
    """

    def __init__(self, key: str, floor: int) -> None:
        self.key = key
        self.name = public_name(key)
        self.log = Log(floor)
        self.health: tuple[State, str | None] = ("ok", None)
        self.status = Status("ok", 0.0)
        self.ended = False


class DocumentTopic(Topic):
    """
    A topic whose events are changes of a document.

    :ivar document: None until the source has answered once.
    :ivar seq: of the last change; 0 if there was none.
    """

    def __init__(self, key: str, floor: int) -> None:
        super().__init__(key, floor)
        self.document: Document | None = None
        self.seq = 0

    def record(self, events: Sequence[Event], document: Document) -> None:
        """Take changes and the document that they led to."""
        for event in events:
            self.log.append(event)
        self.document = document
        self.seq = events[-1].seq
        # What weighs more than the document would never be sent: it is the reset.
        self.log.trim(size=len(document.data))

    def restore(self, events: Sequence[Event], document: Document) -> None:
        """Take what a history kept: the document, and the last changes that led to it."""
        self.seq = self.log.floor
        if events:
            self.record(events, document)
        self.document = document

    def after(self, seq: int) -> list[Event] | Literal[Missed.RESET]:
        """
        What a reader at `seq` missed, or :data:`RESET`: the document is lighter,
        or the log does not reach back that far.
        """
        if self.document is None:
            return []
        missed = self.log.after(seq)
        if missed is None:
            return RESET
        weight = sum(len(event.payload.data) for event in missed)
        return missed if weight <= len(self.document.data) else RESET


class MessageTopic(Topic):
    """A topic whose events each count. The log is only the part that is read most."""

    LOG_EVENTS = 256
    LOG_BYTES = 1_048_576

    def record(self, events: Sequence[Event]) -> None:
        """Take messages."""
        for event in events:
            self.log.append(event)
        self.log.trim(events=self.LOG_EVENTS, size=self.LOG_BYTES)

    def after(self, seq: int) -> list[Event] | Literal[Missed.OLDER]:
        """What a reader at `seq` missed, or :data:`OLDER`: only the history can tell."""
        missed = self.log.after(seq)
        return OLDER if missed is None else missed


def private_key(name: str, digest: str) -> str:
    """The key of the private topic that `digest` stands for; no public name contains a NUL."""
    return f"{name}\0{digest}"


def public_name(key: str) -> str:
    """The name by which clients know the topic with this key."""
    return key.partition("\0")[0]

"""
The nouns that travel: positions, events, and the documents they change.

Plain values only. Nothing here knows how an event is stored, encoded or sent.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import TypeAlias

import msgspec

Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"
"""A decoded JSON value."""

_POSITION = re.compile(r"([0-9a-z]{1,32})-(0|[1-9][0-9]{0,17})(w?)(?:\.([0-9a-f]{6}))?", re.ASCII)


class Position(msgspec.Struct, frozen=True):
    """
    A place in the hub's order; its text form is the event id.

    :ivar epoch: the life of the history that gave out the number, ``[0-9a-z]+``.
    :ivar seq: how many events of that epoch came up to here; 0 is its beginning.
    :ivar whole: the reader has all messages up to ``seq``, but was still owed
        documents: these have to be sent whole when it comes back.
    :ivar mark: which documents the reader has, as :func:`mark` says it.
    """

    epoch: str
    seq: int
    whole: bool = False
    mark: str = ""

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}{'w' if self.whole else ''}{self.mark}"

    @classmethod
    def parse(cls, text: str) -> Position | None:
        """The position that an event id stands for; None if it is not one of ours."""
        match = _POSITION.fullmatch(text)
        if match is None:
            return None
        epoch, seq, whole, mark = match.groups()
        return cls(epoch, int(seq), bool(whole), f".{mark}" if mark else "")


def mark(documents: Iterable[str]) -> str:
    """
    What the ids of a stream of these documents end with: ``""`` if there are none.

    An id speaks for the documents that its stream carried. Without the mark, a
    reader that comes back to others (one topic more, or the same one with other
    credentials) would get patches of documents that it does not have.

    :param documents: the keys of document topics.
    """
    keys = sorted(documents)
    if not keys:
        return ""
    return "." + hashlib.sha256("\n".join(keys).encode()).hexdigest()[:6]


class Payload(msgspec.Struct, frozen=True):
    """
    What an event says, before it has a place in the order.

    :ivar name: the event's name; None is SSE's default, ``message``.
    :ivar data: UTF-8. JSON is compact, on one line.
    :ivar is_json: whether ``data`` is JSON; otherwise it is text.
    """

    name: str | None
    data: bytes
    is_json: bool = True


class Document(msgspec.Struct, frozen=True):
    """
    What a document topic holds.

    :ivar data: UTF-8. JSON is compact, on one line.
    :ivar is_json: whether ``data`` is JSON; otherwise it is text.
    """

    data: bytes
    is_json: bool = True


class Event(msgspec.Struct, frozen=True, gc=False):
    """
    One thing sent.

    :ivar seq: its place in the order over all topics of the hub, from 1.
    :ivar topic: the key of the topic that it belongs to.
    :ivar at: when it was recorded, in seconds since 1970.
    """

    seq: int
    topic: str
    payload: Payload
    at: float


class Draft(msgspec.Struct, frozen=True):
    """
    What is asked to be recorded: a topic's next events, all or none of them.

    :ivar topic: the key of the topic.
    :ivar payloads: in order; never empty.
    :ivar document: what a document topic holds after the last of them; None
        for a message topic.
    :ivar began: when it was learned, in seconds of the reactor's clock, to measure
        how long it takes from there to the clients; None for now.
    :ivar after: the seq of the topic's change that these go on from. Where several nodes
        write, it is not recorded after any other. None if that does not matter.
    """

    topic: str
    payloads: tuple[Payload, ...]
    document: Document | None = None
    began: float | None = None
    after: int | None = None

"""
Events as they are written in Redis, and read from there: values to values.

What the keys are, and who writes them, is in :mod:`pushd.history.scripts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pushd.cursor import Page
from pushd.event import Document, Event, Payload


def kind(payload: Payload | Document) -> bytes:
    """How Redis is told what something is: see :mod:`pushd.history.scripts`."""
    letter = "j" if payload.is_json else "t"
    if isinstance(payload, Document) or payload.name is None:
        return letter.encode()
    return f"{letter}:{payload.name}".encode()


def payload(kind: bytes, data: bytes) -> Payload:
    """What was told as `kind`."""
    letter, is_named, name = kind.partition(b":")
    return Payload(name.decode() if is_named else None, data, letter == b"j")


def packed(payloads: Sequence[Payload]) -> tuple[bytes, bytes]:
    """Payloads as their words' lengths, and all their words in one."""
    words = [word for one in payloads for word in (kind(one), one.data)]
    return b" ".join(b"%d" % len(word) for word in words), b"".join(words)


def unpacked(lengths: bytes, words: bytes) -> list[bytes]:
    """What :func:`packed` has put together: kind, data, kind, data, ..."""
    found = []
    at = 0
    for length in map(int, lengths.split()):
        found.append(words[at : at + length])
        at += length
    return found


def event(topic: str, entry: Any) -> Event:
    """An event from the stream of its topic."""
    place, (held, data, _, at) = entry
    return Event(seq(place), topic, payload(held, data), float(at))


def page(reply: Any, topics: Sequence[str], upto: int, size: int) -> Page:
    """What of several topics' messages fits, in order."""
    floors: dict[str, int] = {}
    events: list[Event] = []
    for topic, (floor, is_more, found) in zip(topics, reply, strict=True):
        floors[topic] = floor
        events += [event(topic, entry) for entry in found]
        if is_more:
            upto = min(upto, events[-1].seq)
    events = sorted((e for e in events if e.seq <= upto), key=lambda one: one.seq)
    for n, one in enumerate(events, start=1):
        size -= len(one.payload.data)
        if size <= 0 and n < len(events):
            return Page(events[:n], one.seq, floors)
    return Page(events, upto, floors)


def seq(place: bytes) -> int:
    """The seq in the id of an entry."""
    return int(place.partition(b"-")[0])

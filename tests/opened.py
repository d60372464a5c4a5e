"""An open history, and what it told its listener."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from house import now
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from pushd.event import Document, Draft, Event, Payload
from pushd.interfaces import IHistory, IHistoryListener


def draft(topic: str, *data: bytes, document: bytes | None = None) -> Draft:
    payloads = tuple(Payload(None, one) for one in data)
    return Draft(topic, payloads, None if document is None else Document(document))


class Noting:
    """Notes what a history says of itself; all of an IHistoryListener but what is recorded."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def unavailable(self, reason: str) -> None:
        self.said.append(reason)

    def available(self) -> None:
        self.said.append("available")

    def restarted(self, head: int) -> None:
        self.said.append(f"restarted at {head}")


@implementer(IHistoryListener)
class Listening(Noting):
    """A history and what it told."""

    def __init__(self, history: IHistory, clock: Clock) -> None:
        super().__init__()
        self.history = history
        self.clock = clock
        self.told: list[tuple[Sequence[Event], Document | None]] = []

    def committed(self, events: Sequence[Event], document: Document | None) -> None:
        self.told.append((events, document))


class Open(Listening):
    """An open history that never has to wait."""

    def __init__(self, history: IHistory, clock: Clock) -> None:
        super().__init__(history, clock)
        self.head = now(history.open(self))

    def append(self, topic: str, *data: bytes, document: bytes | None = None) -> list[int]:
        return [
            event.seq for event in now(self.history.append(draft(topic, *data, document=document)))
        ]

    def start(self, topic: str, *data: bytes) -> Deferred[tuple[Event, ...]]:
        """Ask for it, and don't wait."""
        return self.history.append(draft(topic, *data))

    def read(self, topics: Sequence[str], after: int, size: int = 10**6) -> Any:
        return now(self.history.read(topics, after, size))

"""
What is asked of a file between two commits, and what became of it.

A batch is written whole or not at all. What it loads is read behind that, so
that whoever loads a topic finds all that was recorded of it before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TypeAlias

import msgspec
from twisted.internet.defer import Deferred

from pushd.event import Draft, Event
from pushd.history.database import Database
from pushd.history.tables import Change
from pushd.interfaces import Kept

BATCH_EVENTS = 256
"""How many events are written at once, if no draft has more: the reactor feels larger batches."""

BATCH_BYTES = 4_194_304
"""How much is written at once, if no draft is larger."""

BATCH_LOADS = 8
"""How many topics are loaded behind that: publishers wait meanwhile, some 10 ms."""


class Append(msgspec.Struct, frozen=True, eq=False):
    """A draft to be recorded, and who waits for that."""

    draft: Draft
    done: Deferred[tuple[Event, ...]]

    @property
    def size(self) -> int:
        """Bytes to be written, about."""
        document = self.draft.document
        size = sum(len(payload.data) for payload in self.draft.payloads)
        return size if document is None else size + len(document.data)


class Load(msgspec.Struct, frozen=True, eq=False):
    """A topic that is asked for."""

    topic: str
    done: Deferred[Kept]


class Forget(msgspec.Struct, frozen=True, eq=False):
    """A topic that nobody needs any more."""

    topic: str
    done: Deferred[None]


Asked: TypeAlias = Append | Load | Forget


class Outcome(msgspec.Struct, frozen=True):
    """
    :ivar error: why none of a batch was written; None if all was.
    :ivar loaded: what it loads, in order, or why that cannot be had.
    """

    error: Exception | None
    loaded: list[Kept | Exception]


class Batch:
    """
    :ivar written: what is to be written, and what of it becomes a change of the file.
    :ivar loads: what is to be loaded.
    :ivar size: bytes to be written, about.
    """

    def __init__(self) -> None:
        self.written: list[tuple[Append | Forget, Change]] = []
        self.loads: list[Load] = []
        self.size = 0

    def work(self, database: Database, before: float) -> Outcome:
        """
        Do all of it, in the thread that writes.

        :param before: as for :meth:`Database.write`.
        """
        return Outcome(self._write(database, before), list(self._load(database, before)))

    def _write(self, database: Database, before: float) -> Exception | None:
        try:
            if self.written:
                database.write([change for _, change in self.written], before)
        except Exception as error:
            return error
        return None

    def _load(self, database: Database, before: float) -> Iterator[Kept | Exception]:
        for load in self.loads:
            try:
                yield database.load(load.topic, before)
            except Exception as error:
                yield error


class Queue:
    """
    What is asked for while a batch is under way.

    After a start hundreds of topics may be loaded: who publishes overtakes them.
    """

    def __init__(self) -> None:
        self._written: deque[Append | Forget] = deque()
        self._loads: deque[Load] = deque()

    def __bool__(self) -> bool:
        return bool(self._written or self._loads)

    def put(self, asked: Asked) -> None:
        """One more."""
        if isinstance(asked, Load):
            self._loads.append(asked)
        else:
            self._written.append(asked)

    def take(self, head: int, at: float) -> Batch:
        """
        The next batch: all, or as much as should be done at once.

        :param head: the seq of the newest event.
        :param at: when it is recorded, in seconds since 1970.
        """
        batch = Batch()
        events = 0
        while self._written:
            asked = self._written[0]
            if isinstance(asked, Forget):
                change = Change(asked.topic)
            else:
                more, size = len(asked.draft.payloads), asked.size
                if events and (events + more > BATCH_EVENTS or batch.size + size > BATCH_BYTES):
                    # Who loads finds what was asked for before.
                    return batch
                change = _change(asked.draft, head + events, at)
                events += more
                batch.size += size
            batch.written.append((asked, change))
            self._written.popleft()
        while self._loads and len(batch.loads) < BATCH_LOADS:
            batch.loads.append(self._loads.popleft())
        return batch

    def give_up(self) -> list[Append | Forget]:
        """All that is to be written; the loads go on waiting."""
        given_up, self._written = self._written, deque()
        return list(given_up)


def _change(draft: Draft, head: int, at: float) -> Change:
    events = tuple(
        Event(seq, draft.topic, payload, at)
        for seq, payload in enumerate(draft.payloads, start=head + 1)
    )
    return Change(draft.topic, events, draft.document)

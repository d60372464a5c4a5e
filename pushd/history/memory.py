"""
History in memory: gone when the process ends, recorded the moment it is appended.

Only storage. What a restart means to clients is said by the epoch: a new one
with every start, so that no old id is mistaken for a new one.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from pushd.config import History
from pushd.cursor import Page
from pushd.event import Document, Draft, Event
from pushd.interfaces import IHistory, IHistoryListener, Kept
from pushd.topic import Log


@implementer(IHistory)
class MemoryHistory:
    """
    :param keep: how much is kept of each topic.
    :param now: seconds since 1970.
    """

    def __init__(self, keep: History, now: Callable[[], float]) -> None:
        self.epoch = ""
        self._keep = keep
        self._now = now
        self._head = 0
        self._logs: dict[str, Log] = {}
        self._documents: dict[str, Document] = {}
        self._unswept: list[str] = []
        self._listener: IHistoryListener | None = None

    def open(self, listener: IHistoryListener) -> Deferred[int]:
        """See :meth:`IHistory.open`."""
        self.epoch = secrets.token_hex(5)
        self._listener = listener
        return succeed(self._head)

    def append(self, draft: Draft) -> Deferred[tuple[Event, ...]]:
        """See :meth:`IHistory.append`."""
        assert self._listener is not None, "append before open"
        now = self._now()
        events = tuple(
            Event(self._head + n, draft.topic, payload, now)
            for n, payload in enumerate(draft.payloads, start=1)
        )
        self._head = events[-1].seq
        log = self._logs.get(draft.topic)
        if log is None:
            log = self._logs[draft.topic] = Log(0)
        for event in events:
            log.append(event)
        if draft.document is not None:
            self._documents[draft.topic] = draft.document
        self._trim(draft.topic, log)
        self._sweep()
        self._listener.committed(events, draft.document)
        return succeed(events)

    def load(self, topic: str) -> Deferred[Kept]:
        """See :meth:`IHistory.load`."""
        log = self._trimmed(topic)
        return succeed(Kept(log.after(log.floor) or [], log.floor, self._documents.get(topic)))

    def forget(self, topic: str) -> Deferred[None]:
        """See :meth:`IHistory.forget`."""
        self._logs.pop(topic, None)
        self._documents.pop(topic, None)
        return succeed(None)

    def read(self, topics: Sequence[str], after: int, size: int) -> Deferred[Page]:
        """See :meth:`IHistory.read`."""
        logs = {topic: self._trimmed(topic) for topic in topics}
        found = [e for log in logs.values() for e in log.after(max(after, log.floor)) or ()]
        found.sort(key=lambda event: event.seq)
        floors = {topic: log.floor for topic, log in logs.items()}
        for n, event in enumerate(found, start=1):
            size -= len(event.payload.data)
            if size <= 0 and n < len(found):
                return succeed(Page(found[:n], event.seq, floors))
        return succeed(Page(found, self._head, floors))

    def close(self) -> Deferred[None]:
        """See :meth:`IHistory.close`."""
        return succeed(None)

    def _trimmed(self, topic: str) -> Log:
        log = self._logs.get(topic)
        if log is None:
            return Log(0)
        self._trim(topic, log)
        return log

    def _sweep(self) -> None:
        """Trim two topics in turn: the old goes from quiet ones too, as others speak."""
        for topic in self._unswept[-2:]:
            del self._unswept[-1]
            self._trimmed(topic)
        if not self._unswept:
            self._unswept = list(self._logs)

    def _trim(self, topic: str, log: Log) -> None:
        """Patches that outweigh their document are never asked for."""
        document = self._documents.get(topic)
        keep = self._keep
        size = keep.keep_bytes if document is None else len(document.data)
        log.trim(events=keep.keep_events, size=size, before=self._now() - keep.keep_seconds)

"""
History in a file: an event is recorded once SQLite has committed it.

What is asked for while a commit is under way is the next one: a group, whole or
not at all. So a commit costs little however many publish, and who publishes alone
waits for one commit. One thread writes; another reads pages, so that neither waits
for the other.

While the file cannot be written nothing is recorded, what is there can be read,
and every second it is tried again. Clients are told why in words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pushd.config import History
from pushd.cursor import Page
from pushd.errors import HistoryError, StartError
from pushd.event import Draft, Event
from pushd.history import reasons
from pushd.history.batch import Append, Asked, Batch, Forget, Load, Outcome, Queue
from pushd.history.database import Database, Life
from pushd.history.tables import Change
from pushd.history.thread import Jobs
from pushd.interfaces import IHistory, IHistoryListener, Kept
from pushd.once import Once
from pushd.throttle import Throttle

RETRY_SECONDS = 1.0
"""When it is tried again whether the file can be written."""

TIDY_SECONDS = 10.0
"""How often it is looked for what is too old, even if nobody publishes."""

MORE_SECONDS = 0.1
"""When more of that is removed: little by little, as publishers wait meanwhile."""

UNUSED_SECONDS = 600.0
"""
How long after the start documents are kept that nobody asks for: clients come back
within a minute. Later, whoever fills a topic says when it is to be forgotten.
"""

ENDING = "pushd is ending."
"""What is told to those who ask for something that will not be done any more."""


@implementer(IHistory)
class SQLiteHistory:
    """
    :param keep: how much is kept of each topic.
    :param clock: when to try again and to tidy up.
    :param now: seconds since 1970.
    :param writer: does what is asked of the database.
    :param reader: reads pages, beside.
    """

    log = Logger()

    def __init__(
        self,
        database: Database,
        keep: History,
        clock: IReactorTime,
        now: Callable[[], float],
        writer: Jobs,
        reader: Jobs,
    ) -> None:
        self.epoch = ""
        self._database = database
        self._keep = keep
        self._clock = clock
        self._now = now
        self._writer = writer
        self._reader = reader
        self._listener: IHistoryListener | None = None
        # The seq of the last event that the listener was told.
        self._told = 0
        self._queue = Queue()
        self._busy = False
        self._reads: Once[tuple[tuple[str, ...], int, int], Page] = Once(clock)
        self._unavailable: str | None = None
        self._throttle = Throttle(clock)
        self._later: IDelayedCall | None = None
        self._opened = 0.0
        self._closing: Deferred[None] | None = None

    def open(self, listener: IHistoryListener) -> Deferred[int]:
        """
        See :meth:`IHistory.open`. Done at once: without it there is nothing else to do.

        Fails with :class:`~pushd.errors.StartError`.
        """
        path = self._database.place.path
        try:
            life = self._database.open()
            self._writer.start()
            self._reader.start()
        except Exception as error:
            return fail(StartError(f"history.path: {path}: {reasons.advice(error, path)}"))
        if life.cut_off:
            self.log.warn(
                "{path}: the machine ended before pushd did, and history.fsync is off. What was "
                "recorded last may be missing: all clients begin anew",
                path=path,
            )
        self.epoch, self._told = life.epoch, life.head
        self._listener = listener
        self._opened = self._clock.seconds()
        self._wait(TIDY_SECONDS, self._tidy)
        return succeed(life.head)

    def append(self, draft: Draft) -> Deferred[tuple[Event, ...]]:
        """See :meth:`IHistory.append`."""
        return self._ask(Append(draft, Deferred()))

    def load(self, topic: str) -> Deferred[Kept]:
        """See :meth:`IHistory.load`."""
        return self._ask(Load(topic, Deferred()))

    def forget(self, topic: str) -> Deferred[None]:
        """See :meth:`IHistory.forget`."""
        return self._ask(Forget(topic, Deferred()))

    def read(self, topics: Sequence[str], after: int, size: int) -> Deferred[Page]:
        """See :meth:`IHistory.read`. Many who come back to one place at once read it once."""
        if self._closing is not None:
            return fail(HistoryError(ENDING))
        return self._reads.ask(
            (tuple(topics), after, size), lambda: self._read(topics, after, size)
        )

    def close(self) -> Deferred[None]:
        """See :meth:`IHistory.close`."""
        assert self._closing is None, "closed twice"
        self._closing = Deferred()
        self._stop_waiting()
        self._go_on()
        return self._closing

    # One batch after the other.

    def _ask(self, asked: Asked) -> Deferred[Any]:
        if self._closing is not None:
            asked.done.errback(HistoryError(ENDING))
        elif self._unavailable is not None and not isinstance(asked, Load):
            asked.done.errback(HistoryError(self._unavailable))
        else:
            idle = not self._queue and not self._busy
            self._queue.put(asked)
            if idle:
                # All that is asked for in a turn is one commit, and then one write to each client.
                self._writer.soon(self._go_on)
        return asked.done

    def _go_on(self) -> None:
        if self._busy:
            return
        if self._queue:
            self._busy = True
            batch = self._queue.take(self._told, self._now())
            before = self._before()
            self._writer.do(lambda: batch.work(self._database, before)).addCallback(
                self._worked, batch
            )
        elif self._closing is not None:
            self._busy = True
            self._writer.do(self._database.close).addCallback(self._closed)

    def _worked(self, outcome: Outcome, batch: Batch) -> None:
        if outcome.error is None:
            for asked, change in batch.written:
                self._recorded(asked, change)
        else:
            self._fail(outcome.error, batch)
        for load, kept in zip(batch.loads, outcome.loaded, strict=True):
            if isinstance(kept, Kept):
                load.done.callback(kept)
            else:
                load.done.errback(self._failed_to_read(kept))
        # Not before: what was asked for meanwhile comes behind all this.
        self._busy = False
        self._go_on()

    def _recorded(self, asked: Append | Forget, change: Change) -> None:
        if isinstance(asked, Forget):
            asked.done.callback(None)
            return
        assert self._listener is not None
        self._told = change.events[-1].seq
        try:
            self._listener.committed(change.events, change.document)
        except Exception:
            # The record is right, and what comes behind is to be told too.
            self.log.failure("what was recorded could not be told")
        asked.done.callback(change.events)

    def _read(self, topics: Sequence[str], after: int, size: int) -> Deferred[Page]:
        epoch, upto, before = self.epoch, self._told, self._before()

        def of_this_epoch(answer: tuple[str, Page]) -> Page:
            found, page = answer
            # That another one has begun may be told here later than it can be read.
            if not found == epoch == self.epoch:
                raise HistoryError("The history has begun anew.")
            return page

        reading = self._reader.do(lambda: self._database.read(topics, after, size, upto, before))
        return reading.addCallbacks(of_this_epoch, self._not_read)

    def _not_read(self, failure: Failure) -> NoReturn:
        raise self._failed_to_read(failure.value)

    def _failed_to_read(self, error: BaseException | None) -> HistoryError:
        if self._closing is not None:
            # The file was closed before it came to that.
            return HistoryError(ENDING)
        self._complain("cannot be read", error)
        return HistoryError(reasons.reason(error))

    def _complain(self, what: str, error: BaseException | None) -> None:
        path = self._database.place.path
        if self._throttle.allows(f"{path} {what}"):
            self.log.error(
                "{path} {what}: {error}", path=path, what=what, error=reasons.exactly(error)
            )

    def _closed(self, _: None) -> None:
        self._writer.stop()
        self._reader.stop()
        self._throttle.tell()
        assert self._closing is not None
        self._closing.callback(None)

    # When nothing can be written.

    def _fail(self, error: BaseException | None, batch: Batch) -> None:
        """Nothing of `batch` was written, and nothing is to be until that works again."""
        self._complain("cannot be written", error)
        self._unavailable = reasons.reason(error)
        for asked in (*(asked for asked, _ in batch.written), *self._queue.give_up()):
            asked.done.errback(HistoryError(self._unavailable))
        assert self._listener is not None
        self._listener.unavailable(self._unavailable)
        # As much as had no room, perhaps.
        self._wait(RETRY_SECONDS, self._attempt, batch.size)

    def _attempt(self, size: int) -> None:
        self._writer.do(lambda: self._database.attempt(size)).addCallbacks(
            self._works, self._still_fails, errbackArgs=(size,)
        )

    def _works(self, life: Life) -> None:
        self._unavailable = None
        if self._closing is not None:
            return
        self._wait(TIDY_SECONDS, self._tidy)
        assert self._listener is not None
        if life.epoch != self.epoch:
            self.epoch, self._told = life.epoch, life.head
            self._opened = self._clock.seconds()
            self._listener.restarted(life.head)
        self._listener.available()

    def _still_fails(self, failure: Failure, size: int) -> None:
        why = reasons.reason(failure.value)
        if self._closing is not None:
            return
        if why != self._unavailable:
            self._complain("cannot be written", failure.value)
            self._unavailable = why
            assert self._listener is not None
            self._listener.unavailable(why)
        self._wait(RETRY_SECONDS, self._attempt, size)

    # What is too old.

    def _before(self) -> float:
        return self._now() - self._keep.keep_seconds

    def _tidy(self) -> None:
        before = self._before()
        unused = self._clock.seconds() - self._opened >= UNUSED_SECONDS
        self._writer.do(lambda: self._database.tidy(before, unused=unused)).addCallbacks(
            self._tidied, self._not_tidied
        )

    def _tidied(self, more: bool) -> None:
        if self._unavailable is None:
            self._wait(MORE_SECONDS if more else TIDY_SECONDS, self._tidy)

    def _not_tidied(self, failure: Failure) -> None:
        if self._unavailable is None and self._closing is None:
            self._fail(failure.value, Batch())

    def _wait(self, seconds: float, call: Callable[..., None], *arguments: object) -> None:
        """There is one thing to wait for at a time: to try again, or to tidy up."""
        self._stop_waiting()
        if self._closing is None:
            self._later = self._clock.callLater(seconds, call, *arguments)

    def _stop_waiting(self) -> None:
        if self._later is not None and self._later.active():
            self._later.cancel()
        self._later = None

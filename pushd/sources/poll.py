"""
The poller: one source's URL, asked again and again while somebody watches.

It asks conditionally, never twice at a time, and not before the upstream wants
to be asked again. What an answer means is :mod:`pushd.sources.digest`'s, how it
is fetched :mod:`pushd.sources.fetch`'s, when to ask next :mod:`pushd.sources.pace`'s.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from http import HTTPStatus

import msgspec
from twisted.internet.defer import CancelledError, Deferred, DeferredLock, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pushd.config import Source
from pushd.errors import HistoryError, OvertakenError, SourceError
from pushd.event import Draft
from pushd.interfaces import IHub, ISource, Report
from pushd.metrics import Metrics, Outcome
from pushd.sources import pace
from pushd.sources.digest import Rules
from pushd.sources.fetch import Answer, Fetcher
from pushd.sources.health import Health
from pushd.sources.remembered import Remembered
from pushd.sources.worker import Worker
from pushd.throttle import Throttle
from pushd.topic import DocumentTopic

LATEST = 5.0
"""
Seconds within which a source that was changed is asked for the first time. All
topics of a template change at once, and need not all be asked at once.
"""


class Surroundings(msgspec.Struct, frozen=True):
    """
    What all pollers share.

    :ivar now: seconds since 1970.
    :ivar chance: a random number from [0, 1).
    :ivar throttle: of what is said of sources: who asks for topics of a template makes them.
    :ivar slots: when in its interval each source is polled.
    """

    hub: IHub
    worker: Worker
    clock: IReactorTime
    now: Callable[[], float]
    chance: Callable[[], float]
    metrics: Metrics
    throttle: Throttle
    slots: pace.Slots = msgspec.field(default_factory=lambda: pace.Slots(random.random()))


class _GoneError(SourceError):
    """There is no document any more, and that is for good (RFC 9110, section 15.5.11)."""


@implementer(ISource)
class Poller:
    """
    :param topic: what it fills.
    :param source: how it is to be polled.
    :param url: where, with the topic's values in their places.
    :param headers: the source's own and the forwarded ones.
    :param fetcher: asks, with the source's trust in certificates.
    :param forgotten: called when the topic is no more.
    :param before: the one whose place it takes, if there was one.
    :ivar overtaken: called when it turns out that another node fills the topic now.
    """

    log = Logger()

    def __init__(
        self,
        topic: DocumentTopic,
        source: Source,
        url: str,
        headers: Mapping[str, str],
        around: Surroundings,
        fetcher: Fetcher,
        forgotten: Callable[[], None],
        before: ISource | None = None,
    ) -> None:
        self.topic = topic
        self._source = source
        self._url = url
        self._headers = headers
        self._rules = Rules(source.format, source.select, source.emit, source.key)
        self._around = around
        self._fetcher = fetcher
        self._on_forgotten = forgotten
        self.overtaken: Callable[[], object] = lambda: None
        predecessor = before if isinstance(before, Poller) else None
        self._health = Health(
            topic,
            around.hub,
            around.clock,
            source.patience,
            lambda state: around.throttle.allows(f"source of {source.topic!r}: {state}"),
            predecessor and predecessor._health,
        )
        self._last = Remembered(topic)
        self._failures = 0
        self._began = 0.0
        self._abandoned = False
        self._not_before = 0.0
        self._left_alone = 0.0
        self._loop: LoopingCall | None = None
        self._resting: IDelayedCall | None = None
        self._in_phase = False
        self._slot = around.slots.next()
        self._polling: Deferred[Outcome] | None = None
        self._recording = False
        self._turn = DeferredLock()
        self._waiting: list[Deferred[None]] = []
        if predecessor is not None:
            self._follow(predecessor)

    def _follow(self, before: Poller) -> None:
        """
        Go on where another stops. Its validators and the mark of its last
        answer are not taken over: they stand for what was asked then.
        """
        # What it is recording comes first: changes are told from what is there then.
        self._turn = before._turn
        self._spread()
        if (self._url, self._headers) == (before._url, before._headers):
            self._left_alone = before._left_alone
            self._not_before = max(self._not_before, self._left_alone)

    def _spread(self) -> None:
        """Begin some time, if there is something to read until then."""
        if self.topic.document is not None:
            spread = min(self._source.every, LATEST) * self._around.chance()
            begin = self._around.clock.seconds() + spread
            self._not_before = max(self._not_before, begin)

    # What the hub tells.

    def watched(self) -> None:
        """See :meth:`ISource.watched`."""
        if self.topic.ended:
            return
        self._in_phase = False
        self._health.watched()
        self._rest(self._not_before - self._around.clock.seconds())

    def unwatched(self) -> None:
        """See :meth:`ISource.unwatched`."""
        self._health.unwatched()
        self._stop()
        # What is being recorded is recorded: the next watcher starts from there.
        if self._polling is not None and not self._recording:
            if self._abandoned or self.topic.document is not None:
                # Who comes and goes must not make us ask a slow upstream each time.
                self._not_before = max(self._not_before, self._began + self._source.every)
            self._abandoned = True
            self._polling.cancel()

    def refresh(self) -> Deferred[None]:
        """See :meth:`ISource.refresh`."""
        if self._polling is None and self._around.clock.seconds() < self._not_before:
            return succeed(None)
        return self._poll()

    def forgotten(self) -> None:
        """See :meth:`ISource.forgotten`."""
        self._on_forgotten()

    # What nodes that share a history tell each other.

    def heard(self, report: Report, *, is_last: bool = False) -> None:
        """
        What another node says, which polls the source, or did.

        :param is_last: it no longer does. Many more may end with it, and those who
            take over need not all begin at once.
        """
        self._not_before = max(self._not_before, self._around.clock.seconds() + report.rest)
        if is_last:
            self._spread()
        if report.state == "ok":
            self._failures = 0
        self._health.heard(report.state, report.reason)

    def unrecorded(self) -> None:
        """
        The history does not hold the document any more: another node has forgotten it.
        The next answer is recorded, whether it is another or not, for those who come to it.
        """
        self._last.unrecorded()

    def report(self) -> Report:
        """What this node says."""
        until = self._not_before
        if self._polling is not None:
            until = max(until, self._began + self._source.every)
        rest = max(0.0, until - self._around.clock.seconds())
        return Report(*self.topic.health, rest)

    # When to poll.

    def _rest(self, seconds: float) -> None:
        """Go on polling after a pause, at once if it is none."""
        self._stop()
        until = self._around.clock.seconds() + max(0.0, seconds)
        if seconds > 0:
            self._resting = self._around.clock.callLater(seconds, self._start, until)
        else:
            self._start(until)

    def _start(self, due: float) -> None:
        """
        Begin the loop.

        :param due: when that should have been; a busy reactor calls late, and all whom it
            called at once would stay together if their loops began now.
        """
        self._resting = None
        self._loop = loop = LoopingCall(self._tick)
        loop.clock = self._around.clock
        loop.start(self._source.every).addErrback(
            lambda failure: self.log.failure(
                "poller of {topic!r} broke", failure, topic=self.topic.name
            )
        )
        loop.starttime = due

    def _stop(self) -> None:
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        if self._loop is not None:
            loop, self._loop = self._loop, None
            if loop.running:
                loop.stop()

    def _tick(self) -> Deferred[None]:
        """One round of the loop, which does not begin another before this one is over."""
        return self._poll().addCallback(self._ticked, self._loop)

    def _ticked(self, _: None, loop: LoopingCall | None) -> None:
        if loop is None or self._loop is not loop or self.topic.ended:
            return
        now = self._around.clock.seconds()
        wait = self._not_before - now
        if not self._in_phase:
            self._in_phase = True
            earliest = max(now, self._not_before)
            self._rest(pace.phase(self._source.every, self._slot, earliest) - now)
        elif self._asked_to_rest and wait > self._until_next_tick(loop):
            self._rest(wait)

    @property
    def _asked_to_rest(self) -> bool:
        """Whether more than the interval has to pass; a tick that was late asks for nothing."""
        return self._not_before > self._began + self._source.every

    def _until_next_tick(self, loop: LoopingCall) -> float:
        """The loop keeps to its grid, however long a poll took."""
        every, begun = self._source.every, loop.starttime or 0.0
        return every - (self._around.clock.seconds() - begun) % every

    # One poll.

    def _poll(self) -> Deferred[None]:
        """Fires when a poll is over: the one under way, or a new one. Never fails."""
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        if self._polling is None:
            self._polling = Deferred.fromCoroutine(self._exchange())
            self._polling.addErrback(_cancelled)
            self._polling.addCallback(self._polled)
        return waiting

    def _polled(self, outcome: Outcome) -> None:
        self._polling = None
        if outcome == "overtaken":
            self.overtaken()
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(None)

    async def _exchange(self) -> Outcome:
        self._began = self._around.clock.seconds()
        outcome: Outcome = "failed"
        try:
            answer = await self._fetch()
            outcome = await self._take(answer)
        except SourceError as error:
            self._failed(error.reason, error.retry_after)
            if isinstance(error, _GoneError):
                outcome = "gone"
                self._stop()
                self._around.hub.end(self.topic)
        except OvertakenError:
            # The source may be well: of that, the other one tells.
            outcome = "overtaken"
            self._not_before = max(self._not_before, self._began + self._source.every)
        except HistoryError as error:
            self._failed(f"The answer could not be recorded: {error}", None)
        except CancelledError:
            outcome = "cancelled"
            raise
        except Exception:
            self.log.failure("polling {topic!r} failed", topic=self.topic.name)
            self._failed("pushd could not read the answer; its log says why.", None)
        else:
            self._succeeded(answer)
        finally:
            self._around.metrics.polled(self._source.topic, outcome)
        self._abandoned = False
        return outcome

    def _fetch(self) -> Deferred[Answer]:
        source = self._source
        headers = {**self._headers, **self._last.conditions}
        return self._fetcher.fetch(
            self._url, headers, timeout=source.timeout, max_bytes=source.max_bytes
        )

    async def _take(self, answer: Answer) -> Outcome:
        """
        :raises SourceError: the answer is of no use.
        :raises HistoryError: it could not be recorded.
        """
        if answer.status == HTTPStatus.NOT_MODIFIED and self._last.conditions:
            return "not modified"
        if answer.status == HTTPStatus.GONE:
            raise _GoneError("The source answered 410 Gone: nothing more will come.")
        if answer.status not in (HTTPStatus.OK, HTTPStatus.NON_AUTHORITATIVE_INFORMATION):
            raise SourceError(
                f"The source answered {_phrase(answer.status)}.",
                pace.retry_after(answer.header("Retry-After"), self._around.now()),
            )
        return await self._record(answer)

    async def _record(self, answer: Answer) -> Outcome:
        answered = self._around.clock.seconds()
        content_type = answer.header("Content-Type")
        await self._turn.acquire()
        try:
            last, seq = self._last, self.topic.seq
            digest = await self._around.worker.digest(
                last.document, last.mark, answer.body, content_type, self._rules
            )
            if digest.document is not None:
                self._recording = True
                events = await self._around.hub.publish(
                    Draft(self.topic.key, digest.payloads, digest.document, answered, seq)
                )
                seq = events[-1].seq
        finally:
            self._recording = False
            self._turn.release()
        last.took(answer, digest.mark, seq)
        return "same" if digest.document is None else "changed"

    # What came of it.

    def _succeeded(self, answer: Answer) -> None:
        now = self._around.clock.seconds()
        fresh = pace.fresh_for(answer.header("Cache-Control"), answer.header("Age"))
        self._failures = 0
        self._not_before = max(self._began + self._source.every, now + fresh)
        self._health.answered(max(0.0, fresh - self._source.every))

    def _failed(self, reason: str, retry_after: float | None) -> None:
        self._failures += 1
        wait = pace.back_off(
            self._source.every, self._failures, self._source.max_backoff, self._around.chance()
        )
        now = self._around.clock.seconds()
        self._left_alone = now + (retry_after or 0.0)
        self._not_before = max(now + wait, self._left_alone)
        self._health.failed(reason)


def _cancelled(failure: Failure) -> Outcome:
    failure.trap(CancelledError)
    return "cancelled"


def _phrase(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)

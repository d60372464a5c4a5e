"""
A source that several nodes could poll, and one does: the one with its lease.

Every node whose readers watch the topic wants the lease. The one that has it
polls; the others are told of the changes by the history, and of the source's
health by the lease. Nothing here polls, or knows where leases are kept.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from pushd.interfaces import IHub, ILeaseholder, ILeases, IListener, ISource, Report
from pushd.sources.poll import Poller
from pushd.wire import Frame


@implementer(ISource, ILeaseholder, IListener)
class Leased:
    """
    :param poller: what polls while the lease is here.
    :param patience: seconds for which a refresh waits for what another node may
        be about to learn.
    """

    def __init__(
        self, poller: Poller, leases: ILeases, hub: IHub, clock: IReactorTime, patience: float
    ) -> None:
        self.poller = poller
        self._topic = poller.topic
        self._leases = leases
        self._hub = hub
        self._clock = clock
        self._patience = patience
        self._watched = False
        self._polling = False
        self._since: int | None = None
        self._missed = 0
        self._is_elsewhere = False
        self._had_to_wait = False
        self._waiting: list[Deferred[None]] = []
        self._enough: IDelayedCall | None = None
        poller.overtaken = self._overtaken

    # What the hub tells.

    def watched(self) -> None:
        """See :meth:`ISource.watched`."""
        if self._topic.ended:
            return
        self._watched = True
        self._had_to_wait = False
        self._hub.listen(self._topic, self)
        self._leases.want(self._topic.key, self)

    def unwatched(self) -> None:
        """See :meth:`ISource.unwatched`."""
        if not self._watched:
            return
        self._watched = False
        self._hub.unlisten(self._topic, self)
        self._stop()
        self._leases.unwant(self._topic.key, self)
        self._refreshed()

    def refresh(self) -> Deferred[None]:
        """See :meth:`ISource.refresh`. The topic is watched meanwhile, or about to be."""
        if self._polling:
            return self.poller.refresh()
        if self._topic.ended or self._is_told:
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        if self._enough is None:
            self._enough = self._clock.callLater(self._patience, self._refreshed)
        return waiting

    def forgotten(self) -> None:
        """See :meth:`ISource.forgotten`."""
        self.poller.forgotten()

    # What becomes of the lease.

    def granted(self, seq: int | None, report: Report | None) -> None:
        """See :meth:`ILeaseholder.granted`."""
        self._since = seq or 0
        if seq == 0 and self._topic.document is not None:
            self.poller.unrecorded()
        self._is_elsewhere = False
        if self._had_to_wait:
            self.poller.heard(report or Report(*self._topic.health), is_last=True)
        elif report is not None:
            self.poller.heard(report)
        self._begin()

    def unrecorded(self) -> None:
        """See :meth:`ILeaseholder.unrecorded`. What is missed once may just have been recorded."""
        is_gone = self._topic.document is not None and self._topic.seq == self._missed
        self._missed = self._topic.seq
        if is_gone:
            self.poller.unrecorded()

    def revoked(self) -> None:
        """See :meth:`ILeaseholder.revoked`."""
        self._had_to_wait = True
        self._stop()

    def elsewhere(self, report: Report) -> None:
        """See :meth:`ILeaseholder.elsewhere`."""
        self._is_elsewhere = self._had_to_wait = True
        self.poller.heard(report)
        self.flush()

    def report(self) -> Report:
        """See :meth:`ILeaseholder.report`."""
        return self.poller.report()

    def _begin(self) -> None:
        """Not before this node knows what those who had the lease before have recorded."""
        if self._polling or self._since is None or self._topic.seq < self._since:
            return
        self._polling = True
        self.poller.watched()
        if self._waiting:
            self.poller.refresh().addCallback(lambda _: self._refreshed())

    def _stop(self) -> None:
        self._since = None
        self._is_elsewhere = False
        if self._polling:
            self._polling = False
            self.poller.unwatched()

    def _overtaken(self) -> None:
        if self._watched:
            self._leases.doubt(self._topic.key, self)

    # Who waits for a document.

    @property
    def _is_told(self) -> bool:
        """Whether there is what another node had to say; a document is kept fresh there."""
        topic = self._topic
        return self._is_elsewhere and (topic.document is not None or topic.health[0] != "ok")

    def _refreshed(self) -> None:
        if self._enough is not None and self._enough.active():
            self._enough.cancel()
        self._enough = None
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(None)

    # What happens in the topic.

    def offer(self, frame: Frame) -> None:
        """See :meth:`IListener.offer`."""

    def ended(self) -> None:
        """See :meth:`IListener.ended`."""

    def cut(self) -> None:
        """See :meth:`IListener.cut`."""

    def flush(self) -> None:
        """See :meth:`IListener.flush`: what was waited for may have come."""
        self._begin()
        if self._is_told:
            self._refreshed()

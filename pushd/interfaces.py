"""
The seams of the house: what one part may expect of another without knowing it.

Past tense tells what happened (``committed``, ``watched``), the imperative
asks for something (``append``, ``write``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import msgspec
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from pushd.cursor import Page
from pushd.event import Document, Draft, Event
from pushd.topic import DocumentTopic, MessageTopic, State, Topic
from pushd.wire import Frame

Why: TypeAlias = Literal[
    "client left",
    "connection lost",
    "stalled",
    "topic ended",
    "rerouted",
    "drained",
    "stopped",
    "history failed",
]
"""Why a stream ended, for logs and metrics."""


class IHistoryListener(Interface):
    """Who is told by a history what becomes of the record."""

    def committed(events: Sequence[Event], document: Document | None) -> None:
        """A draft was recorded, here or on another node. Called in the order of the seqs."""

    def unavailable(reason: str) -> None:
        """
        Nothing can be recorded for now.

        :param reason: a sentence for people; no address and no password.
        """

    def available() -> None:
        """Something can be recorded again."""

    def restarted(head: int) -> None:
        """
        The record was lost, and another has begun: the epoch is another one. Or the
        epoch is the same, and of what was recorded some will never be told.

        :param head: the seq of its newest event.
        """


class Kept(msgspec.Struct, frozen=True):
    """
    What a history holds of one topic.

    :ivar events: the newest, oldest first, without a hole.
    :ivar floor: the seq of the last event that is not among them; 0 if there is none.
    :ivar document: what a document topic holds; None if it never had one.
    """

    events: Sequence[Event]
    floor: int
    document: Document | None


class IHistory(Interface):
    """
    The record of what was appended, in one order over all topics.

    Every method may take time, and fails with
    :class:`~pushd.errors.HistoryError` when the record cannot be had.
    """

    epoch: str = Attribute("The life of this record; valid once open.")

    def open(listener: IHistoryListener) -> Deferred[int]:
        """
        Make ready. From now on `listener` is told of every draft recorded
        here or on another node. Gives the seq of the newest event.
        """

    def append(draft: Draft) -> Deferred[tuple[Event, ...]]:
        """
        Record a draft, whole or not at all.

        Fires once the record would survive what the backend promises to
        survive, after the listener was told; with the events as recorded.

        A message takes the place of a document that the topic had when it was
        of the other kind.
        """

    def load(topic: str) -> Deferred[Kept]:
        """
        What is held of a topic, of its events at least those that a log wants.

        It is what is held when this fires: all that the listener was told of the
        topic by then, and nothing that it is yet to be told.
        """

    def forget(topic: str) -> Deferred[None]:
        """Drop all that is held of a document topic that nobody uses any more."""

    def read(topics: Sequence[str], after: int, size: int) -> Deferred[Page]:
        """
        Messages of `topics` past the seq `after`, about `size` bytes of them, at least
        one; none that the listener is yet to be told.
        """

    def close() -> Deferred[None]:
        """Finish what is being recorded."""


class Report(msgspec.Struct, frozen=True):
    """
    What the node that polls a source lets the others know of it.

    :ivar reason: a sentence for the readers if it is not well, else None.
    :ivar rest: seconds for which the source is to be left alone, whoever asks next.
    """

    state: State
    reason: str | None = None
    rest: float = 0.0


class ILeaseholder(Interface):
    """Who wants the lease of a topic, or has it."""

    def granted(seq: int | None, report: Report | None) -> None:
        """
        This node has it.

        :param seq: of the topic's last change, which this node may be yet to be told; 0
            if the history holds no document. None if it was here all the time.
        :param report: what the one said that had it before, if that counts still.
        """

    def unrecorded() -> None:
        """
        This node has it, and the history held no document a moment ago: none was recorded
        yet, or it is gone. Told again and again.
        """

    def revoked() -> None:
        """This node no longer has it, and goes on to want it."""

    def elsewhere(report: Report) -> None:
        """Another node has it, and says this. Told again and again."""

    def report() -> Report:
        """What the others are to know."""


class ILeases(Interface):
    """
    Which node fills which document topic, where several share a history: of
    those that want to, one at a time.
    """

    def want(key: str, holder: ILeaseholder) -> None:
        """
        Have a topic's lease, now or as soon as nobody else has it. If another
        holder gave it up in the same turn of the reactor, it stays here.
        """

    def unwant(key: str, holder: ILeaseholder) -> None:
        """Give it up, at the end of the turn, or no longer wait for it."""

    def doubt(key: str, holder: ILeaseholder) -> None:
        """It seems that another node has it: ask again."""


class ISource(Interface):
    """Where a document topic comes from. Works only while it is watched."""

    def watched() -> None:
        """The topic's first watcher has come."""

    def unwatched() -> None:
        """The topic's last watcher has left."""

    def refresh() -> Deferred[None]:
        """Fires when an answer not older than the source's interval was had, or failed."""

    def forgotten() -> None:
        """The topic is no more."""


class IListener(Interface):
    """Who is told what happens in a topic."""

    def offer(frame: Frame) -> None:
        """Something was recorded, or a status changed. Called in order."""

    def ended() -> None:
        """A topic ended."""

    def cut() -> None:
        """A topic is to be looked for anew: send all readers away, to come back."""

    def flush() -> None:
        """The reactor's turn is over: pass on what was offered in it."""


class ISubscriber(Interface):
    """The client's end of a subscription: a transport."""

    client: str | None = Attribute("What the page calls itself.")
    peer: str = Attribute("The client's address, for the log.")

    def write(data: bytes) -> None:
        """Send bytes. May lead to :meth:`Subscription.pause` before it returns."""

    def finish() -> None:
        """There will be no more: the topic has ended."""

    def cut() -> None:
        """There will be no more from here, but the client should come back."""


class IHub(Interface):
    """What the hub offers to those who fill topics and those who read them."""

    epoch: str = Attribute("The history's.")
    head: int = Attribute("The seq of the newest event recorded.")
    trouble: str | None = Attribute("Why nothing can be recorded for now.")

    topics: dict[str, Topic] = Attribute("By key: those that are watched, and some others.")
    dropped: dict[str, Topic] = Attribute(
        "By key: those that were dropped, and are still listened to, along with others."
    )

    def publish(draft: Draft) -> Deferred[tuple[Event, ...]]:
        """
        Have a draft recorded; cancelling the result does not take it back.

        Fails with :class:`~pushd.errors.HistoryError` if it was not recorded.
        """

    async def document_topic(
        key: str, fill: Callable[[DocumentTopic], ISource], linger: float | None
    ) -> DocumentTopic:
        """
        The document topic with this key. If it has to be made, what the history
        holds of it is in it, and the source that `fill` gives is told when it is
        watched. Once nobody has watched it for `linger` seconds (None: never), it
        is forgotten.
        """

    async def message_topic(key: str) -> MessageTopic:
        """The message topic with this key, with what the history holds of it."""

    async def recorded(key: str) -> bool:
        """Whether anything was ever recorded under this key, as far as the history knows."""

    def tell(topic: Topic, state: State, reason: str | None) -> None:
        """A source's health may have changed."""

    def refill(
        topic: DocumentTopic, fill: Callable[[ISource], ISource], linger: float | None
    ) -> None:
        """
        Let another source take over a topic, which keeps all that it has.

        :param fill: gives the new source for the one before, which then stops.
        :param linger: as for :meth:`document_topic`.
        """

    def end(topic: Topic) -> None:
        """A topic will never have another event."""

    def cut(topic: Topic) -> None:
        """Send the readers of a topic away, to come back and be given what its name is now."""

    def drop(topic: Topic) -> None:
        """
        Forget a topic now, whoever watches it. Its key can be opened anew, and
        then whoever still listens to the old one is cut.
        """

    def release(key: str) -> bool:
        """Forget a topic now that lingers unwatched; whether it did."""

    def watch(topic: Topic) -> None:
        """Somebody watches a topic."""

    def unwatch(topic: Topic) -> None:
        """One of a topic's watchers has left."""

    def watched(topic: Topic) -> bool:
        """Whether anybody watches a topic."""

    def refresh(topic: DocumentTopic) -> Deferred[None]:
        """The :meth:`ISource.refresh` of a topic's source."""

    async def reach(seq: int) -> None:
        """
        Returns when `head` is `seq` at least, or after some time: who comes from
        another node may have been told there what this one is about to hear.
        """

    def listen(topic: Topic, listener: IListener) -> None:
        """Let `listener` hear what happens in a topic."""

    def unlisten(topic: Topic, listener: IListener) -> None:
        """No longer."""

    def read(topics: Sequence[str], after: int, size: int) -> Deferred[Page]:
        """The history's :meth:`IHistory.read`."""

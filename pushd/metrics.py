"""
What the daemon counts and measures, and how Prometheus is told.

Who counts what is the callers' business. Labels take their values from small
sets only: the words of the code, and the templates of the configuration. There
is none for topics, clients or addresses, of which there may be any number.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    disable_created_metrics,
    generate_latest,
)

from pushd.process import Process

Outcome: TypeAlias = Literal[
    "changed", "same", "not modified", "failed", "gone", "cancelled", "overtaken"
]
"""
What came of a poll. An answer was "same" if it was read and held nothing new, and
"not modified" if the source said so itself (304); a poll was "cancelled" if nobody
waited for it any more, and "overtaken" if another node fills the topic now.
"""

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

_DELIVERY = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds. A fan-out to one client takes a fraction of the first; to many thousands, 0.1."""

_LAG = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

# Or every second line would tell when a counter began to count.
disable_created_metrics()


class _Transport:
    """The series of one transport, found once: looking one up takes longer than counting."""

    __slots__ = ("deliveries", "open", "opened", "sent")

    def __init__(self, metrics: Metrics, name: str) -> None:
        self.open = metrics.streams.labels(name)
        self.opened = metrics.streams_opened.labels(name)
        self.deliveries = metrics.deliveries.labels(name)
        self.sent = metrics.sent_bytes.labels(name)


class Metrics:
    """
    All metrics of one daemon.

    Sizes are bytes, times seconds. A time that is negative, because somebody
    set the clock, counts as none.
    """

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        by = ["transport"]
        self.streams = Gauge("pushd_streams", "Open streams.", by, registry=registry)
        self.streams_opened = Counter(
            "pushd_streams_opened", "Streams opened.", by, registry=registry
        )
        self.streams_ended = Counter(
            "pushd_streams_ended",
            "Streams that ended, by why they did.",
            ["transport", "why"],
            registry=registry,
        )
        self.refusals = Counter(
            "pushd_refusals",
            "Requests for which there was no room, by the limit.",
            ["why"],
            registry=registry,
        )
        self.deliveries = Counter(
            "pushd_deliveries", "Events sent, once for each client.", by, registry=registry
        )
        self.sent_bytes = Counter(
            "pushd_sent_bytes", "Bytes of streams, for each client.", by, registry=registry
        )
        self.saved_bytes = Counter(
            "pushd_saved_bytes",
            "Bytes that clients would have fetched besides, had each polled what it was sent.",
            registry=registry,
        )
        self.events = Counter("pushd_events", "Events recorded.", registry=registry)
        self.polls = Counter(
            "pushd_polls",
            "Polls of sources, by what came of them.",
            ["source", "outcome"],
            registry=registry,
        )
        self.topics = Gauge(
            "pushd_topics",
            "Topics of sources, by how the source is doing.",
            ["source", "state"],
            registry=registry,
        )
        self.leases = Gauge(
            "pushd_leases",
            "Topics that this node polls for all nodes with the same history.",
            registry=registry,
        )
        self.reactor_lag = Histogram(
            "pushd_reactor_lag_seconds",
            "How late the reactor calls.",
            buckets=_LAG,
            registry=registry,
        )
        self.delivery = Histogram(
            "pushd_delivery_seconds",
            "From a source's answer or a publisher's request to the last client's socket.",
            buckets=_DELIVERY,
            registry=registry,
        )
        registry.register(Process(time.time()))
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self._transports: dict[str, _Transport] = {}
        self._polls: dict[str, dict[Outcome, Counter]] = {}

    def _transport(self, name: str) -> _Transport:
        found = self._transports.get(name)
        if found is None:
            found = self._transports[name] = _Transport(self, name)
        return found

    # Streams.

    def opened(self, transport: str) -> None:
        """A stream began."""
        series = self._transport(transport)
        series.open.inc()
        series.opened.inc()

    def closed(self, transport: str, why: str) -> None:
        """
        A stream ended.

        :param why: one of a few words, as :data:`pushd.interfaces.Why` has them.
        """
        self._transport(transport).open.dec()
        self.streams_ended.labels(transport, why).inc()

    def refused(self, why: str) -> None:
        """
        There was no room for a client.

        :param why: the limit, as :class:`pushd.errors.BusyError` names it.
        """
        self.refusals.labels(why).inc()

    def delivered(self, transport: str, clients: int, events: int, size: int) -> None:
        """Each of `clients` was sent the same `events`, `size` bytes altogether."""
        series = self._transports.get(transport) or self._transport(transport)
        if events:
            series.deliveries.inc(clients * events)
        if size:
            series.sent.inc(clients * size)

    def saved(self, size: int) -> None:
        """Clients were sent so much less than if each had polled."""
        self.saved_bytes.inc(size)

    # Events and where they come from.

    def recorded(self, events: int) -> None:
        """The history holds so many more."""
        self.events.inc(events)

    def polled(self, source: str, outcome: Outcome) -> None:
        """
        A poll is over.

        :param source: its template of topics.
        """
        self._source(source)[outcome].inc()

    def _source(self, source: str) -> dict[Outcome, Counter]:
        """All its series at once, so that the first failure is seen as a change from 0."""
        found = self._polls.get(source)
        if found is None:
            found = {outcome: self.polls.labels(source, outcome) for outcome in OUTCOMES}
            self._polls[source] = found
        return found

    def sources(self, states: Mapping[str, Mapping[str, int]]) -> None:
        """
        How many topics the sources have in which state. These are the sources
        there are; what was counted of others is dropped, so that reloading the
        configuration again and again leaves nothing behind.

        :param states: by the sources' templates.
        """
        for source in self._polls.keys() - states.keys():
            for outcome in self._polls.pop(source):
                self.polls.remove(source, outcome)
        self.topics.clear()
        for source, counts in states.items():
            self._source(source)
            for state, count in counts.items():
                self.topics.labels(source, state).set(count)

    # Times.

    def lagged(self, seconds: float) -> None:
        """The reactor called so much later than it was asked to."""
        self.reactor_lag.observe(max(0.0, seconds))

    def reached(self, seconds: float) -> None:
        """What was learned so long ago has been written to the last client's socket."""
        self.delivery.observe(max(0.0, seconds))

    def expose(self) -> tuple[bytes, str]:
        """All of it in Prometheus's text format, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

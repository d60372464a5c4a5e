"""
Whether it works: ``GET /healthz``, ``/readyz`` and ``/metrics``.

For machines that look after the daemon, and the people behind them. What is
said is bounded by the configuration, however many topics and clients there
are, and holds nothing of a private topic but that it is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
from twisted.web.iweb import IRequest

from pushd.feed import Feeds
from pushd.interfaces import IHub
from pushd.metrics import Metrics
from pushd.sources.catalogue import Catalogue
from pushd.topic import Topic
from pushd.web import asked

MOST_REASONS = 3
"""How many reasons are told of what ails a source's topics."""

LONGEST_REASON = 200
"""How many characters of each are told; upstreams have a say in them."""

_STATES = ("ok", "stale", "error")


class Monitoring:
    """
    :param draining: whether clients are being sent away, as the daemon ends.
    """

    def __init__(
        self,
        hub: IHub,
        feeds: Feeds,
        catalogue: Catalogue,
        metrics: Metrics,
        draining: Callable[[], bool],
    ) -> None:
        self._hub = hub
        self._feeds = feeds
        self._catalogue = catalogue
        self._metrics = metrics
        self._draining = draining

    def health(self, request: IRequest) -> bytes:
        """``GET /healthz``: the reactor turns. If it did not, nobody would answer."""
        return _answer(request, b"ok\n", "text/plain; charset=utf-8")

    def readiness(self, request: IRequest) -> bytes:
        """
        ``GET /readyz``: whether to send clients here.

        A source that fails does not make this node unready, nor does a history that
        cannot record: they fail for all nodes alike, streams stay open and say so, and
        without any node that is ready the clients would hear nothing at all.
        """
        draining = self._draining()
        opened = bool(self._hub.epoch)
        ready = opened and not draining
        if not ready:
            request.setResponseCode(503)
        told = {
            "ready": ready,
            "history": self._hub.trouble or "open" if opened else "closed",
            "draining": draining,
            "streams": len(self._feeds),
            "sources": {
                source: self._told(topics) for source, topics in self._catalogue.kept().items()
            },
        }
        return _answer(request, msgspec.json.encode(told) + b"\n", asked.JSON)

    def metrics(self, request: IRequest) -> bytes:
        """``GET /metrics``: what Prometheus collects."""
        self._metrics.sources(
            {
                source: {state: counts[state] for state in _STATES}
                for source, topics in self._catalogue.kept().items()
                for counts in [_states(topics)]
            }
        )
        return _answer(request, *self._metrics.expose())

    def _told(self, topics: Sequence[Topic]) -> dict[str, object]:
        """How a source is doing, over all its topics."""
        counts = _states(topics)
        return {
            "topics": len(topics),
            "watched": sum(self._hub.watched(topic) for topic in topics),
            **{state: counts[state] for state in _STATES},
            "reasons": _reasons(topics),
        }


def _states(topics: Sequence[Topic]) -> Counter[str]:
    return Counter(topic.status.state for topic in topics)


def _reasons(topics: Sequence[Topic]) -> list[str]:
    """
    Some of what ails `topics`. What is the matter with a private topic is told
    to those who read it: it may quote a document that is not for others.
    """
    reasons: dict[str, None] = {}
    for topic in topics:
        if topic.status.reason is not None and topic.key == topic.name:
            reasons[topic.status.reason[:LONGEST_REASON]] = None
            if len(reasons) == MOST_REASONS:
                break
    return list(reasons)


def _answer(request: IRequest, body: bytes, content_type: str) -> bytes:
    request.setHeader("Content-Type", content_type)
    request.setHeader("Content-Length", str(len(body)))
    request.setHeader("Cache-Control", "no-store")
    return body

"""How late the reactor is: the time that everything else has to wait for its turn."""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from pushd.metrics import Metrics

INTERVAL = 0.5
"""Seconds between two looks."""


class Lag:
    """Asks again and again to be called, and measures how late the call comes."""

    def __init__(self, clock: IReactorTime, metrics: Metrics) -> None:
        self._clock = clock
        self._metrics = metrics
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        """Begin to measure; nothing is changed if it has begun."""
        if self._call is None:
            self._ask()

    def stop(self) -> None:
        """Measure no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _ask(self) -> None:
        due = self._clock.seconds() + INTERVAL
        self._call = self._clock.callLater(INTERVAL, self._called, due)

    def _called(self, due: float) -> None:
        self._metrics.lagged(self._clock.seconds() - due)
        self._ask()

"""
The audience: who listens to which topic, and is told what happened at the end of a turn.
"""

from __future__ import annotations

import math

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from pushd.interfaces import IListener
from pushd.metrics import Metrics
from pushd.topic import Topic
from pushd.wire import Frame


class Audience:
    """
    Those who listen hear at once what is said, and once a turn that it is time to pass
    it on: what happens in one turn of the reactor is one write to each client.

    :param clock: ends turns.
    :param metrics: learn how long it takes from an answer to the clients.
    """

    def __init__(self, clock: IReactorTime, metrics: Metrics) -> None:
        self._clock = clock
        self._metrics = metrics
        self._listeners: dict[Topic, dict[IListener, None]] = {}
        self._told: dict[IListener, None] = {}
        self._turn: IDelayedCall | None = None
        self._began = math.inf

    def add(self, topic: Topic, listener: IListener) -> None:
        """Let `listener` hear what happens in a topic."""
        self._listeners.setdefault(topic, {})[listener] = None

    def remove(self, topic: Topic, listener: IListener) -> None:
        """No longer."""
        listeners = self._listeners[topic]
        del listeners[listener]
        if not listeners:
            del self._listeners[topic]

    def of(self, topic: Topic) -> tuple[IListener, ...]:
        """Who listens to a topic."""
        return tuple(self._listeners.get(topic, ()))

    def topics(self) -> tuple[Topic, ...]:
        """What is listened to."""
        return tuple(self._listeners)

    def offer(self, topic: Topic, frame: Frame) -> None:
        """Something was said."""
        for listener in self._listeners.get(topic, ()):
            listener.offer(frame)
            self._told[listener] = None
        if self._told and self._turn is None:
            self._turn = self._clock.callLater(0, self._end_turn)

    def began(self, at: float) -> None:
        """What is said in this turn, if anything is, was learned at `at`, by the clock."""
        if self._turn is not None:
            self._began = min(self._began, at)

    def _end_turn(self) -> None:
        self._turn = None
        told, self._told = self._told, {}
        began, self._began = self._began, math.inf
        for listener in told:
            listener.flush()
        if told and began < math.inf:
            # What was written goes out before the next turn.
            self._clock.callLater(0, self._reached, began)

    def _reached(self, began: float) -> None:
        self._metrics.reached(self._clock.seconds() - began)

"""
The watch over sources that are polled whether anybody reads them or not.

To the hub this is one more watcher. Which sources these are is the catalogue's
to say, and may be another after each reload.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from pushd.interfaces import IHub
from pushd.sources.catalogue import Catalogue
from pushd.topic import Topic


class Always:
    """
    :param chance: a random number from [0, 1).
    """

    def __init__(
        self, hub: IHub, catalogue: Catalogue, clock: IReactorTime, chance: Callable[[], float]
    ) -> None:
        self._hub = hub
        self._catalogue = catalogue
        self._clock = clock
        self._chance = chance
        self._calls: dict[Topic, IDelayedCall] = {}
        self._stopped = False

    async def follow(self) -> None:
        """Watch what is to be watched from now on, and nothing else."""
        wanted = dict(await self._catalogue.always())
        if self._stopped:
            return
        for topic in [topic for topic in self._calls if topic not in wanted]:
            self._leave(topic)
        for topic, source in wanted.items():
            if topic not in self._calls:
                # Nobody waits for these: they need not all begin at once.
                wait = source.every * self._chance()
                self._calls[topic] = self._clock.callLater(wait, self._watch, topic)

    def stop(self) -> None:
        """Begin with no more of them; those that are watched end with the hub."""
        self._stopped = True
        for call in self._calls.values():
            if call.active():
                call.cancel()

    def _watch(self, topic: Topic) -> None:
        if self._hub.topics.get(topic.key) is topic:
            self._hub.watch(topic)
        else:
            # It was dropped meanwhile; what has its name now is yet to be followed.
            del self._calls[topic]

    def _leave(self, topic: Topic) -> None:
        call = self._calls.pop(topic)
        if call.active():
            call.cancel()
        else:
            self._hub.unwatch(topic)

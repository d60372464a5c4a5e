"""
What was asked, what was acknowledged, and what each reader was told.

The promise: a message that was acknowledged is told to every reader of its topic once,
under the id of its acknowledgement, in the order of the ids. One that was asked for and
not acknowledged may have happened or not: it is told to all or to none. No network here.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, TypeAlias

from soak.tally import Tally

MUST_BE_ZERO = (
    "lost",
    "doubled",
    "out of order",
    "told to some only",
    "ids with two contents",
    "acknowledged out of order",
    "gaps told",
    "documents that are wrong",
    "documents that are not the newest",
    "no resumption by a patch",
    "answers that are wrong",
    "requests without an answer",
    "restarts that went wrong",
    "tracebacks in the log",
)

Place: TypeAlias = int
"""Where an id stands in the order of all; see :meth:`Ledger.place`."""

Heard: TypeAlias = Literal["an acknowledgement", "a message"]

LIFE = 10**15
"""More than there are ids in one epoch. What is in a later one comes behind all before."""

EXAMPLES = 3
"""How many of the messages that somebody missed are named."""


class Message(NamedTuple):
    """
    :ivar by: which publisher; its numbers are consecutive.
    """

    topic: str
    by: int
    number: int

    @property
    def content(self) -> dict[str, int]:
        return {"by": self.by, "number": self.number}

    def __str__(self) -> str:
        return f"publisher {self.by}'s {self.number} to {self.topic}"

    @classmethod
    def of(cls, topic: str, content: Any) -> Message:
        return cls(topic, content["by"], content["number"])


class Acknowledged(NamedTuple):
    id: str
    at: float


class Ledger:
    """
    :ivar acknowledged: those messages that were.
    :ivar recorded: which message stands at each place that anybody was told of.
    :ivar changes: and which change of the document.
    :ivar kills: when a process was killed; seconds, as all times here.
    :ivar heard: called with what somebody hears of, before anything else is done.
    """

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.acknowledged: dict[Place, Acknowledged] = {}
        self.recorded: dict[Place, Message] = {}
        self.changes: dict[Place, Any] = {}
        self.kills: list[float] = []
        self.heard: Callable[[Heard], object] = lambda _: None
        self._places: dict[str, Place] = {}
        self._epochs: list[str] = []
        self._newest: dict[int, Place] = {}

    def place(self, id: str) -> Place:
        """Of all ids that mean the same, whatever they say besides of documents."""
        place = self._places.get(id)
        if place is None:
            epoch, _, rest = id.partition("-")
            if epoch not in self._epochs:
                self._epochs.append(epoch)
            seq = int(rest.partition(".")[0].rstrip("w"))
            place = self._places[id] = self._epochs.index(epoch) * LIFE + seq
        return place

    def acknowledge(self, message: Message, id: str, at: float) -> None:
        self.heard("an acknowledgement")
        place = self.place(id)
        self.record(place, message, id)
        self.acknowledged[place] = Acknowledged(id, at)
        before = self._newest.get(message.by, -1)
        if place <= before:
            known = self.acknowledged[before]
            note = f"{message} got {id}, and the one before {known.id}"
            self.tally.wrong("acknowledged out of order", note)
        self._newest[message.by] = place
        self.tally.count("acknowledged")

    def record(self, place: Place, message: Message, id: str) -> None:
        """Somebody was told that this is there."""
        known = self.recorded.setdefault(place, message)
        if known != message:
            self.tally.wrong("ids with two contents", f"{id} is {known} and {message}")

    def change(self, patch: Any, id: str) -> None:
        """A reader was told that the document changed."""
        place = self.place(id)
        known = self.recorded.get(place) or self.changes.setdefault(place, patch)
        if known != patch:
            self.tally.wrong("ids with two contents", f"{id} is {known} and {patch}")

    # What is said of it in the end.

    def judge(self, readers: Iterable[Seen]) -> None:
        """All of `readers` have been told all that there is."""
        expected: dict[tuple[str, ...], list[Place]] = {}
        for seen in readers:
            places = expected.get(seen.topics)
            if places is None:
                places = expected[seen.topics] = self.places(seen.topics)
            if seen.places != places:
                self._missed(seen, places)
        self._recorded_twice()

    def places(self, topics: Iterable[str]) -> list[Place]:
        """All that there is of some topics, in order."""
        wanted = set(topics)
        return sorted(place for place, message in self.recorded.items() if message.topic in wanted)

    def _missed(self, seen: Seen, expected: list[Place]) -> None:
        missed = sorted(set(expected).difference(seen.places))
        lost = [place for place in missed if place in self.acknowledged]
        if lost:
            note = f"{seen.who} never saw {self._examples(lost)}"
            self.tally.wrong("lost", note, len(lost))
        others = [place for place in missed if place not in self.acknowledged]
        if others:
            note = f"others saw what {seen.who} did not: {self._examples(others)}"
            self.tally.wrong("told to some only", note, len(others))

    def _recorded_twice(self) -> None:
        """A message was sent once: under two ids, it is told twice."""
        for message, times in Counter(self.recorded.values()).items():
            if times > 1:
                self.tally.wrong("doubled", f"{message} is there {times} times", times - 1)

    def _examples(self, places: list[Place]) -> str:
        named = [f"{self.recorded[place]} {self.history(place)}" for place in places[:EXAMPLES]]
        more = len(places) - len(named)
        return "; ".join(named) + (f"; and {more:,} more" if more else "")

    def history(self, place: Place) -> str:
        """How a message was acknowledged, in words."""
        known = self.acknowledged.get(place)
        if known is None:
            return "(never acknowledged)"
        return f"(acknowledged as {known.id}, {self._moment(known.at)})"

    def _moment(self, at: float) -> str:
        """Between which kills; there is at least one."""
        n = bisect.bisect(self.kills, at)
        moments = []
        if n > 0:
            moments.append(f"{at - self.kills[n - 1]:.3f} s after kill {n}")
        if n < len(self.kills):
            moments.append(f"{self.kills[n] - at:.3f} s before kill {n + 1}")
        return " and ".join(moments)


class Seen:
    """
    What one reader was told of message topics.

    :param who: says which reader, in notes.
    :param topics: those that it reads.
    :ivar places: of what it was told, in that order.
    """

    def __init__(self, who: str, topics: Iterable[str], ledger: Ledger) -> None:
        self.who = who
        self.topics = tuple(topics)
        self.places: list[Place] = []
        self._ledger = ledger

    def take(self, message: Message, id: str) -> None:
        ledger, tally = self._ledger, self._ledger.tally
        ledger.heard("a message")
        place = ledger.place(id)
        ledger.record(place, message, id)
        if self.places and place <= self.places[-1]:
            again = place in self.places
            note = f"{self.who} saw {message} ({id}) {'again ' if again else ''}behind "
            note += str(ledger.recorded[self.places[-1]])
            tally.wrong("doubled" if again else "out of order", note)
            return
        self.places.append(place)
        tally.count("delivered")

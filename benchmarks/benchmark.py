"""What all benchmarks have in common: a name, peers, and one measurement of one of them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from benchmarks.load import Answer
from benchmarks.process import Process, Several

Figures = dict[str, float]
"""What one run of one peer gave, by the name of the measure."""


@dataclass(frozen=True)
class Measure:
    """
    :ivar title: for the table.
    :ivar unit: of its figures.
    :ivar least: what pushd has to have at least; None if it has no lower bound.
    :ivar most: what it may have at most; None if it has no upper bound.
    :ivar times: what part of a peer's it may have at most, by the peer's name.
    """

    title: str
    unit: str
    most: float | None = None
    least: float | None = None
    times: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Scale:
    """How many clients, for how many seconds."""

    clients: int
    seconds: float

    @property
    def warm_up(self) -> float:
        """Seconds for what is done before it is measured, and for looking at nothing."""
        return min(1.0, self.seconds / 4)


class Benchmark:
    """
    :ivar name: what it is called on the command line.
    :ivar peers: who takes part.
    :ivar few: who takes part if there is little time.
    :ivar measures: what it measures.
    """

    name: ClassVar[str]
    peers: ClassVar[tuple[str, ...]]
    few: ClassVar[tuple[str, ...]]
    full: ClassVar[Scale]
    quick: ClassVar[Scale]
    measures: ClassVar[dict[str, Measure]]

    def run(self, peer: str, scale: Scale) -> Figures:
        """One run of one peer."""
        raise NotImplementedError


class Meter:
    """
    The CPU time that a server takes for its work, less what it takes when it has none.

    :param idle: seconds for which to look at it while it has no work.
    """

    def __init__(self, process: Process | Several, idle: float) -> None:
        self._process = process
        before = process.cpu()
        time.sleep(idle)
        self._idle = (process.cpu() - before) / idle
        self._began, self._cpu = time.monotonic(), process.cpu()

    def used(self) -> float:
        """Seconds of CPU time since this was made, for work."""
        seconds = time.monotonic() - self._began
        return self._process.cpu() - self._cpu - self._idle * seconds


def faults(answer: Answer) -> Figures:
    """What must not be, in a generator's answer."""
    cut_off = answer["dropped"] + answer["refused"] + answer["failed"]
    return {
        "lost": answer["lost"],
        "doubled": answer["doubled"],
        # Ten seconds after the last was published.
        "missing": answer["behind"],
        "failed": cut_off,
    }


def share(answer: Answer) -> float:
    """The part of its core that the generator used."""
    return answer["cpu"] / max(answer["seconds"], math.ulp(1))


LOST = Measure("events lost", "", most=0)
DOUBLED = Measure("events doubled", "", most=0)
MISSING = Measure("clients without the last event after 10 s", "", most=0)
FAILED = Measure("connections refused or lost", "", most=0)
FAULTS = {"lost": LOST, "doubled": DOUBLED, "missing": MISSING, "failed": FAILED}
GENERATOR = Measure("load generator's share of its core", "%")

"""What pollers share, where nothing is left to chance and no thread is needed."""

from __future__ import annotations

from house import House

from pushd.metrics import Metrics
from pushd.sources.pace import Slots
from pushd.sources.poll import Surroundings
from pushd.sources.worker import Worker
from pushd.throttle import Throttle


def surroundings(house: House, metrics: Metrics | None = None, slot: float = 0.5) -> Surroundings:
    """
    :param metrics: those of the pollers, if they are not the house's.
    :param slot: where in its interval the first source is polled, from [0, 1).
    """
    return Surroundings(
        house.hub,
        Worker(None),  # type: ignore[arg-type]
        house.clock,
        house.now,
        lambda: 0.5,
        house.metrics if metrics is None else metrics,
        Throttle(house.clock),
        Slots(slot),
    )

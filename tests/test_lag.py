"""The reactor's lag: measured by a clock that the test turns."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from pushd.lag import INTERVAL, Lag
from pushd.metrics import Metrics


class Noted(Metrics):
    def __init__(self) -> None:
        super().__init__()
        self.lags: list[float] = []

    def lagged(self, seconds: float) -> None:
        self.lags.append(round(seconds, 6))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics() -> Noted:
    return Noted()


@pytest.fixture
def lag(clock: Clock, metrics: Noted) -> Lag:
    lag = Lag(clock, metrics)
    lag.start()
    return lag


def test_a_reactor_in_time_does_not_lag(lag: Lag, clock: Clock, metrics: Noted) -> None:
    clock.pump([INTERVAL] * 4)
    assert metrics.lags == [0, 0, 0, 0]


def test_what_held_the_reactor_up_is_measured_once(lag: Lag, clock: Clock, metrics: Noted) -> None:
    clock.pump([INTERVAL, INTERVAL + 0.2, INTERVAL])
    assert metrics.lags == [0, 0.2, 0]


def test_a_long_stop_is_one_measurement_and_not_many(
    lag: Lag, clock: Clock, metrics: Noted
) -> None:
    clock.advance(100 * INTERVAL)
    assert metrics.lags == [99 * INTERVAL]


def test_it_stops_and_leaves_nothing_behind(lag: Lag, clock: Clock, metrics: Noted) -> None:
    lag.stop()
    lag.stop()
    assert clock.getDelayedCalls() == []
    lag.start()
    lag.start()
    assert len(clock.getDelayedCalls()) == 1
    clock.advance(INTERVAL)
    assert metrics.lags == [0]

"""The end of a daemon: each part is ended, whatever the others do, and all of it in time."""

from __future__ import annotations

import re
from typing import Any

import pytest
from house import House
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from pushd.config import Server
from pushd.ending import LEAST_SECONDS, Ending


class Site:
    """
    One whose answers under way take for ever, if nobody says that they are there.

    :ivar grace: seconds for which it is to wait for what has not even been asked.
    """

    def __init__(self) -> None:
        self.answered: Deferred[None] = Deferred()
        self.grace = 0.0

    async def drain(self, clock: IReactorTime, grace: float) -> None:
        self.grace = grace
        await self.answered


class End:
    """Of a daemon with a hub, and with as many clients as are connected."""

    def __init__(self, drain: float = 10.0) -> None:
        self.house = House()
        self.site = Site()
        server = Server(drain=drain, retry=3.0, retry_spread=2.0)
        self.ending = Ending(self.house.clock, server, self.house.feeds, self.site)  # type: ignore[arg-type]

    def connect(self) -> Any:
        return self.house.client(self.house.messages("m")).connect()

    def drain(self) -> list[None]:
        """Begin; what is given has something in it when it is done."""
        return self._done(self.ending.drain())

    def run(self, *parts: Any) -> list[None]:
        """The same, for parts named by their numbers."""
        return self._done(self.ending.run([(str(n), part) for n, part in enumerate(parts)]))

    def _done(self, work: Any) -> list[None]:
        done: list[None] = []
        Deferred.fromCoroutine(work).addBoth(done.append)
        return done


@pytest.fixture
def end() -> End:
    return End()


def fails() -> None:
    raise ValueError("broken")


def fails_later() -> Any:
    failed: Deferred[None] = Deferred()
    failed.errback(ValueError("broken"))
    return failed


def test_parts_are_ended_one_after_the_other(end: End) -> None:
    first: Deferred[None] = Deferred()
    begun: list[int] = []
    done = end.run(lambda: begun.append(1) or first, lambda: begun.append(2))  # type: ignore[func-returns-value]
    assert (begun, done) == ([1], [])
    first.callback(None)
    assert (begun, done) == ([1, 2], [None])
    assert end.house.clock.getDelayedCalls() == []


def test_a_part_that_fails_is_told_and_the_others_are_ended(
    end: End, capture: list[dict[str, Any]]
) -> None:
    ended: list[int] = []
    assert end.run(fails, fails_later, lambda: ended.append(1)) == [None]
    assert ended == [1]
    told = [event for event in capture if "ending: {what} failed" in str(event["log_format"])]
    assert [event["what"] for event in told] == ["0", "1"]


def test_a_part_that_never_ends_has_the_time_for_all_and_those_behind_it_a_little(
    end: End, capture: list[dict[str, Any]]
) -> None:
    clock = end.house.clock
    begun: list[float] = []

    def never() -> Deferred[None]:
        begun.append(clock.seconds())
        return Deferred()

    done = end.run(never, never, never)
    clock.pump([0.25] * 48)
    assert begun == [0, 10, 10 + LEAST_SECONDS]
    assert LEAST_SECONDS > 0 and done == [None], "it has ended all the same"
    assert sum("failed" in str(event["log_format"]) for event in capture) == 3


def test_who_is_answered_is_waited_for_but_not_beyond_the_clients_part_of_the_time(
    end: End,
) -> None:
    done = end.drain()
    end.house.clock.pump([6.9])
    assert done == []
    end.house.clock.advance(0.1)
    assert done == [None], "of ten seconds, three are for what comes after"
    assert end.house.clock.getDelayedCalls() == []


def test_connections_that_a_proxy_keeps_for_later_do_not_keep_the_daemon(end: End) -> None:
    end.drain()
    assert 0 < end.site.grace <= 1


def test_what_is_answered_soon_is_waited_for_no_longer(end: End) -> None:
    done = end.drain()
    end.house.clock.advance(1)
    end.site.answered.callback(None)
    assert done == [None]
    assert end.house.clock.getDelayedCalls() == []


def test_though_there_is_no_time_what_is_answered_has_a_little() -> None:
    end = End(drain=0)
    done = end.drain()
    end.house.clock.advance(LEAST_SECONDS - 0.1)
    assert done == []
    end.house.clock.advance(0.1)
    assert done == [None]


def test_readers_of_streams_are_sent_away_within_the_clients_part_of_the_time() -> None:
    end = End(drain=1.0)
    end.site.answered.callback(None)
    clients = [end.connect() for _ in range(1000)]
    done = end.drain()
    end.house.clock.pump([0.05] * 10)
    assert 0 < sum(client.finished for client in clients) < 1000 and not done
    end.house.clock.pump([0.05] * 5)
    assert all(client.finished for client in clients) and done == [None]
    retries = [int(time) for c in clients for time in re.findall(rb"\nretry: (\d+)\n$", c.buffer)]
    assert len(retries) == 1000 and 3000 <= min(retries) < 3100 and 4900 < max(retries) <= 5000


def test_who_comes_meanwhile_is_sent_away_too(end: End) -> None:
    before = end.connect()
    done = end.drain()
    late = end.connect()
    assert before.finished and not late.finished
    end.house.clock.advance(0.05)
    assert late.finished and end.house.feeds.closed
    assert not done, "an answer is waited for"


@pytest.mark.parametrize("early", [True, False])
def test_who_is_in_a_hurry_waits_for_no_client(end: End, early: bool) -> None:
    clients = [end.connect() for _ in range(1000)]
    if early:
        end.ending.hurry()
    done = end.drain()
    if not early:
        assert not done
        end.ending.hurry()
    assert done == [None]
    assert all(client.finished for client in clients)
    end.ending.hurry()
    assert end.house.clock.getDelayedCalls() == [end.house.hub._lingering["m"]]

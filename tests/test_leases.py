"""Leases in a real Redis: at any time one node at the most counts on one."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis_server import RedisServer
from twisted.internet import reactor as _reactor
from twisted.internet.task import Clock, deferLater
from upstream import until
from zope.interface import implementer
from zope.interface.verify import verifyObject

from pushd.interfaces import ILeaseholder, ILeases, Report
from pushd.leases import AT_ONCE, LONGEST_REASON, Leases
from pushd.metrics import Metrics
from pushd.redis.address import Address
from pushd.redis.client import Redis

reactor: Any = _reactor

GRANTED, REVOKED, ELSEWHERE = "granted", "revoked", "elsewhere"


@implementer(ILeaseholder)
class Holder:
    """Notes what it is told; `say` is what it has to say of its source."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.reports: list[Report | None] = []
        self.seq: int | None = None
        self.missed = 0
        self.say = Report("ok")

    def granted(self, seq: int | None, report: Report | None) -> None:
        self._note(GRANTED, report)
        self.seq = seq

    def unrecorded(self) -> None:
        self.missed += 1

    def revoked(self) -> None:
        self._note(REVOKED, None)

    def elsewhere(self, report: Report) -> None:
        self._note(ELSEWHERE, report)

    def report(self) -> Report:
        return self.say

    def _note(self, what: str, report: Report | None) -> None:
        if self.told[-1:] != [what]:
            self.told.append(what)
        self.reports.append(report)

    @property
    def has_it(self) -> bool:
        return self.told[-1:] == [GRANTED]


class Node:
    """One process of several: its own connection, its own clock."""

    def __init__(self, server: RedisServer, name: str, user: str = "") -> None:
        self.server = server
        self.name = name
        self.clock = Clock()
        self.metrics = Metrics()
        address = Address.parse(server.url.replace("//", f"//{user}"))
        endpoint = address.endpoint(reactor, 2.0, None)
        self.redis = Redis(reactor, address, endpoint, "test", 2.0)
        self.leases = Leases(self.redis, name, 3.0, self.clock, self.metrics)

    async def begin(self) -> None:
        self.redis.start()
        self.leases.start()
        await until(lambda: self.redis.connected)

    async def end(self) -> None:
        await self.leases.close()
        await self.redis.stop()
        assert self.clock.getDelayedCalls() == []

    async def want(self, key: str = "t") -> Holder:
        """A holder, once it knows who has the lease."""
        holder = Holder()
        self.leases.want(key, holder)
        await self.turn()
        await until(lambda: holder.told)
        return holder

    async def unwant(self, holder: Holder, key: str = "t") -> None:
        self.leases.unwant(key, holder)
        await self.turn()

    async def turn(self) -> None:
        """Let the turn of the reactor end, and all that was asked be answered."""
        self.clock.advance(0)
        await self.settle()

    async def wait(self, seconds: float) -> None:
        for _ in range(round(seconds * 4)):
            self.clock.advance(0.25)
            await self.settle()

    async def settle(self) -> None:
        """A script that Redis does not know is sent twice."""
        for _ in range(2):
            await self.redis.call("PING")

    @property
    def count(self) -> int:
        lines = self.metrics.expose()[0].decode().splitlines()
        return int(float(next(line for line in lines if line.startswith("pushd_leases "))[13:]))


class Nodes:
    """Two nodes, and the Redis that they share."""

    def __init__(self, server: RedisServer, user: str) -> None:
        self.server = server
        self.a = Node(server, "aaaa", user)
        self.b = Node(server, "bbbb", user)

    def lease(self, key: str = "t") -> str | None:
        found = self.server.ask("EXISTS", f"{{test}}:lease:{key}")
        if not found:
            return None
        value: bytes = self.server.ask("GET", f"{{test}}:lease:{key}")
        return value.decode()

    def expire(self, key: str = "t") -> None:
        """As if its time were over."""
        self.server.ask("DEL", f"{{test}}:lease:{key}")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


@asynccontextmanager
async def nodes(server: RedisServer, user: str = "") -> AsyncIterator[Nodes]:
    both = Nodes(server, user)
    async with AsyncExitStack() as stack:
        for node in (both.a, both.b):
            await node.begin()
            stack.push_async_callback(node.end)
        yield both


def test_they_are_what_they_say(server: RedisServer) -> None:
    verifyObject(ILeases, Node(server, "a").leases)
    verifyObject(ILeaseholder, Holder())


async def test_of_two_that_want_it_one_has_it(server: RedisServer) -> None:
    async with nodes(server) as both:
        a, b = await both.a.want(), await both.b.want()
        assert (a.told, b.told) == ([GRANTED], [ELSEWHERE])
        for _ in range(4):
            await both.a.wait(1)
            await both.b.wait(1)
        assert (a.told, b.told) == ([GRANTED], [ELSEWHERE])
        assert (both.a.count, both.b.count) == (1, 0)
        assert str(both.lease()).startswith("aaaa ")


async def test_redis_forgets_it_if_it_is_not_renewed(server: RedisServer) -> None:
    async with nodes(server) as both:
        await both.a.want()
        assert 2500 < server.ask("PTTL", "{test}:lease:t") <= 3000
        server.ask("PEXPIRE", "{test}:lease:t", 1000)
        await both.a.wait(1)
        assert 2500 < server.ask("PTTL", "{test}:lease:t") <= 3000


async def test_who_gives_it_back_lets_the_other_have_it_within_a_third_of_its_time(
    server: RedisServer,
) -> None:
    async with nodes(server) as both:
        a, b = await both.a.want(), await both.b.want()
        await both.a.unwant(a)
        assert both.lease() is None
        await both.b.wait(1)
        assert b.has_it and both.a.count == 0


async def test_when_its_node_is_gone_the_other_has_it(server: RedisServer) -> None:
    async with nodes(server) as both:
        _, b = await both.a.want(), await both.b.want()
        both.expire()
        await both.b.wait(1)
        assert b.told == [ELSEWHERE, GRANTED]
        assert str(both.lease()).startswith("bbbb ")


async def test_a_node_that_cannot_renew_it_stops_before_another_may_begin(
    server: RedisServer,
) -> None:
    async with nodes(server) as both:
        a = await both.a.want()
        server.halt()
        both.a.clock.pump([0.25] * 10)
        assert a.told == [GRANTED]
        both.a.clock.advance(0.25)
        assert a.told == [GRANTED, REVOKED]
        server.proceed()
        await both.a.wait(2)
        assert a.has_it


async def test_each_is_lost_at_its_own_time(server: RedisServer) -> None:
    async with nodes(server) as both:
        a = await both.a.want()
        await both.a.wait(2.5)
        later = await both.a.want("later")
        server.halt()
        lost = []
        for _ in range(12):
            both.a.clock.advance(0.25)
            lost.append((not a.has_it, not later.has_it))
        # 2.7 seconds from when they were asked for, at 2 and at 2.5.
        assert lost == [(at >= 4.7, at >= 5.2) for at in (2.75 + n / 4 for n in range(12))]
        server.proceed()


async def test_what_is_answered_too_late_does_not_count(server: RedisServer) -> None:
    async with nodes(server) as both:
        a = Holder()
        server.halt()
        both.a.leases.want("t", a)
        both.a.clock.pump([0, 2.75])
        server.proceed()
        await both.a.turn()
        assert a.told == []
        await both.a.wait(1)
        assert a.told == [GRANTED]


async def test_a_node_that_slept_hears_that_it_has_it_no_more(server: RedisServer) -> None:
    async with nodes(server) as both:
        a = await both.a.want()
        both.expire()
        b = await both.b.want()
        assert b.has_it
        both.a.clock.advance(10)
        assert a.told == [GRANTED, REVOKED]
        await both.a.wait(1)
        assert a.told == [GRANTED, REVOKED, ELSEWHERE]


async def test_a_lease_that_was_lost_in_between_begins_anew(server: RedisServer) -> None:
    """Another may have had it and given it back: what it recorded has to be known first."""
    async with nodes(server) as both:
        a = await both.a.want()
        both.expire()
        server.ask("HSET", "{test}:topic:t", "kind", "j", "seq", 7)
        await both.a.wait(1)
        assert [a.told, a.seq] == [[GRANTED, REVOKED, GRANTED], 7]


async def test_who_has_it_is_told_how_far_the_topic_has_come(server: RedisServer) -> None:
    server.ask("HSET", "{test}:topic:t", "kind", "j", "seq", 42)
    server.ask("HSET", "{test}:topic:messages", "seq", 43)
    async with nodes(server) as both:
        assert (await both.a.want()).seq == 42
        assert (await both.a.want("new")).seq == 0
        assert (await both.a.want("messages")).seq == 0


async def test_who_has_it_is_told_when_the_history_holds_no_document_any_more(
    server: RedisServer,
) -> None:
    async with nodes(server) as both:
        a = await both.a.want()
        server.ask("HSET", "{test}:topic:t", "kind", "j", "seq", 7)
        await both.a.wait(3)
        assert a.missed == 0
        server.ask("DEL", "{test}:topic:t")
        await both.a.wait(2)
        assert (a.missed, a.told) == (2, [GRANTED])


async def test_the_others_hear_how_the_source_is_doing(server: RedisServer) -> None:
    async with nodes(server) as both:
        a, b = await both.a.want(), await both.b.want()
        assert b.reports[-1] == Report("ok")
        reason = "Der Upstream ist müde.\n" + "x" * 500
        a.say = Report("error", reason)
        await both.a.wait(1)
        await both.b.wait(1)
        assert b.reports[-1] == Report("error", reason[:LONGEST_REASON])


async def test_what_a_later_pushd_may_say_of_a_source_is_nothing_bad(server: RedisServer) -> None:
    async with nodes(server) as both:
        server.ask("SET", "{test}:lease:t", "cccc 1 purple Why.")
        assert (await both.b.want()).reports == [Report("ok", "Why.")]


async def test_whoever_comes_next_hears_how_long_to_leave_the_source_alone(
    server: RedisServer,
) -> None:
    async with nodes(server) as both:
        a = await both.a.want()
        a.say = Report("error", "Too many requests.", 30.0)
        await both.a.unwant(a)
        b = await both.b.want()
        (report,) = b.reports
        assert report is not None and report.rest == pytest.approx(30, abs=1)
        assert (report.state, report.reason) == ("error", "Too many requests.")


async def test_that_outlives_a_node_that_died(server: RedisServer) -> None:
    async with nodes(server) as both:
        a = await both.a.want()
        a.say = Report("ok", None, 30.0)
        await both.a.wait(1)
        both.expire()
        (report,) = (await both.b.want()).reports
        assert report is not None and report.rest == pytest.approx(30, abs=1)


async def test_of_a_rest_that_is_over_nothing_is_said(server: RedisServer) -> None:
    async with nodes(server) as both:
        a = await both.a.want()
        a.say = Report("ok", None, 0.01)
        await both.a.unwant(a)
        await deferLater(reactor, 0.02)
        assert (await both.b.want()).reports == [None]


async def test_what_is_wanted_again_in_the_same_turn_stays(server: RedisServer) -> None:
    async with nodes(server) as both:
        a, b = await both.a.want(), await both.b.want()
        after = Holder()
        both.a.leases.unwant("t", a)
        both.a.leases.want("t", after)
        assert (after.told, a.seq, after.seq) == ([GRANTED], 0, None), "at once"
        both.a.leases.unwant("t", a)
        await both.a.turn()
        await both.a.wait(1)
        await both.b.wait(1)
        assert (a.told, after.told, b.told) == ([GRANTED], [GRANTED], [ELSEWHERE])
        assert both.a.count == 1


async def test_what_came_when_nobody_wanted_it_any_more_is_given_back(server: RedisServer) -> None:
    async with nodes(server) as both:
        a = Holder()
        both.a.leases.want("t", a)
        both.a.clock.advance(0)
        await both.a.unwant(a)
        await both.a.turn()
        assert (a.told, both.lease(), both.a.count) == ([], None, 0)


async def test_who_wants_it_no_more_hears_nothing_of_it(server: RedisServer) -> None:
    async with nodes(server) as both:
        holders = {both.a: Holder(), both.b: Holder()}
        for node, holder in holders.items():
            node.leases.want("t", holder)
            node.clock.advance(0)
            node.leases.unwant("t", holder)
            await node.settle()
        assert both.lease() and [holder.told for holder in holders.values()] == [[], []]
        for node in holders:
            await node.turn()
        assert both.lease() is None and both.a.count == both.b.count == 0


async def test_who_doubts_it_does_without_until_it_is_there_again(server: RedisServer) -> None:
    async with nodes(server) as both:
        a = await both.a.want()
        both.a.leases.doubt("t", a)
        assert a.told == [GRANTED, REVOKED]
        await both.a.turn()
        assert a.told == [GRANTED, REVOKED, GRANTED]
        both.a.leases.doubt("t", Holder())
        assert a.has_it


async def test_what_was_sent_late_does_not_give_back_what_was_had_since(
    server: RedisServer,
) -> None:
    """A Redis that stood still may read an old connection after a new one."""
    async with nodes(server) as both:
        a = await both.a.want()
        late: list[tuple[Any, ...]] = []
        run = both.a.redis.run
        both.a.redis.run = lambda *words: late.append(words) or run(*words)  # type: ignore[method-assign, func-returns-value]
        await both.a.unwant(a)
        both.a.redis.run = run  # type: ignore[method-assign]
        again = await both.a.want()
        assert again.has_it and both.lease()
        await run(*late[0])
        assert both.lease()


async def test_a_redis_that_forgot_all_gives_it_to_one(server: RedisServer) -> None:
    async with nodes(server) as both:
        a, b = await both.a.want(), await both.b.want()
        server.ask("FLUSHALL")
        await both.b.wait(1)
        assert b.has_it
        await both.a.wait(1)
        assert a.told == [GRANTED, REVOKED, ELSEWHERE]


@pytest.mark.parametrize("restart", [RedisServer.end, lambda server: server.end(9)])
async def test_all_that_is_wanted_is_had_again_when_redis_is_back(
    server: RedisServer, restart: Callable[[RedisServer], None]
) -> None:
    async with nodes(server) as both:
        a = await both.a.want()
        restart(server)
        await until(lambda: not both.a.redis.connected)
        assert a.told == [GRANTED, REVOKED], "another Redis would give it to others at once"
        late = Holder()
        both.a.leases.want("late", late)
        both.a.clock.pump([0.25] * 20)
        assert a.told == [GRANTED, REVOKED]
        server.begin()
        await until(lambda: a.has_it and late.has_it, seconds=5)
        assert both.a.count == 2


async def test_a_redis_that_refuses_is_asked_again(server: RedisServer) -> None:
    async with nodes(server) as both:
        server.ask("CONFIG", "SET", "maxmemory", "1")
        a = Holder()
        both.a.leases.want("t", a)
        await both.a.wait(2)
        assert a.told == []
        server.ask("CONFIG", "SET", "maxmemory", "0")
        await both.a.wait(1)
        assert a.told == [GRANTED]


def scripts(server: RedisServer) -> int:
    """How many have been run."""
    statistics: bytes = server.ask("INFO", "commandstats")
    return int(statistics.split(b"cmdstat_evalsha:calls=")[1].split(b",")[0])


async def test_the_rights_that_the_example_names_are_enough(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "conf" / "pushd.toml").read_text()
    rights = re.findall(r"[~+][^ \n]+", "".join(re.findall(r"^#   [~+].*\n", text, re.MULTILINE)))
    rights = [right.replace("{pushd}", "{test}") for right in rights]
    with RedisServer(tmp_path, "--user", "pushd", "on", ">word", *rights) as server:
        async with nodes(server, "pushd:word@") as both:
            a = await both.a.want()
            a.say = Report("error", "Why.", 30.0)
            await both.a.wait(1)
            await both.a.unwant(a)
            b = await both.b.want()
            assert b.reports[0] is not None
            assert server.ask("ACL", "LOG") == []


async def test_more_than_one_script_should_take_are_had_and_given_back(server: RedisServer) -> None:
    number = 2 * AT_ONCE + 1
    async with nodes(server) as both:
        holders = [Holder() for _ in range(number)]
        for n, holder in enumerate(holders):
            both.a.leases.want(f"t/{n}", holder)
        await both.a.turn()
        assert all(holder.has_it for holder in holders)
        calls = scripts(server)
        await both.a.wait(4)
        assert scripts(server) - calls == 4 * 3, "each second, in three parts"
        assert both.a.count == number == len(server.ask("KEYS", "{test}:lease:*"))
        assert all(holder.told == [GRANTED] for holder in holders)
        for n, holder in enumerate(holders):
            both.a.leases.unwant(f"t/{n}", holder)
        await both.a.turn()
        assert server.ask("KEYS", "*") == [] and both.a.count == 0


async def test_a_node_that_ends_gives_all_back(server: RedisServer) -> None:
    async with nodes(server) as both:
        a, other = await both.a.want(), await both.a.want("other")
        b = await both.b.want()
        both.a.leases.want("in the same turn", Holder())
        await both.a.leases.close()
        assert both.a.clock.getDelayedCalls() == []
        assert both.lease() is both.lease("other") is None
        assert a.told == other.told == [GRANTED, REVOKED], "they stop before another begins"
        both.a.leases.unwant("t", a)
        both.a.leases.want("t", a)
        await both.a.wait(1)
        assert not a.has_it and both.a.count == 0
        await both.b.wait(1)
        assert b.has_it


async def test_nothing_but_the_leases_is_left_behind(server: RedisServer) -> None:
    async with nodes(server) as both:
        a = await both.a.want()
        await both.a.unwant(a)
    assert server.ask("KEYS", "*") == []

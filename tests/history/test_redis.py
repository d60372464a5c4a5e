"""History in Redis: several nodes, and all that can happen to what is between them."""

from __future__ import annotations

import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
from opened import Noting, draft
from redis_proxy import RedisProxy
from redis_server import RedisServer, in_redis
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from upstream import until
from zope.interface import implementer

from pushd.config import History
from pushd.errors import HistoryError
from pushd.event import Document, Draft, Event, Payload
from pushd.history import redis as redis_history
from pushd.history import scripts
from pushd.interfaces import IHistoryListener, Kept

reactor: Any = _reactor


@implementer(IHistoryListener)
class Node(Noting):
    """One of several that share a record, and what it was told."""

    def __init__(
        self, url: str, now: Callable[[], float] = time.time, fenced: bool = False, **keep: Any
    ) -> None:
        super().__init__()
        keeping = History(**{"timeout": 2.0, "prefix": "test", **keep})
        self.history = in_redis(url, keeping, now, fenced=fenced)
        self.told: list[Event] = []
        self.at: dict[int, float] = {}

    def committed(self, events: Sequence[Event], document: Document | None) -> None:
        self.told += events
        self.at[events[-1].seq] = time.perf_counter()

    def restarted(self, head: int) -> None:
        super().restarted(head)
        self.told.clear()

    def append(
        self, topic: str, *data: bytes, document: bytes | None = None
    ) -> Deferred[tuple[Event, ...]]:
        return self.history.append(draft(topic, *data, document=document))

    @property
    def data(self) -> list[bytes]:
        return [event.payload.data for event in self.told]

    async def gone(self) -> None:
        """Wait until it knows that its connections are lost."""
        await until(lambda: not self.history._redis.connected)


@asynccontextmanager
async def nodes(*made: Node) -> AsyncIterator[None]:
    """Open them, and close them in the end."""
    try:
        for node in made:
            await node.history.open(node)
        yield
    finally:
        for node in made:
            await node.history.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


# One record.


async def test_all_nodes_tell_the_same_in_one_order(server: RedisServer) -> None:
    one, other = Node(server.url), Node(server.url)
    async with nodes(one, other):
        assert one.history.epoch == other.history.epoch
        recorded = [
            node.append("a" if n % 3 else "b", b"%d" % n)
            for n in range(50)
            for node in (one, other)
        ]
        seqs = sorted([event.seq for one in recorded for event in await one])
        assert seqs == list(range(1, 101))
        await until(lambda: len(one.told) == len(other.told) == 100)
        assert one.told == other.told
        assert [event.seq for event in one.told] == seqs


async def test_another_node_hears_of_it_at_once(server: RedisServer) -> None:
    one, other = Node(server.url), Node(server.url)
    async with nodes(one, other):
        rounds = []
        for _ in range(3):
            took = []
            for _ in range(200):
                began = time.perf_counter()
                (event,) = await one.append("a", b"x" * 200)
                await until(lambda event=event: event.seq in other.at)
                took.append(other.at[event.seq] - began)
                await deferLater(reactor, 0.001)
            rounds.append(sorted(took)[-2])
        # The machine may have been busy with something else in one round, or two.
        assert min(rounds) < 0.010


async def test_events_are_what_they_were(server: RedisServer) -> None:
    one, other = Node(server.url), Node(server.url)
    payloads = (
        Payload(None, b"{}"),
        Payload("", b"", is_json=False),
        Payload("ü: 1", "ü".encode(), is_json=False),
        Payload("x", b"\x00\r\n 1 2"),
    )
    async with nodes(one, other):
        document = Document(b"d" * 100, is_json=False)
        for topic in ("ünï/code", "private\0digest", "a:b{c}"):
            events = await one.history.append(
                Draft(topic, payloads, Document(b"d" * 100, is_json=False))
            )
            await until(lambda topic=topic: other.told and other.told[-1].topic == topic)
            assert [event.payload for event in events] == list(payloads)
            assert tuple(other.told[-4:]) == events
            kept = await other.history.load(topic)
            assert kept.document == document
            assert list(kept.events)[-1] == events[-1]
            events = await one.history.append(Draft(topic, payloads))
            await until(lambda events=events: other.told[-1] == events[-1])
            page = await other.history.read([topic], events[0].seq - 1, 1000)
            assert tuple(page.events) == events


async def test_a_draft_may_be_of_thousands(server: RedisServer) -> None:
    node = Node(server.url, keep_events=20_000)
    async with nodes(node):
        events = await node.append("a", *(b"%d" % n for n in range(10_000)))
        assert [event.seq for event in events] == list(range(1, 10_001))
        page = await node.history.read(["a"], 0, 10**6)
        assert list(page.events) == list(events)


async def test_prefixes_keep_records_apart(server: RedisServer) -> None:
    one, other = Node(server.url), Node(server.url, prefix="other")
    async with nodes(one, other):
        await one.append("a", b"1")
        assert (await other.history.load("a")).floor == 0
        assert one.history.epoch != other.history.epoch
    assert {key.split(b":")[0] for key in server.ask("KEYS", "*")} == {b"{test}", b"{other}"}


async def test_what_is_loaded_is_what_was_told_however_much_is_written_meanwhile(
    server: RedisServer,
) -> None:
    one, other = Node(server.url), Node(server.url)
    held: list[tuple[list[Event], list[Event], Document | None]] = []

    def loaded(kept: Kept) -> None:
        held.append((list(kept.events), list(other.told), kept.document))

    async with nodes(one, other):
        recorded = []
        loads = []
        for n in range(300):
            recorded.append(one.append("a", b"%03d" % n, document=b"d%03d" % n * 300))
            recorded.append(one.append("b", b"%03d" % n))
            if n % 3 == 0:
                loads.append(other.history.load("a").addCallback(loaded))
                await deferLater(reactor, 0.0005 * (n % 5))
        for one_of_them in recorded + loads:
            await one_of_them
    assert len(held) == 100
    for events, told, document in held:
        of_topic = [event for event in told if event.topic == "a"]
        assert events == of_topic[-len(events) :] if events else not of_topic
        if events:
            assert document is not None
            assert document.data.startswith(b"d" + events[-1].payload.data)


async def test_nothing_is_read_that_was_not_told(server: RedisServer) -> None:
    async with RedisProxy(server.port) as proxy:
        one, other = Node(server.url), Node(proxy.url)
        async with nodes(one, other):
            await one.append("a", b"1")
            await until(lambda: other.told)
            other.history._tail.stop()
            await one.append("a", b"2")
            page = await other.history.read(["a"], 0, 1000)
            assert ([e.seq for e in page.events], page.upto) == ([1], 1)


async def test_what_cannot_be_followed_in_time_is_not_loaded(server: RedisServer) -> None:
    one, other = Node(server.url), Node(server.url, timeout=0.5)
    async with nodes(one, other):
        await one.append("a", b"1")
        other.history._tail.stop()
        await one.append("a", b"2")
        with pytest.raises(HistoryError, match="in time"):
            await other.history.load("a")


async def test_many_messages_are_read_a_page_at_a_time(server: RedisServer) -> None:
    node = Node(server.url)
    async with nodes(node):
        for n in range(40):
            await node.append("ab"[n % 2], b"%03d" % n)
        read: list[int] = []
        upto = 0
        while upto < 40:
            page = await node.history.read(["a", "b"], upto, 20)
            assert len(page.events) in range(1, 8)
            read += [event.seq for event in page.events]
            upto = page.upto
        assert read == list(range(1, 41))


# What is kept.


async def test_what_is_gone_with_its_time_is_told_by_the_floor(server: RedisServer) -> None:
    clock = Clock()
    node = Node(server.url, now=clock.seconds, keep_seconds=0.3)
    async with nodes(node):
        await node.append("a", b"1", b"2")
        await until(lambda: not server.ask("EXISTS", "{test}:events:a"))
        page = await node.history.read(["a"], 0, 1000)
        assert (list(page.events), page.floors) == ([], {"a": 2})
        kept = await node.history.load("a")
        assert (list(kept.events), kept.floor) == ([], 2)
        await node.append("a", b"3")
        page = await node.history.read(["a"], 0, 1000)
        assert ([e.seq for e in page.events], page.floors) == ([3], {"a": 2})
        assert server.ask("HGET", "{test}:topic:a", "bytes") == b"1"
        assert server.ask("PTTL", "{test}:topic:a") == -1


@pytest.mark.parametrize("seconds", [1e-9, 1e17, float("inf")])
async def test_a_time_for_which_all_is_kept_may_be_very_short_or_long(
    server: RedisServer, seconds: float
) -> None:
    node = Node(server.url, keep_seconds=seconds)
    async with nodes(node):
        await node.append("a", b"1")
        await node.append("a", b"2")
        kept = await node.history.load("a")
        assert (len(kept.events), kept.floor) == ((0, 2) if seconds < 1 else (2, 0))
        assert len((await node.history.read(["a"], 0, 1000)).events) == len(kept.events)


async def test_the_log_has_its_bounds(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts, "LOG_EVENTS", 20)
    monkeypatch.setattr(scripts, "LOG_BYTES", 5000)
    node = Node(server.url)
    async with nodes(node):
        for _ in range(30):
            await node.append("a", b"1")
        assert server.ask("XLEN", "{test}:log") == 20
        for _ in range(10):
            await node.append("a", b"1" * 900)
        assert server.ask("XLEN", "{test}:log") == 4
        await node.append("a", b"1" * 9000)
        assert server.ask("XLEN", "{test}:log") == 1
        # With the kind and the lengths, and what an entry costs besides.
        whole = len("j" + "1 9000") + 9000 + 100
        assert int(server.ask("HGET", "{test}:state", "bytes")) == whole


async def test_a_topic_is_loaded_with_no_more_messages_than_a_log_wants(
    server: RedisServer,
) -> None:
    node = Node(server.url)
    async with nodes(node):
        await node.append("many", *(b"%d" % n for n in range(1000)))
        kept = await node.history.load("many")
        assert ([e.seq for e in kept.events], kept.floor) == (list(range(745, 1001)), 744)
        await node.append("large", *[b"x" * 400_000] * 4)
        kept = await node.history.load("large")
        assert ([e.seq for e in kept.events], kept.floor) == ([1003, 1004], 1002)


async def test_a_document_lives_as_long_as_a_node_uses_it(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_history, "DOCUMENT_SECONDS", 1.0)
    one, other = Node(server.url), Node(server.url)
    async with nodes(one, other):
        await one.append("a", b"1", document=b"1")
        await one.append("b", b"1", document=b"1")
        await one.append("messages", b"1")
        for topic in ("b", "messages"):
            await other.history.load(topic)
        await one.history.forget("b")
        await one.append("b", b"1", document=b"1")
        one.history._used.clear()
        await deferLater(reactor, 1.5)
        assert server.ask("EXISTS", "{test}:topic:a") == 0
        assert server.ask("EXISTS", "{test}:topic:b") == 1
        assert server.ask("PTTL", "{test}:topic:messages") == -1
        assert other.history._used == {"b"}


async def test_messages_outlive_the_document_that_had_their_name(server: RedisServer) -> None:
    node = Node(server.url)
    async with nodes(node):
        await node.append("a", b"1", document=b"1")
        assert server.ask("PTTL", "{test}:topic:a") > 0
        await node.append("a", b"2")
        assert server.ask("PTTL", "{test}:topic:a") == -1
        assert (await node.history.load("a")).document is None


# Who fills a topic.


async def test_only_who_has_the_lease_of_a_document_topic_fills_it(server: RedisServer) -> None:
    node = Node(server.url, fenced=True)
    async with nodes(node):
        for holder in (None, "somebody 7", f"{node.history.node}7 7"):
            if holder is not None:
                server.ask("SET", "{test}:lease:a", holder)
            with pytest.raises(HistoryError, match="Another node"):
                await node.append("a", b"1", document=b"1")
        server.ask("SET", "{test}:lease:a", f"{node.history.node} 7")
        (event,) = await node.append("a", b"1", document=b"1")
        assert event.seq == 1
        assert [event.seq for event in await node.append("messages", b"1")] == [2]


async def test_what_another_node_fills_is_not_forgotten(server: RedisServer) -> None:
    one, other = Node(server.url), Node(server.url)
    async with nodes(one, other):
        await one.append("a", b"1", document=b"1")
        server.ask("SET", "{test}:lease:a", f"{one.history.node} 1")
        await other.history.forget("a")
        assert (await one.history.load("a")).document == Document(b"1")
        await one.history.forget("a")
        assert (await one.history.load("a")).document is None


# Redis is another one.


async def test_all_begin_anew_when_redis_was_emptied(server: RedisServer) -> None:
    one, other = Node(server.url), Node(server.url)
    async with nodes(one, other):
        await one.append("a", b"1", b"2")
        before = one.history.epoch
        server.ask("FLUSHALL")
        await until(lambda: one.said and other.said, seconds=3)
        assert one.said == other.said == ["restarted at 0"]
        assert one.history.epoch == other.history.epoch != before
        (event,) = await one.append("a", b"3")
        assert event.seq == 1
        await until(lambda: other.data == [b"3"])


async def test_nothing_is_recorded_for_an_epoch_that_is_over(server: RedisServer) -> None:
    node = Node(server.url)
    async with nodes(node):
        await node.append("a", b"1")
        server.ask("FLUSHALL")
        with pytest.raises(HistoryError, match="another one has begun"):
            await node.append("a", b"2")
        for asked in (node.history.load("a"), node.history.read(["a"], 0, 10)):
            with pytest.raises(HistoryError):
                await asked
        await until(lambda: node.said, seconds=3)
        assert [event.seq for event in await node.append("a", b"3")] == [1]


async def test_a_redis_that_keeps_its_data_is_the_same_one_after_a_restart(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        one, other = Node(server.url), Node(server.url)
        async with nodes(one, other):
            await one.append("a", b"1", b"2")
            await until(lambda: len(other.told) == 2)
            server.end(SIGKILL)
            await one.gone()
            waiting = one.append("a", b"3")
            server.begin()
            assert [event.seq for event in await waiting] == [3]
            await until(lambda: other.data == [b"1", b"2", b"3"], seconds=5)
            assert "restarted" not in "".join(one.said + other.said)


async def test_a_redis_that_fell_back_is_another_one(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        one, other = Node(server.url), Node(server.url)
        async with nodes(one, other):
            await one.append("a", b"1", b"2")
            server.ask("SAVE")
            await one.append("a", b"lost")
            await until(lambda: len(other.told) == 3)
            before = one.history.epoch
            server.end(SIGKILL)
            server.begin()
            await until(lambda: one.history.epoch == other.history.epoch != before, seconds=5)
            await until(lambda: one.said[-1:] == other.said[-1:] == ["restarted at 2"])
            (event,) = await one.append("a", b"3")
            assert event.seq == 3
            page = await other.history.read(["a"], 0, 100)
            assert [e.payload.data for e in page.events][:2] == [b"1", b"2"]


async def test_a_redis_that_fell_back_and_went_on_is_seen_by_who_knows_more(
    tmp_path: Path,
) -> None:
    """Its seqs reach as far as before, but are others' by now."""
    with RedisServer(tmp_path) as server:
        async with RedisProxy(server.port) as proxy:
            one, late = Node(proxy.url), Node(server.url)
            async with nodes(one):
                await one.append("a", b"1")
                server.ask("SAVE")
                await one.append("a", b"2")
                proxy.is_open = False
                proxy.break_off()
                server.end(SIGKILL)
                server.begin()
                async with nodes(late):
                    assert late.history.epoch == one.history.epoch
                    assert [event.seq for event in await late.append("a", b"another")] == [2]
                    await late.append("a", b"3")
                    proxy.is_open = True
                    await until(lambda: any("restarted" in said for said in one.said), seconds=5)
                    await until(lambda: "restarted at 3" in late.said)
                    assert late.history.epoch == one.history.epoch


async def test_a_redis_that_falls_back_to_the_same_state_again_is_another_one_each_time(
    tmp_path: Path,
) -> None:
    """What it knows is an epoch that was over: whoever was away would take its new ids for old."""
    with RedisServer(tmp_path) as server:
        node = Node(server.url)
        async with nodes(node):
            await node.append("a", b"1")
            server.ask("SAVE")
            await node.append("a", b"lost")
            epochs = [node.history.epoch]
            for _ in range(2):
                server.end(SIGKILL)
                server.begin()
                await until(lambda: node.history.epoch != epochs[-1], seconds=5)
                epochs.append(node.history.epoch)
                await node.append("a", b"2")
            assert len({*epochs}) == 3, epochs


async def test_an_epoch_follows_another_also_where_clocks_differ(server: RedisServer) -> None:
    fast, slow = Node(server.url, now=lambda: 2000.0), Node(server.url, now=lambda: 1000.0)
    async with nodes(fast, slow):
        await fast.append("a", b"1")
        for n in range(3):
            server.ask("FLUSHALL")
            for node in (fast, slow):
                await until(lambda node=node, n=n: len(node.said) == n + 1, seconds=3)
            assert fast.history.epoch == slow.history.epoch
    assert fast.said == slow.said == ["restarted at 0"] * 3


async def test_another_redis_behind_the_same_address_is_another_one(
    server: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    with RedisServer(tmp_path / "other") as empty:
        async with RedisProxy(server.port) as proxy:
            one, other = Node(proxy.url), Node(proxy.url)
            async with nodes(one, other):
                await one.append("a", b"1")
                proxy.port = empty.port
                proxy.break_off()
                await until(lambda: one.said == other.said == ["restarted at 0"], seconds=5)
                assert [event.seq for event in await other.append("a", b"2")] == [1]


async def test_what_another_epoch_says_is_not_told_under_the_old_one(server: RedisServer) -> None:
    node = Node(server.url)
    async with nodes(node):
        await node.append("a", b"1")
        server.ask("HSET", "{test}:state", "epoch", "another", "seq", 2)
        words = {"epoch": "another", "nonce": "n", "topic": "a", "at": "1.0", "kind": ""}
        words |= {"document": "", "lengths": "1 1", "payloads": "jx"}
        server.ask("XADD", "{test}:log", "2-0", *(w for pair in words.items() for w in pair))
        await until(lambda: node.said, seconds=3)
        assert (node.said, 2 in node.at) == (["restarted at 2"], False)
        assert node.history.epoch == "another"


async def test_without_its_log_the_record_is_another_one(server: RedisServer) -> None:
    node = Node(server.url)
    async with nodes(node):
        await node.append("a", b"1")
        before = node.history.epoch
        server.ask("DEL", "{test}:log")
        await until(lambda: node.said == ["restarted at 1"], seconds=3)
        assert node.history.epoch != before
    again = Node(server.url)
    server.ask("DEL", "{test}:log")
    async with nodes(again):
        assert again.history._tail.seq == 1


async def test_who_was_away_for_too_long_loads_anew(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts, "LOG_EVENTS", 5)
    async with RedisProxy(server.port) as proxy:
        one, away = Node(server.url), Node(proxy.url)
        async with nodes(one, away):
            await one.append("a", b"0")
            await until(lambda: away.told)
            before = away.history.epoch
            proxy.is_open = False
            proxy.break_off()
            await away.gone()
            for n in range(20):
                await one.append("a", b"%d" % n)
            proxy.is_open = True
            await until(lambda: "restarted at 21" in away.said, seconds=5)
            assert away.history.epoch == before
            kept = await away.history.load("a")
            assert [event.seq for event in kept.events] == list(range(1, 22))
            await away.append("a", b"1")
            assert one.said == []


@pytest.mark.parametrize("answered", ["before", "after"])
async def test_what_was_recorded_while_the_log_could_not_be_followed_is_so(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, answered: str
) -> None:
    """Whether Redis says it before or after the node finds that it has fallen behind."""
    monkeypatch.setattr(scripts, "LOG_EVENTS", 5)
    async with RedisProxy(server.port) as proxy:
        one, behind = Node(server.url), Node(proxy.url)
        async with nodes(one, behind):
            await one.append("a", b"0")
            await until(lambda: behind.told and behind.history._redis.connected)
            proxy.is_open = False
            behind.history._tail_redis.reconnect()
            connection = behind.history._redis._protocol.transport  # type: ignore[union-attr]
            recorded = [behind.append("a", b"1", b"2"), behind.append("d", b"3", document=b"3")]
            if answered == "before":
                appending = behind.history._appending
                await until(lambda: all(one.last is not None for one in appending.values()))
            else:
                connection.pauseProducing()
                await until(lambda: server.ask("HGET", "{test}:state", "seq") == b"4")
            for n in range(20):
                await one.append("a", b"%d" % n)
            assert not any(one.called for one in recorded)
            proxy.is_open = True
            await until(lambda: behind.said == ["restarted at 24"])
            connection.resumeProducing()
            first, second = [await one for one in recorded]
            assert [(e.seq, e.topic, e.payload.data) for e in (*first, *second)] == [
                (2, "a", b"1"),
                (3, "a", b"2"),
                (4, "d", b"3"),
            ]
            kept = await behind.history.load("a")
            assert [*first] == [event for event in kept.events if event.seq in (2, 3)]
            # What comes now is told, as ever.
            await behind.append("a", b"4")
            assert behind.data == [b"4"]


async def test_connections_that_lead_to_two_servers_come_together_again(
    server: RedisServer, tmp_path: Path
) -> None:
    """A failover that only the tail's connection has followed: the old Redis still answers."""
    (tmp_path / "other").mkdir()
    async with RedisProxy(server.port) as proxy:
        node = Node(proxy.url, timeout=1.0)
        async with nodes(node):
            await node.append("a", b"1")
            server.ask("SAVE")
            shutil.copy(tmp_path / "dump.rdb", tmp_path / "other")
            with RedisServer(tmp_path / "other") as other:
                proxy.port = other.port
                node.history._tail_redis.reconnect()
                await until(lambda: node.history._tail_redis.connected)
                with pytest.raises(HistoryError):
                    await node.append("a", b"lost")
                assert [event.seq for event in await node.append("a", b"2")] == [2]
                assert other.ask("HGET", "{test}:state", "seq") == b"2"
                assert node.said == []


async def test_a_redis_that_fell_back_and_went_on_past_its_log_is_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left that would tell; that it is another server has to do."""
    monkeypatch.setattr(scripts, "LOG_EVENTS", 5)
    with RedisServer(tmp_path) as server:
        async with RedisProxy(server.port) as proxy:
            one, late = Node(proxy.url), Node(server.url)
            async with nodes(one):
                await one.append("a", b"1")
                server.ask("SAVE")
                await one.append("a", b"2")
                before = one.history.epoch
                proxy.is_open = False
                proxy.break_off()
                server.end(SIGKILL)
                server.begin()
                async with nodes(late):
                    for n in range(20):
                        await late.append("a", b"%d" % n)
                    proxy.is_open = True
                    await until(lambda: "restarted at 21" in one.said, seconds=5)
                    await until(lambda: "restarted at 21" in late.said)
                    assert late.history.epoch == one.history.epoch != before


# Redis is away.


async def test_it_waits_for_redis_when_it_begins(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    node = Node(server.url, timeout=0.3)
    opening = node.history.open(node)
    with pytest.raises(HistoryError, match="cannot be reached"):
        await node.append("a", b"1")
    with server:
        assert await opening == 0
        assert len(await node.append("a", b"1")) == 1
        assert node.said == []
        await node.history.close()


async def test_it_may_be_closed_while_it_waits(tmp_path: Path) -> None:
    node = Node(RedisServer(tmp_path).url)
    failed: list[object] = []
    node.history.open(node).addErrback(failed.append)
    await node.history.close()
    assert failed


async def test_publishers_wait_and_readers_are_told_while_redis_is_away(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--appendonly", "yes") as server:
        node = Node(server.url, timeout=2.5)
        async with nodes(node):
            await node.append("a", b"1")
            server.end()
            await node.gone()
            waiting = node.append("a", b"2")
            await until(lambda: node.said, seconds=3)
            assert node.said[0] in ("Redis cannot be reached.", "The connection to Redis was lost.")
            server.begin()
            assert [event.seq for event in await waiting] == [2]
            await until(lambda: node.said[-1] == "available", seconds=3)
            assert "restarted" not in "".join(node.said)


async def test_a_short_absence_is_not_worth_telling(server: RedisServer) -> None:
    async with RedisProxy(server.port) as proxy:
        node = Node(proxy.url)
        async with nodes(node):
            proxy.break_off()
            await node.gone()
            await node.append("a", b"1")
            await deferLater(reactor, 1.2)
            assert node.said == []


async def test_publishers_wait_no_longer_than_the_deadline(server: RedisServer) -> None:
    node = Node(server.url, timeout=0.5)
    async with nodes(node):
        await node.append("a", b"1")
        server.halt()
        began = reactor.seconds()
        with pytest.raises(HistoryError):
            await node.append("a", b"2")
        assert 0.4 < reactor.seconds() - began < 2
        await until(lambda: node.said, seconds=3)
        server.proceed()
        await until(lambda: node.said[-1] == "available", seconds=5)
        # What Redis had and did late came through all the same, and once.
        await node.append("a", b"3")
        assert node.data in ([b"1", b"3"], [b"1", b"2", b"3"])


async def test_no_room_is_told_and_cured(server: RedisServer) -> None:
    node = Node(server.url)
    async with nodes(node):
        await node.append("a", b"1")
        server.ask("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(HistoryError, match=r"^Redis is out of memory\.$"):
            await node.append("a", b"2", document=b"2")
        await until(lambda: node.said == ["Redis is out of memory."], seconds=5)
        assert server.ask("HGET", "{test}:state", "seq") == b"1"
        # What is there can be read.
        assert [e.seq for e in (await node.history.read(["a"], 0, 10)).events] == [1]
        assert [e.seq for e in (await node.history.load("a")).events] == [1]
        server.ask("CONFIG", "SET", "maxmemory", "0")
        await until(lambda: node.said[-1] == "available", seconds=5)
        assert [event.seq for event in await node.append("a", b"3")] == [2]


async def test_a_disk_that_is_full_is_told(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        node = Node(server.url)
        async with nodes(node):
            server.ask("CONFIG", "SET", "save", "3600 1")
            server.ask("SET", "changed", "1")
            server.ask("CONFIG", "SET", "rdbcompression", "yes")
            (tmp_path / "dump.rdb").mkdir()
            server.ask("BGSAVE")
            reason = "Redis cannot save its data, and accepts nothing until it can."
            await until(lambda: node.said == [reason], seconds=10)
            with pytest.raises(HistoryError, match="cannot save"):
                await node.append("a", b"1")
            server.ask("CONFIG", "SET", "stop-writes-on-bgsave-error", "no")
            await until(lambda: node.said[-1] == "available", seconds=5)
            server.ask("CONFIG", "SET", "save", "")


LEAST = (
    "~{test}:* +ping +info +select +eval +evalsha +xadd +xlen +xrange +xrevrange +xread +xtrim "
    "+hget +hmget +hset +hdel +hincrby +hexists +get +set +exists +del +pexpire +pttl +persist"
)
"""All that a user of Redis needs for a history and for leases, as conf/pushd.toml says it."""


async def test_a_user_with_the_least_rights_can_do_all(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--user", "pushd", "on", ">word", *LEAST.split(" ")) as server:
        url = f"redis://pushd:word@127.0.0.1:{server.port}/1"
        node = Node(url, keep_events=2)
        async with nodes(node):
            await node.append("a", b"1", b"2", b"3")
            await node.append("d", b"1", document=b"1")
            await node.history.read(["a"], 0, 10)
            await node.history.load("d")
            node.history._touch("d")
            await node.history.forget("d")
            server.ask("FLUSHALL")
            await until(lambda: node.said, seconds=3)
            await node.append("a", b"4")
            assert node.said == ["restarted at 0"]
            assert server.ask("ACL", "LOG") == []


async def test_a_right_that_is_missing_is_told(tmp_path: Path) -> None:
    acl = LEAST.replace(" +xadd", "").split(" ")
    with RedisServer(tmp_path, "--user", "pushd", "on", ">word", *acl) as server:
        node = Node(f"redis://pushd:word@127.0.0.1:{server.port}")
        opening = node.history.open(node)
        problem = "Redis does not allow pushd's user what pushd needs."
        await until(lambda: node.history._problem == problem)
        server.ask("ACL", "SETUSER", "pushd", "+xadd")
        await opening
        await node.history.close()


# A script that another node has shown to Redis needs no EVAL.
@pytest.mark.parametrize("right", sorted({*re.findall(r"\+\w+", LEAST)} - {"+eval"}))
async def test_without_any_one_right_nothing_is_half_done_and_the_reason_is_told(
    tmp_path: Path, right: str
) -> None:
    """Not found out by the first who needs it, which may be in the middle of an append."""
    acl = [word for word in LEAST.split(" ") if word != right]
    with RedisServer(tmp_path, "--user", "pushd", "on", ">word", *acl) as server:
        before, node = (
            Node(f"redis://{user}127.0.0.1:{server.port}/1", timeout=0.5)
            for user in ("", "pushd:word@")
        )
        async with nodes(before):
            await before.append("m", b"1")
            opening = node.history.open(node)
            opening.addErrback(lambda _: None)
            await until(lambda: node.history._problem or node.history._redis._complaint)
            with pytest.raises(HistoryError):
                await node.append("a", b"1", document=b"1")
            assert [event.seq for event in await before.append("m", b"2")] == [2]
            assert before.said == []
        await node.history.close()
        assert not opening.result


@pytest.mark.parametrize("when", ["before", "after"])
async def test_whenever_the_connection_is_cut_nothing_is_lost_doubled_or_half_done(
    server: RedisServer, when: str
) -> None:
    command = 0
    while True:
        async with RedisProxy(server.port) as proxy:
            prefix = secrets.token_hex(4)
            one, other = (Node(url, prefix=prefix, timeout=1.0) for url in (proxy.url, server.url))
            async with nodes(other):
                proxy.cut(command, when)
                recorded, doubtful = await _live(one, other)
                had_cut = proxy.has_cut
            data = other.data
            assert other.said == []
            assert sorted(data) == sorted({*data}), f"doubled at {command}"
            assert {*recorded} <= {*data}, f"lost at {command}"
            assert {*data} <= {*recorded, *doubtful}, f"made up at {command}"
            for pair in zip(data[::2], data[1::2], strict=True):
                assert pair[0][:-1] == pair[1][:-1], f"half done at {command}"
            assert one.told == other.told
        if not had_cut:
            break
        command += 1
    assert command > 15


async def _live(node: Node, other: Node) -> tuple[list[bytes], list[bytes]]:
    """A life of a node: which messages were recorded, and which may have been."""
    recorded: list[bytes] = []
    doubtful: list[bytes] = []
    async with nodes(node):
        for n in range(4):
            pair = b"%da" % n, b"%db" % n
            try:
                await node.append("a", *pair, document=b"x" * 100 if n % 2 else None)
                recorded += pair
            except HistoryError:
                doubtful += pair
            for asked in (node.history.load, lambda topic: node.history.read([topic], 0, 100)):
                with suppress(HistoryError):
                    await asked("a")
        await other.append("a", b"99a", b"99b")
        recorded += [b"99a", b"99b"]
        await until(lambda: node.data[-1:] == [b"99b"], seconds=5)
        assert node.said == []
    return recorded, doubtful


async def test_what_was_recorded_is_so_even_if_redis_could_not_say_it(
    server: RedisServer,
) -> None:
    async with RedisProxy(server.port) as proxy:
        node = Node(proxy.url, timeout=5.0)
        async with nodes(node):
            for n in range(20):
                proxy.cut(0, "after")
                recorded = node.append("a", b"%d" % n)
                await until(lambda: proxy.seen)
                if b"%d" % n in proxy.seen[0]:
                    break
                # It was the tail that was cut off.
                await recorded
                await deferLater(reactor, 0.1)
            began = reactor.seconds()
            assert len(await recorded) == 1
            assert reactor.seconds() - began < 2


async def test_nobody_waits_for_what_is_closed(server: RedisServer) -> None:
    node = Node(server.url)
    await node.history.open(node)
    server.halt()
    waiting = [node.append("a", b"1"), node.history.load("a")]
    closing = node.history.close().addErrback(lambda _: None)
    closing.cancel()
    await closing
    for one in waiting:
        with pytest.raises(HistoryError):
            await one  # type: ignore[misc]


async def test_what_is_being_recorded_is_recorded_before_it_is_closed(server: RedisServer) -> None:
    others = reactor.getDelayedCalls()
    node = Node(server.url)
    await node.history.open(node)
    recorded = node.append("a", b"1")
    await node.history.close()
    assert [event.seq for event in await recorded] == [1]
    following = node.history._tail._following
    assert following is not None and following.called
    left = [call for call in reactor.getDelayedCalls() if call not in others]
    assert not [call for call in left if "pushd" in str(call)]

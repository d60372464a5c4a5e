"""Several nodes with one Redis: each source is polled by one of them, one that has readers."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from line import Line
from noting import Shown, Upstream
from processes import Daemon, Process, pushd, wait_until
from reader import Parser
from redis_server import RedisServer

LEASE = 1.0
EVERY = 0.25


class Reader(Shown):
    """A page that reads the topic from one node, as long as its connection lasts."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self.process = process
        self._parser = Parser()
        self._taken = 0

    def read(self) -> Reader:
        """Take what has come; a document that is not one of the upstream's fails the test."""
        written = self.process.written
        for event in self._parser.feed(written[self._taken :].encode()):
            self.take(event)
        self._taken = len(written)
        return self

    @property
    def number(self) -> int:
        """Of the upstream's answer that the page shows."""
        return self.read().shown

    @property
    def states(self) -> list[str]:
        return [state for _, state in self.read().page.statuses]


class Nodes:
    """Two or more daemons, an upstream and a Redis."""

    def __init__(self, folder: Path, redis: RedisServer, upstream: Upstream) -> None:
        self.folder = folder
        self.redis = redis
        self.upstream = upstream
        self._stack = ExitStack()

    def config(self, name: str, options: str = "", path: str = "", redis: int | None = None) -> str:
        return f"""
        [history]
        backend = "redis"
        url = "redis://127.0.0.1:{redis or self.redis.port}/0"
        lease = {LEASE}
        [server]
        drain = 0.5
        [sources.prices]
        url = "{self.upstream.url}{path}"
        every = {EVERY}
        headers = {{ X-Node = "{name}" }}
        {options}
        """

    def node(
        self, name: str, options: str = "", path: str = "", redis: int | None = None
    ) -> Daemon:
        """:param redis: the port by which it reaches Redis, if that is not Redis's own."""
        folder = self.folder / name
        folder.mkdir()
        return self._stack.enter_context(pushd(folder, self.config(name, options, path, redis)))

    @contextmanager
    def reader(self, node: Daemon, path: str = "/topics/prices") -> Iterator[Reader]:
        with node.stream(self.folder, path) as process:
            yield Reader(process)

    def end(self) -> None:
        self._stack.close()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    with RedisServer(tmp_path) as redis, Upstream() as upstream:
        nodes = Nodes(tmp_path, redis, upstream)
        try:
            yield nodes
        finally:
            nodes.end()


def asks(upstream: Upstream, seconds: float) -> list[str]:
    """Who asks in the time that is to come."""
    since = time.monotonic()
    time.sleep(seconds)
    return upstream.since(since)


def held(node: Daemon) -> int:
    """How many topics a node says that it polls."""
    return metric(node, "pushd_leases")


def polls(node: Daemon, outcome: str) -> int:
    """How many polls a node says had this outcome."""
    return metric(node, f'pushd_polls_total{{outcome="{outcome}",source="prices"}}')


def metric(node: Daemon, name: str) -> int:
    lines = node.curl("/metrics").splitlines()
    return sum(int(float(line.split()[1])) for line in lines if line.startswith(f"{name} "))


def test_one_node_polls_and_the_readers_of_all_see_the_same(nodes: Nodes) -> None:
    a, b = nodes.node("a"), nodes.node("b")
    upstream = nodes.upstream
    with nodes.reader(a) as one:
        wait_until(lambda: one.number >= 1, what="a document")
        with nodes.reader(b) as other:
            wait_until(lambda: other.number >= 8, what="documents")
            assert set(upstream.since(0)) == {"a"}
            assert (held(a), held(b)) == (1, 0)
            wait_until(lambda: one.number >= other.number)
            assert one.read().ids[-5:-1] and set(other.ids[1:]) <= set(one.ids)
            assert upstream.shortest() > 0.8 * EVERY
    wait_until(lambda: held(a) == held(b) == 0, what="the end of polling")
    assert asks(upstream, 3 * EVERY) == []


def test_it_goes_over_to_a_node_that_has_readers_when_those_of_the_other_leave(
    nodes: Nodes,
) -> None:
    a, b = nodes.node("a"), nodes.node("b")
    upstream = nodes.upstream
    with ExitStack() as stack:
        one = stack.enter_context(nodes.reader(a))
        wait_until(lambda: one.number, what="a document")
        with nodes.reader(b) as other:
            wait_until(lambda: other.number >= 3, what="documents")
            assert set(upstream.since(0)) == {"a"}
            stack.close()
            left = time.monotonic()
            wait_until(lambda: upstream.last() == "b", what="b polling")
            # When it asks again, and what is left of the interval.
            assert time.monotonic() - left < LEASE / 3 + EVERY + 0.3
            before = other.number
            wait_until(lambda: other.number > before + 2, what="documents by b")
            assert other.states == []
    assert upstream.shortest() > 0.8 * EVERY
    assert upstream.overlaps() == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_when_the_node_that_polls_is_gone_another_takes_over(nodes: Nodes, how: int) -> None:
    upstream = nodes.upstream
    a, b = nodes.node("a"), nodes.node("b")
    with nodes.reader(a) as one:
        wait_until(lambda: one.number >= 2, what="documents")
        with nodes.reader(b) as other:
            wait_until(lambda: other.number >= 4, what="documents")
            a.process.popen.send_signal(how)
            gone = time.monotonic()
            wait_until(lambda: upstream.last() == "b", seconds=5, what="b polling")
            assert time.monotonic() - gone < 2 * LEASE
            if how == signal.SIGSTOP:
                a.process.popen.send_signal(signal.SIGCONT)
                wait_until(lambda: one.number > 12, what="what b learns")
                assert set(asks(upstream, 2 * LEASE)) == {"b"}
            wait_until(lambda: other.number > 12, what="documents")
            assert other.states == []
            assert one.states == []
    assert upstream.overlaps() == []
    assert upstream.shortest() > 0.8 * EVERY


def test_what_a_node_sent_before_its_lease_ran_out_is_refused_when_it_arrives_after(
    nodes: Nodes,
) -> None:
    """The other one has changed nothing yet: nothing else would tell that a is too late."""
    upstream = nodes.upstream
    with Line(nodes.redis.port) as line:
        a, b = nodes.node("a", redis=line.port), nodes.node("b")
        with nodes.reader(a) as one, ExitStack() as stack:
            wait_until(lambda: one.number, what="a document")
            other = stack.enter_context(nodes.reader(b))
            wait_until(lambda: other.number, what="a document")
            upstream.held = frozenset("ab")
            wait_until(lambda: upstream.under_way("a"), what="a poll of a's")
            (late,) = upstream.under_way("a")
            line.hold()
            upstream.held = frozenset("b")
            wait_until(lambda: upstream.under_way("b"), what="b polling")
            assert late.ended < float("inf")
            line.release()
            wait_until(lambda: polls(a, "overtaken"), what="the refusal")
            upstream.held = frozenset()
            newest = len(upstream.polls)
            wait_until(lambda: one.number > newest and other.number > newest, what="documents")
            assert late.number not in one.numbers + other.numbers
            assert one.states == other.states == []


def test_nodes_that_are_stopped_and_go_on_by_turns_never_write_over_each_other(
    nodes: Nodes,
) -> None:
    """At any moment, also with an answer in their hands; `Reader` is the judge."""
    both = [nodes.node("a"), nodes.node("b")]
    third = nodes.node("c")
    nodes.upstream.takes = EVERY / 2
    with ExitStack() as stack:
        readers = [stack.enter_context(nodes.reader(node)) for node in (*both, third)]
        wait_until(lambda: all(reader.number for reader in readers))
        for turn in range(4):
            node = both[turn % 2]
            node.process.popen.send_signal(signal.SIGSTOP)
            time.sleep(1.5 * LEASE + turn * 0.06)
            node.process.popen.send_signal(signal.SIGCONT)
            time.sleep(0.3)
        newest = len(nodes.upstream.polls)
        wait_until(lambda: all(reader.number > newest for reader in readers), what="all up to date")
        assert all("error" not in reader.states for reader in readers)


def test_a_document_that_a_node_forgets_is_there_for_all_who_come_to_the_others(
    nodes: Nodes,
) -> None:
    """Nobody polls in the moment in which a forgets it, and it does not change."""
    options = 'topic = "prices/{n}"\nlinger = 0.0'
    nodes.upstream.still = True
    a, b, c = (nodes.node(name, options, "{n}") for name in ("a", "b", "c"))
    with ExitStack() as stack:
        one = stack.enter_context(nodes.reader(a, "/topics/prices/1"))
        wait_until(lambda: one.number, what="a document")
        other = stack.enter_context(nodes.reader(b, "/topics/prices/1"))
        wait_until(lambda: other.number, what="a document on the other")
        one.process.end()
        wait_until(lambda: nodes.upstream.since(0)[-2:] == ["b", "b"], what="b polling")
        with nodes.reader(c, "/topics/prices/1") as late:
            wait_until(lambda: late.number, what="a document")


def test_a_node_that_ends_lets_another_go_on_at_once(nodes: Nodes) -> None:
    upstream = nodes.upstream
    a = nodes.node("a", 'when = "always"')
    wait_until(lambda: upstream.last() == "a")
    b = nodes.node("b", 'when = "always"')
    assert set(asks(upstream, 2 * LEASE)) == {"a"}
    assert a.process.end() == 0
    ended = time.monotonic()
    wait_until(lambda: upstream.last() == "b", what="b polling")
    assert time.monotonic() - ended < LEASE
    assert upstream.overlaps() == []
    assert held(b) == 1
    assert "Traceback" not in a.process.written


def test_a_reload_keeps_the_lease(nodes: Nodes) -> None:
    upstream = nodes.upstream
    a, b = nodes.node("a"), nodes.node("b")
    with nodes.reader(a) as one:
        wait_until(lambda: one.number >= 2)
        with nodes.reader(b) as other:
            wait_until(lambda: other.number >= 2)
            for turn in range(3):
                (nodes.folder / "a" / "pushd.toml").write_text(
                    nodes.config(f"a{turn}", "timeout = 9.0")
                )
                a.process.popen.send_signal(signal.SIGHUP)
                wait_until(lambda turn=turn: upstream.last() == f"a{turn}", what="the new header")
            assert "b" not in upstream.since(0)
            wait_until(lambda: other.number == len(upstream.polls), what="documents")


def test_readers_of_all_nodes_hear_how_the_source_is_doing(nodes: Nodes) -> None:
    a, b = nodes.node("a"), nodes.node("b")
    with nodes.reader(a) as one:
        wait_until(lambda: one.number >= 1)
        with nodes.reader(b) as other:
            wait_until(lambda: other.number >= 1)
            nodes.upstream.status = 500
            wait_until(lambda: one.states == other.states == ["error"], what="an error on both")
            nodes.upstream.status = 200
            wait_until(lambda: one.states == other.states == ["error", "ok"], what="ok on both")
            assert set(nodes.upstream.since(0)) == {"a"}


def test_a_source_that_asked_to_be_left_alone_is_left_alone_by_the_next_node(nodes: Nodes) -> None:
    a, b = nodes.node("a"), nodes.node("b")
    nodes.upstream.status, nodes.upstream.headers = 503, {"Retry-After": "4"}
    with nodes.reader(a) as one:
        wait_until(lambda: one.states == ["error"])
        time.sleep(LEASE / 2)
        a.process.popen.kill()
    with nodes.reader(b) as other:
        wait_until(lambda: other.states == ["error"], what="what a heard")
        wait_until(lambda: nodes.upstream.last() == "b", what="b polling")
        assert nodes.upstream.shortest() > 3.5


def test_a_document_is_asked_for_by_whichever_node_and_not_too_often(nodes: Nodes) -> None:
    both = [nodes.node("a"), nodes.node("b")]

    def get(node: Daemon) -> Any:
        return json.loads(node.curl("/topics/prices", "-H", "Accept: application/json"))["n"]

    numbers = [get(both[turn % 2]) for turn in range(20)]
    assert numbers == sorted(numbers)
    assert nodes.upstream.shortest() > 0.8 * EVERY
    time.sleep(EVERY)
    assert get(both[0]) > numbers[-1]
    with nodes.reader(both[0]) as reader:
        wait_until(lambda: reader.number)
        since = time.monotonic()
        assert get(both[1]) >= reader.numbers[-1]
        assert set(nodes.upstream.since(since)) <= {"a"}


@pytest.mark.parametrize("restarted", [False, True])
def test_without_redis_nobody_polls_and_all_goes_on_when_it_is_back(
    nodes: Nodes, restarted: bool
) -> None:
    a, b = nodes.node("a"), nodes.node("b")
    upstream = nodes.upstream
    with ExitStack() as stack:
        one = stack.enter_context(nodes.reader(a))
        other = stack.enter_context(nodes.reader(b))
        wait_until(lambda: one.number >= 2 and other.number >= 2, what="documents")
        if restarted:
            nodes.redis.end(signal.SIGKILL)
        else:
            nodes.redis.halt()
        time.sleep(LEASE)
        assert asks(upstream, LEASE) == []
        wait_until(lambda: one.states[-1:] == other.states[-1:] == ["error"], what="word of it")
        newest = len(upstream.polls)
        if restarted:
            # All that was recorded is lost: who comes back begins anew.
            nodes.redis.begin()
            for reader in (one, other):
                wait_until(lambda reader=reader: reader.process.popen.poll() is not None)
            one = stack.enter_context(nodes.reader(a))
            other = stack.enter_context(nodes.reader(b))
        else:
            nodes.redis.proceed()
        wait_until(lambda: one.number > newest and other.number > newest, what="documents")
        wait_until(lambda: "error" not in one.states[-1:] + other.states[-1:], what="word of it")
        assert sorted([held(a), held(b)]) == [0, 1]
    assert upstream.overlaps() == []
    for node in (a, b):
        assert "Traceback" not in node.process.written


def test_a_document_that_redis_threw_away_for_want_of_memory_is_recorded_again(
    nodes: Nodes,
) -> None:
    """As it may with any "volatile" policy. The document does not change any more."""
    nodes.upstream.still = True
    a, b = nodes.node("a"), nodes.node("b")
    with nodes.reader(a) as one:
        wait_until(lambda: one.number, what="a document")
        keys = "{pushd}:topic:prices", "{pushd}:events:prices"
        assert nodes.redis.ask("DEL", *keys) == len(keys)
        with nodes.reader(b) as other:
            wait_until(lambda: other.number, 2 * LEASE, what="a document at b")

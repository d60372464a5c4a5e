"""
What several pushds with one Redis promise behind one proxy, whose configuration is in ``conf/``.

Each proxy has a module of tests, with a class that inherits :class:`SeveralNodes`.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest
from asking import Client
from noting import Shown, Upstream
from processes import Daemon, pushd, quiet_port, wait_until
from proxied import EVENT_SOURCES, MESSAGES, SEEN, Proxy, chromium
from reader import Parser
from redis_server import RedisServer
from returning import Asking, Conversation, Returning

CONFIG = """
server.drain = 1.0
server.retry = 0.2
server.retry_spread = 0.2
[history]
backend = "redis"
url = "{redis}"
lease = {lease}
{messages}
{source}
"""
LEASE = 1.0
EVERY = 0.25
SOURCE = """
[sources.prices]
url = "{url}"
every = {every}
headers = {{ X-Node = "{name}" }}
"""
AWAY = 0.5
"""Seconds between the end of a node and its start."""

NOTICED = 2.0
"""Seconds in which a proxy finds out that a node is back."""

BACK = 3.0
"""Seconds in which the clients of a node that ended are at the other, all of them."""

A_MOMENT = 0.3
"""Seconds in which what is doubled would still come."""

LAST_IDS = "return sources.map(({ seen }) => seen.ids.at(-1) || '')"


class Node:
    """A pushd on a port of its own, that can be ended and started again."""

    def __init__(self, folder: Path, config: str) -> None:
        self.name = folder.name
        self.port = quiet_port()
        self.daemon: Daemon
        self._folder = folder
        self._config = config
        self._running = ExitStack()
        folder.mkdir()
        self.start()

    def start(self) -> None:
        self.daemon = self._running.enter_context(pushd(self._folder, self._config, self.port))

    def end(self, how: int = signal.SIGTERM) -> None:
        self.daemon.process.end(how)
        self._running.close()
        assert "Traceback" not in self.daemon.process.written, self.daemon.process.written

    def restart(self, how: int = signal.SIGTERM) -> None:
        self.end(how)
        time.sleep(AWAY)
        self.start()

    @property
    def streams(self) -> int:
        """How many it says are open."""
        found = re.findall(r"^pushd_streams{.*} (\S+)$", self.daemon.curl("/metrics"), re.MULTILINE)
        return sum(int(float(number)) for number in found)


@contextmanager
def two_nodes(folder: Path, source: str = "") -> Iterator[tuple[Node, Node]]:
    """
    And a Redis of their own.

    :param source: the URL of one that both poll, as "prices".
    """
    with RedisServer(folder) as redis, ExitStack() as stack:
        nodes = []
        for name in ("one", "other"):
            options = source and SOURCE.format(url=source, every=EVERY, name=name)
            config = CONFIG.format(redis=redis.url, lease=LEASE, messages=MESSAGES, source=options)
            nodes.append(Node(folder / name, config))
            stack.callback(nodes[-1].end)
        one, other = nodes
        yield one, other


class SeveralNodes:
    """Inherited by the tests of each proxy."""

    def proxy(self, folder: Path, backend: int, other: int) -> AbstractContextManager[Proxy]:
        """Run it, with the very file from ``conf/``, in front of two ports."""
        raise NotImplementedError

    def test_streams_are_spread_evenly_and_all_see_what_is_published(self, tmp_path: Path) -> None:
        with (
            two_nodes(tmp_path) as nodes,
            self.proxy(tmp_path, *(node.port for node in nodes)) as proxy,
            ExitStack() as stack,
        ):
            streams = [
                stack.enter_context(proxy.stream(tmp_path, "/topics/news")) for _ in range(10)
            ]
            wait_until(lambda: all("id:" in stream.written for stream in streams))
            counts = [node.streams for node in nodes]
            assert sum(counts) == 10 and min(counts) >= 4, counts
            ids = [Asking(proxy).publish(n) for n in range(4)]
            assert all(ids), ids
            for stream in streams:
                wait_until(lambda stream=stream: stream.written.count("data: ") == len(ids))
                events = Parser().feed(stream.written.encode())
                assert [(event.json, event.id) for event in events] == list(enumerate(ids))

    @pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
    def test_clients_of_a_node_that_ends_go_on_at_the_other_and_miss_nothing(
        self, tmp_path: Path, how: int
    ) -> None:
        with (
            two_nodes(tmp_path) as nodes,
            self.proxy(tmp_path, *(node.port for node in nodes)) as proxy,
            chromium(tmp_path) as driver,
        ):
            driver.get(proxy.url("/nothing"))
            driver.execute_script(EVENT_SOURCES, [["/topics/news", False]] * 8)
            wait_until(
                lambda: all(s["state"] == 1 for s in driver.execute_script(SEEN)), what="streams"
            )
            assert all(0 < node.streams < 8 for node in nodes)
            asking = Asking(proxy)
            with Conversation(asking) as said:
                newcomers = [Client(f"newcomer {n}", asking.stream) for n in range(2)]
                try:
                    for node, kind in zip(nodes, (how, signal.SIGTERM), strict=True):
                        time.sleep(NOTICED)
                        said.breaks()
                        node.restart(kind)
                finally:
                    for newcomer in newcomers:
                        newcomer.end()
                said.hush()
                wait_until(
                    lambda: said.all_told(*driver.execute_script(LAST_IDS)), what="the newest"
                )
                time.sleep(A_MOMENT)
                pages = driver.execute_script(SEEN)
                said.judge(pages)
                assert all(len(reader.first) > 1 for reader in said.readers)
            assert not any(page["closed"] or page["gaps"] for page in pages)
            assert all(page["errors"] for page in pages)
            for newcomer in newcomers:
                assert not newcomer.failures, newcomer.failures
                assert newcomer.answers > 10 and newcomer.longest < 3, newcomer.longest

    def test_documents_go_on_at_the_other_node_and_one_of_them_polls(self, tmp_path: Path) -> None:
        with (
            Upstream() as upstream,
            two_nodes(tmp_path, upstream.url) as nodes,
            self.proxy(tmp_path, *(node.port for node in nodes)) as proxy,
            ExitStack() as stack,
        ):
            asking, pages = Asking(proxy), [Shown() for _ in range(12)]
            readers = [Returning(asking, "/topics/prices", page.take) for page in pages]
            for reader in readers:
                stack.callback(reader.end)

            def all_show_the_newest() -> None:
                newest = len(upstream.polls) + 1
                wait_until(lambda: all(page.shown >= newest for page in pages), what="the newest")

            all_show_the_newest()
            assert all(4 <= node.streams <= 8 for node in nodes)
            for how in (signal.SIGTERM, signal.SIGKILL):
                polling = next(node for node in nodes if node.name == upstream.last())
                (other,) = {*nodes} - {polling}
                polling.end(how)
                wait_until(lambda other=other: other.streams == 12, BACK, what="all streams")
                wait_until(lambda other=other: upstream.last() == other.name, what="its polls")
                polling.start()
                all_show_the_newest()
                time.sleep(NOTICED)
            for reader in readers:
                reader.end()
                assert not reader.failures, reader.failures
            came_back = {name for reader in readers for name in reader.first[1:]}
            assert {"patch"} <= came_back <= {"patch", "snapshot"}, came_back
            assert not any(page.page.statuses for page in pages)
            assert upstream.overlaps() == [], upstream.overlaps()
            assert upstream.shortest() > 0.8 * EVERY

    def test_nodes_are_restarted_one_after_the_other_and_nobody_hears_an_error(
        self, tmp_path: Path
    ) -> None:
        with (
            two_nodes(tmp_path) as nodes,
            self.proxy(tmp_path, *(node.port for node in nodes)) as proxy,
        ):
            asking = Asking(proxy)
            clients = [Client("streams", asking.stream), Client("requests", asking.script)]
            try:
                for node in (*nodes, nodes[0]):
                    time.sleep(NOTICED)
                    node.restart()
                time.sleep(NOTICED)
            finally:
                for client in clients:
                    client.end()
            assert not any(client.failures for client in clients), [c.failures for c in clients]
            assert all(client.answers > 100 for client in clients)

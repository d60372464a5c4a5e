"""
What several pushds promise behind one proxy, whose configuration is in ``conf/``.

Each proxy has a module of tests, with a class that inherits :class:`SeveralNodes`.

Here the nodes have their history in memory: what is to reach everybody is published to
each of them, and who goes from one to another is not resumed. What is looked at is that
everybody ends up where they are served.
"""

from __future__ import annotations

import http.client
import signal
import ssl
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from asking import Client
from processes import Daemon, free_port, pushd, wait_until
from proxied import EVENT_SOURCES, MESSAGES, SEEN, Proxy, chromium, publish

CONFIG = f"""
server.drain = 3.0
server.retry = 0.2
server.retry_spread = 0.2
history.backend = "memory"
{MESSAGES}
"""
NOTICED = 2.0
"""Seconds in which a proxy finds out that a node is back."""


class Node:
    """A pushd on a port of its own, that can be ended and started again."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.daemon: Daemon
        self._folder = folder
        self._running = ExitStack()
        folder.mkdir()
        self.start()

    def start(self) -> None:
        self.daemon = self._running.enter_context(pushd(self._folder, CONFIG, self.port))

    def end(self, how: int = signal.SIGTERM) -> None:
        self.daemon.process.end(how)
        self._running.close()


@contextmanager
def two_nodes(folder: Path) -> Iterator[tuple[Node, Node]]:
    nodes = Node(folder / "one"), Node(folder / "other")
    try:
        yield nodes
    finally:
        for node in nodes:
            node.end()


class Asking:
    """Asks through the proxy, each time on a connection of its own."""

    def __init__(self, proxy: Proxy) -> None:
        self._port = proxy.port
        self._context = ssl.create_default_context(cafile=str(proxy.authority))

    def get(self, path: str, accept: str) -> tuple[int, str, bytes]:
        """Status, type, and the first line of the body."""
        connection = http.client.HTTPSConnection(
            "localhost", self._port, timeout=10, context=self._context
        )
        with closing(connection):
            connection.request("GET", path, headers={"Accept": accept})
            answer = connection.getresponse()
            return answer.status, answer.headers["Content-Type"], answer.readline()

    def stream(self) -> None:
        """Anything else would end an EventSource for good."""
        status, kind, line = self.get("/topics/news", "text/event-stream")
        assert (status, kind.partition(";")[0]) == (200, "text/event-stream"), (status, kind)
        assert line.startswith(b"retry: "), line

    def script(self) -> None:
        status, _, _ = self.get("/static/format.js", "*/*")
        assert status == 200, status


class SeveralNodes:
    """Inherited by the tests of each proxy."""

    def proxy(self, folder: Path, backend: int, other: int) -> AbstractContextManager[Proxy]:
        """Run it, with the very file from ``conf/``, in front of two ports."""
        raise NotImplementedError

    def test_streams_are_spread_evenly(self, tmp_path: Path) -> None:
        with (
            two_nodes(tmp_path) as nodes,
            self.proxy(tmp_path, *(node.port for node in nodes)) as proxy,
            ExitStack() as stack,
        ):
            streams = [
                stack.enter_context(proxy.stream(tmp_path, "/topics/news")) for _ in range(10)
            ]
            wait_until(lambda: all("id:" in stream.written for stream in streams))
            for number, node in enumerate(nodes):
                publish(node.port, "news", f"by {number}")
            wait_until(lambda: all("data: by " in stream.written for stream in streams))
            counts = [sum(f"by {n}" in stream.written for stream in streams) for n in range(2)]
            assert sum(counts) == 10 and min(counts) >= 4, counts

    @pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
    def test_when_a_node_ends_its_clients_go_to_the_other(self, tmp_path: Path, how: int) -> None:
        with (
            two_nodes(tmp_path) as nodes,
            self.proxy(tmp_path, *(node.port for node in nodes)) as proxy,
            chromium(tmp_path) as driver,
        ):

            def all_have(*texts: str) -> bool:
                sources = driver.execute_script(SEEN)
                return all(any(text in s["messages"] for text in texts) for s in sources)

            driver.get(proxy.url("/nothing"))
            driver.execute_script(EVENT_SOURCES, [["/topics/news", False]] * 8)
            wait_until(
                lambda: all(s["state"] == 1 for s in driver.execute_script(SEEN)), what="streams"
            )
            for number, node in enumerate(nodes):
                publish(node.port, "news", f"by {number}")
            wait_until(lambda: all_have("by 0", "by 1"), what="a message before")
            sources = driver.execute_script(SEEN)
            assert 0 < sum("by 0" in source["messages"] for source in sources) < 8
            asking = Asking(proxy)
            newcomers = [Client(f"newcomer {n}", asking.stream) for n in range(2)]
            try:
                time.sleep(0.3)
                nodes[0].end(how)

                def all_there() -> bool:
                    publish(nodes[1].port, "news", "after")
                    return all_have("after")

                wait_until(all_there, 10, what="a message after, to everybody")
            finally:
                for newcomer in newcomers:
                    newcomer.end()
            assert not any(source["closed"] for source in driver.execute_script(SEEN))
            for newcomer in newcomers:
                assert not newcomer.failures
                assert newcomer.answers > 10 and newcomer.longest < 3

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
                for node in (*nodes, *nodes):
                    time.sleep(NOTICED)
                    node.end()
                    time.sleep(0.5)
                    node.start()
                time.sleep(NOTICED)
            finally:
                for client in clients:
                    client.end()
            assert not any(client.failures for client in clients), [c.failures for c in clients]
            assert all(client.answers > 100 for client in clients)

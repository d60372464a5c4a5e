"""Several real processes on one port, that come and go."""

from __future__ import annotations

import http.client
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from asking import Client, hesitant, until_sent_away
from processes import TWISTD, Process, free_port, wait_until

CONFIG = """
server.reuse_port = true
server.drain = 3.0
server.retry = 0.1
server.retry_spread = 0.0
history.backend = "memory"
publish.tokens = ["t"]
publish.topics = ["news"]
"""
STREAM = b"GET /topics/news HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n"


@contextmanager
def process(folder: Path, port: int, config: str = CONFIG) -> Iterator[Process]:
    """A pushd, once it listens on `port`, on which others may listen as well."""
    (folder / "pushd.toml").write_text(config)
    arguments = [TWISTD, "-n", "--pidfile=", "pushd", "-c", str(folder / "pushd.toml")]
    arguments += ["--listen", f"tcp:{port}:interface=127.0.0.1"]
    one = Process(arguments, folder / f"{time.monotonic_ns()}.log")
    try:
        wait_until(lambda: " listens on " in one.written or one.popen.poll() is not None)
        yield one
    finally:
        one.end()


def get(port: int) -> None:
    """A small request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/static/format.js")
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
    finally:
        connection.close()


def stream(port: int) -> None:
    """Reads a stream until it is sent away."""
    received = until_sent_away(port, STREAM)
    assert received.rstrip().endswith(b"retry: 100"), received


def test_the_kernel_spreads_clients_over_all_processes(tmp_path: Path) -> None:
    port = free_port()
    with ExitStack() as stack:
        processes = [stack.enter_context(process(tmp_path, port)) for _ in range(3)]
        for _ in range(60):
            get(port)
        for one in processes:
            wait_until(lambda one=one: "GET /static/format.js" in one.written)
        counts = [one.written.count("GET /static/format.js") for one in processes]
        assert sum(counts) == 60


def test_none_is_refused_while_processes_are_restarted_one_after_the_other(tmp_path: Path) -> None:
    port = free_port()
    with ExitStack() as stack:
        stays = stack.enter_context(process(tmp_path, port))
        clients = [
            *(Client(f"small {number}", lambda: get(port)) for number in range(4)),
            *(Client(f"hesitant {number}", lambda: hesitant(port)) for number in range(4)),
        ]
        streams = [Client(f"stream {number}", lambda: stream(port)) for number in range(4)]
        try:
            for _ in range(6):
                with process(tmp_path, port) as comes_and_goes:
                    time.sleep(0.3)
                    # What comes while it stands still waits in its queue.
                    comes_and_goes.popen.send_signal(signal.SIGSTOP)
                    time.sleep(0.2)
                    comes_and_goes.popen.send_signal(signal.SIGTERM)
                    comes_and_goes.popen.send_signal(signal.SIGCONT)
                    assert comes_and_goes.popen.wait(15) == 0
                assert "Traceback" not in comes_and_goes.written
        finally:
            for client in streams:
                client.over.set()
            for client in clients:
                client.end()
            stays.end()
            for client in streams:
                client.end()
    outcome = {client.name: client.failures for client in clients + streams}
    assert not any(outcome.values()), outcome
    assert all(client.answers for client in clients)
    assert all(client.longest < 5 for client in clients)


def test_a_process_that_does_not_share_finds_the_port_taken(tmp_path: Path) -> None:
    port = free_port()
    with process(tmp_path, port):
        unwilling = CONFIG.replace("reuse_port = true", "reuse_port = false")
        with process(tmp_path, port, unwilling) as other:
            assert other.popen.wait(15) == 1
            assert "cannot listen on tcp:" in other.written


@pytest.mark.parametrize(
    ("listen", "said"),
    [("unix:pushd.sock", "not for unix:"), ("systemd:domain=INET6:name=http", "ReusePort=yes")],
)
def test_what_is_no_port_is_told(tmp_path: Path, listen: str, said: str) -> None:
    (tmp_path / "pushd.toml").write_text(CONFIG)
    arguments = [TWISTD, "-n", "pushd", "-c", "pushd.toml", "--listen", listen]
    one = Process(arguments, tmp_path / "log")
    assert one.popen.wait(15) == 1
    assert re.fullmatch(rf"pushd: --listen: reuse_port .*{said}.*\n", one.written)

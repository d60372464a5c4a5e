"""
Clients that vanish without a word: no FIN, no RST, nothing comes from them any more.

Each end has a network namespace of its own here, so that the wire can be cut.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import TWISTD, Process, program, pushd, wait_until

HOST = "198.51.100.1"
PORT = 8080
CONFIG = """
[server]
peer_timeout = 3
heartbeat = {heartbeat}
[publish]
tokens = ["t"]
topics = ["news"]
"""


def ip(*arguments: str) -> None:
    subprocess.run([program("ip"), *arguments], check=True, capture_output=True, text=True)


class Wire:
    """Between the daemon's namespace and the client's."""

    def __init__(self) -> None:
        self.here = f"pushd-{os.getpid()}-here"
        self.there = f"pushd-{os.getpid()}-there"

    def open(self) -> None:
        ip("netns", "add", self.there)
        veth = ["type", "veth", "peer", "name", "veth1", "netns", self.there]
        ip("-n", self.here, "link", "add", "veth0", *veth)
        for namespace, device, address in (
            (self.here, "veth0", f"{HOST}/24"),
            (self.there, "veth1", "198.51.100.2/24"),
        ):
            ip("-n", namespace, "address", "add", address, "dev", device)
            ip("-n", namespace, "link", "set", device, "up")
            ip("-n", namespace, "link", "set", "lo", "up")

    def cut(self) -> None:
        ip("-n", self.there, "link", "set", "veth1", "down")

    def mend(self) -> None:
        ip("-n", self.there, "link", "set", "veth1", "up")

    def close(self) -> None:
        for namespace in (self.here, self.there):
            subprocess.run([program("ip"), "netns", "delete", namespace], check=False)


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    made = subprocess.run(
        [program("ip"), "netns", "add", wire.here], capture_output=True, text=True, check=False
    )
    if made.returncode:
        why = f"a network namespace cannot be made: {made.stderr.strip()}"
        assert "CI" not in os.environ, why
        pytest.skip(why)
    try:
        wire.open()
        yield wire
    finally:
        wire.close()


@contextmanager
def watched(wire: Wire, folder: Path, heartbeat: float) -> Iterator[Process]:
    """A pushd in its namespace, with a stream to a client in the other."""
    (folder / "pushd.toml").write_text(CONFIG.format(heartbeat=heartbeat))
    inside = [program("ip"), "netns", "exec"]
    daemon = [TWISTD, "-n", "--pidfile=", "pushd", "-c", "pushd.toml"]
    daemon += ["--listen", f"tcp:{PORT}:interface={HOST}"]
    process = Process([*inside, wire.here, *daemon], folder / "pushd.log")
    curl: Process | None = None
    try:
        wait_until(lambda: " listens on " in process.written, what="pushd")
        command = [program("curl"), "-sSN", f"http://{HOST}:{PORT}/topics/news"]
        curl = Process([*inside, wire.there, *command], folder / "curl")
        client = curl
        wait_until(lambda: "id:" in client.written, what="a stream")
        (folder / "client").write_text(str(client.popen.pid))
        yield process
    finally:
        if curl is not None:
            curl.end()
        process.end()


def publish(wire: Wire, message: str = "x") -> None:
    command = [program("ip"), "netns", "exec", wire.here, program("curl"), "-sSf"]
    command += ["-H", "Authorization: Bearer t", "-H", "Content-Type: text/plain"]
    command += ["--data-binary", "@-", f"http://{HOST}:{PORT}/topics/news"]
    subprocess.run(command, input=message, check=True, capture_output=True, text=True)


def gone(daemon: Process) -> bool:
    return bool(re.search("stream of .*news.* ended after .*: connection lost", daemon.written))


@pytest.mark.parametrize("heartbeat", [1, 15])
def test_one_that_vanishes_while_nothing_happens_is_noticed(
    wire: Wire, tmp_path: Path, heartbeat: float
) -> None:
    with watched(wire, tmp_path, heartbeat) as daemon:
        wire.cut()
        began = time.monotonic()
        wait_until(lambda: gone(daemon), 6)
        assert 1 < time.monotonic() - began < 4.5


def test_one_that_vanishes_while_events_are_on_their_way_is_noticed(
    wire: Wire, tmp_path: Path
) -> None:
    with watched(wire, tmp_path, 15) as daemon:
        publish(wire)
        wire.cut()
        began = time.monotonic()
        for _ in range(3):
            publish(wire)
        wait_until(lambda: gone(daemon), 6)
        assert 1 < time.monotonic() - began < 4.5


def test_one_that_was_slow_before_it_vanishes_is_noticed_too(wire: Wire, tmp_path: Path) -> None:
    with watched(wire, tmp_path, 1) as daemon:
        client = int((tmp_path / "client").read_text())
        os.kill(client, signal.SIGSTOP)
        for _ in range(10):
            publish(wire, "x" * 900_000)
        time.sleep(1)
        os.kill(client, signal.SIGCONT)
        publish(wire, "end")
        wait_until(lambda: "data: end" in (tmp_path / "curl").read_text())
        wire.cut()
        began = time.monotonic()
        wait_until(lambda: gone(daemon), 8)
        assert 1 < time.monotonic() - began < 6


def test_a_short_cut_is_outlived(wire: Wire, tmp_path: Path) -> None:
    with watched(wire, tmp_path, 1) as daemon:
        wire.cut()
        publish(wire)
        time.sleep(1)
        wire.mend()
        wait_until(lambda: "data: x" in (tmp_path / "curl").read_text())
        time.sleep(3)
        assert not gone(daemon)


def test_one_that_lives_and_does_not_read_has_not_vanished(tmp_path: Path) -> None:
    """Linux counts a peer without room as silent, and for longer than it has none."""
    config = CONFIG.format(heartbeat=1).replace("= 3", "= 1\nsend_buffer = 65536")
    with pushd(tmp_path, config) as daemon, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
        client.connect(("127.0.0.1", daemon.port))
        client.sendall(b"GET /topics/news HTTP/1.1\r\nHost: test\r\n\r\n")
        received = client.recv(65536)
        post = ["-H", "Authorization: Bearer t", "-H", "Content-Type: text/plain"]
        (tmp_path / "message").write_text("x" * 300_000)
        # All at once into the system's buffers, and slowly out of them.
        for number in range(2):
            daemon.curl("/topics/news", *post, "--data-binary", f"@{tmp_path / 'message'}")
            daemon.curl("/topics/news", *post, "-d", f"end {number}")
            while f"data: end {number}\n".encode() not in received:
                data = client.recv(2_000)
                assert data, daemon.process.written[-500:]
                received = (received + data)[-50_000:]
                time.sleep(0.02)

"""Real programs for end-to-end tests: started here, and ended by pid."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TWISTD = str(Path(sys.executable).parent / "twistd")
ROOT = Path(__file__).parents[2]


def program(name: str) -> str:
    """A program that has to be there: a test that skips itself proves nothing."""
    # Debian has servers in sbin, which is not everybody's.
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    assert path, f"{name} is not installed; `make system` installs what the tests need"
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        assert isinstance(port, int)
        return port


def quiet_port(also: int = 0) -> int:
    """
    A free port that no outgoing connection is given. While a node is away, one that
    looks for it would otherwise find itself now and then (simultaneous open, RFC 9293,
    section 3.5), and the node would not get its port back.

    :param also: how far above it is another one that is to be like it.
    """
    first_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.SystemRandom().randrange(10_000, min(first_given, 32_768) - also)
        if not listens(port) and not listens(port + also):
            return port


def wait_until(condition: Callable[[], object], seconds: float = 15.0, what: str = "it") -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.02)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def obeys(pid: int) -> bool:
    """
    Whether a pushd has come so far that SIGHUP and SIGTERM do not just kill it. It
    listens a moment earlier; what it catches is in proc(5).
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught & 1 << signal.SIGHUP - 1)


class Process:
    """A running program and what it has written."""

    def __init__(self, arguments: list[str], output: Path, **environment: str) -> None:
        self._output = output
        with output.open("wb") as file:
            self.popen = subprocess.Popen(
                arguments,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                cwd=output.parent,
            )

    @property
    def written(self) -> str:
        return self._output.read_text(errors="replace")

    def end(self, signal: int = signal.SIGTERM, seconds: float = 15.0) -> int:
        """Its exit code."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal)
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise


@contextmanager
def running(arguments: list[str], output: Path, port: int, **environment: str) -> Iterator[Process]:
    """A program, once it listens on `port`."""
    process = Process(arguments, output, **environment)
    try:
        wait_until(
            lambda: listens(port) or process.popen.poll() is not None, what=f"{arguments[0]}'s port"
        )
        assert process.popen.poll() is None, process.written
        yield process
    finally:
        process.end()


@contextmanager
def pushd(
    folder: Path, config: str | Path | None = None, port: int | None = None, **environment: str
) -> Iterator[Daemon]:
    """A twistd with the daemon, on a free port; without a config, the demo."""
    port = port or free_port()
    arguments = [TWISTD, "-n", "--pidfile=", "pushd"]
    arguments += ["--listen", f"tcp:{port}:interface=127.0.0.1"]
    if isinstance(config, str):
        path = folder / "pushd.toml"
        path.write_text(config)
        config = path
    if config is not None:
        arguments += ["-c", str(config)]
    with running(arguments, folder / "pushd.log", port, **environment) as process:
        wait_until(lambda: obeys(process.popen.pid), what="signals that are obeyed")
        yield Daemon(process, port)


class Daemon:
    """A running pushd."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def curl(self, path: str, *options: str, seconds: float = 10.0, check: bool = True) -> str:
        """The answer to a request that has an end."""
        command = [program("curl"), "-sS", "--max-time", str(seconds), *options, self.url(path)]
        return subprocess.run(command, capture_output=True, text=True, check=check).stdout

    @contextmanager
    def stream(self, folder: Path, path: str, *options: str) -> Iterator[Process]:
        """A ``curl -N`` that goes on."""
        command = [program("curl"), "-sSN", "--max-time", "60", *options, self.url(path)]
        process = Process(command, folder / f"curl-{time.monotonic_ns()}")
        try:
            yield process
        finally:
            process.end()

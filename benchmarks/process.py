"""A program that is being measured, or measures."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.machine import pinned

TICK = os.sysconf("SC_CLK_TCK")
IDLE = 0.05
"""What part of a core one may use who is at rest."""
PAGE = os.sysconf("SC_PAGE_SIZE")


class Process:
    """
    A program with all its children, ended by pid.

    :param core: where it runs; None for anywhere.
    :param folder: where it writes what it says.
    """

    def __init__(self, arguments: list[str], core: int | None, folder: Path) -> None:
        self.output = folder / "output.log"
        with self.output.open("ab") as output:
            self._popen = subprocess.Popen(
                pinned(core, arguments), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                cwd=folder,
            )  # fmt: skip

    def pids(self) -> list[int]:
        """Itself and its children, and theirs."""
        found, left = [], [self._popen.pid]
        while left:
            pid = left.pop()
            found.append(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                left.extend(map(int, children.read_text().split()))
        return found

    def cpu(self) -> float:
        """Seconds of user and system time of all its processes."""
        return sum(_cpu(pid) for pid in self.pids())

    def rest(self, seconds: float = 30.0) -> None:
        """Wait until it has hardly anything to do any more, for so long at most."""
        until = time.monotonic() + seconds
        busy = 1.0
        while busy > IDLE and time.monotonic() < until:
            before = self.cpu()
            time.sleep(0.5)
            busy = (self.cpu() - before) / 0.5

    def memory(self) -> int:
        """Resident bytes of all its processes."""
        pages = (Path(f"/proc/{pid}/statm").read_text().split()[1] for pid in self.pids())
        return sum(int(number) * PAGE for number in pages)

    def wait_for(self, port: int, seconds: float = 20.0) -> None:
        """Until it listens. Raises RuntimeError if it ends instead."""
        until = time.monotonic() + seconds
        while not _listens(port):
            if self._popen.poll() is not None or time.monotonic() > until:
                said = self.output.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self._popen.args!r} does not listen: {said}")
            time.sleep(0.05)

    def wait_to_say(self, text: str, seconds: float = 20.0) -> None:
        """Until it has said so. Raises RuntimeError if it ends instead."""
        until = time.monotonic() + seconds
        while text not in (said := self.output.read_text(errors="replace")):
            if self._popen.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{self._popen.args!r} does not say {text!r}: {said[-2000:]}")
            time.sleep(0.05)

    def files(self) -> int:
        """How many it has open."""
        return len(os.listdir(f"/proc/{self._popen.pid}/fd"))

    def end(self) -> None:
        """Kill it, parents first: how it would drain is of no interest here."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._popen.wait()


class Several:
    """Some programs, measured as one."""

    def __init__(self, processes: Sequence[Process]) -> None:
        self.processes = processes

    def cpu(self) -> float:
        """See :meth:`Process.cpu`."""
        return sum(process.cpu() for process in self.processes)

    def memory(self) -> int:
        """See :meth:`Process.memory`."""
        return sum(process.memory() for process in self.processes)


def _cpu(pid: int) -> float:
    """See proc(5): utime and stime, after the name in parentheses."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


@contextmanager
def running(
    arguments: list[str], port: int, core: int | None, folder: Path | None = None
) -> Iterator[Process]:
    """A program, once it listens on `port`."""
    with tempfile.TemporaryDirectory(prefix="bench-") as own:
        process = Process(arguments, core, folder or Path(own))
        try:
            process.wait_for(port)
            yield process
        finally:
            process.end()


def free_port() -> int:
    """One that nobody listens on, below those that clients are given."""
    for port in range(20_000 + os.getpid() % 5000, 32_000):
        if port not in _given and not _listens(port):
            _given.add(port)
            return port
    raise RuntimeError("no free port")


_given: set[int] = set()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

"""The machine: which core is whose, and what it is."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import time
from pathlib import Path

CORES = sorted(os.sched_getaffinity(0))
SERVER, CLIENTS = CORES[0], CORES[-1]
"""A core for the server and another one for all that is there to measure it."""

QUIET = 0.15
"""The share of a core that others may take before it is said that they do."""


def pinned(core: int | None, arguments: list[str]) -> list[str]:
    """A command that runs on one core; on any if that is None."""
    return arguments if core is None else ["taskset", "-c", str(core), *arguments]


def description() -> dict[str, object]:
    """What a reader of figures wants to know."""
    return {
        "cpu": _first("/proc/cpuinfo", "model name"),
        "cores": len(CORES),
        "server_core": SERVER,
        "clients_core": CLIENTS,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "commit": _commit(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def busy(seconds: float = 1.0) -> float:
    """Cores that others are using: to be looked at before anything is started."""
    before = _working()
    time.sleep(seconds)
    return (_working() - before) / seconds


def wait_for_quiet(patience: float) -> float:
    """Until others use little, or `patience` is over, in seconds; what they use then."""
    until = time.monotonic() + patience
    while (used := busy(0.5 if patience else 0.1)) > QUIET and time.monotonic() < until:
        time.sleep(1.0)
    return used


def _working() -> float:
    """Seconds of all cores that were not idle; see proc(5), /proc/stat."""
    fields = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
    del fields[3:5]  # idle, and waiting for a disk
    return sum(fields) / os.sysconf("SC_CLK_TCK")


def _first(path: str, key: str) -> str:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return "unknown"


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

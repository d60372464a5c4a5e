"""Several processes on one port, with the same history: what one of them is too small for."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from benchmarks.benchmark import FAULTS, Benchmark, Figures, Measure, Meter, Scale, faults, share
from benchmarks.clients import WARM_UP
from benchmarks.load import Answer, crowd
from benchmarks.peers import Pushd
from benchmarks.process import Process, Several, free_port, running

CLIENTS_EACH = 15_000
"""How many clients a process has, and a load generator: both need a file for each."""

CONNECTS = 2000
"""Clients a second, over all processes."""

PER_SECOND = 1.0
"""Events. All have one before the next is published, or a round is not counted."""

REDIS = """
backend = "redis"
url = "redis://127.0.0.1:{port}/0"
"""


class Processes(Benchmark):
    """
    Some processes share a port (``server.reuse_port``) and their history, in a Redis of
    their own. An event is published to one of them, and its last delivery is that of
    the last client of all. Nobody is pinned: processes, Redis and as many load
    generators share the machine's cores.
    """

    name = "processes"
    peers = few = ("pushd",)
    full = Scale(60_000, 20.0)
    quick = Scale(2000, 2.0)
    measures = {  # noqa: RUF012  # read only
        "processes": Measure("processes", ""),
        "fullest": Measure("clients of the one with the most", ""),
        "memory": Measure("memory per client, over all processes", "KB"),
        "last": Measure("a broadcast's last delivery, median", "ms"),
        "slowest": Measure("the slowest one's", "ms"),
        "delivery": Measure("CPU per delivery, of all processes", "us"),
        "generator": Measure("load generators' use of cores", "%"),
        **FAULTS,
    }

    def run(self, peer: str, scale: Scale) -> Figures:
        """See :meth:`Benchmark.run`."""
        count = max(2, -(-scale.clients // CLIENTS_EACH))
        with redis() as port:
            server = Pushd("", "reuse_port = true\n", REDIS.format(port=port))
            with (
                several(server, count) as processes,
                crowd(count, server.port, [server.read], server.publish) as clients,
            ):
                clients.open(WARM_UP, CONNECTS)
                clients.close()
                time.sleep(scale.warm_up)
                files = [process.files() for process in processes.processes]
                memory = processes.memory()
                clients.open(scale.clients, CONNECTS)
                time.sleep(scale.warm_up)
                memory = processes.memory() - memory
                most = max(
                    process.files() - before
                    for process, before in zip(processes.processes, files, strict=True)
                )
                clients.publish(scale.warm_up, PER_SECOND)
                meter = Meter(processes, scale.warm_up)
                answers = clients.publish(scale.seconds, PER_SECOND)
                events = sum(answer["events"] for answer in answers)
                published = answers[0]["published"]
                return {
                    "processes": count,
                    "fullest": most,
                    "memory": memory / scale.clients / 1000,
                    "delivery": meter.used() / events * 1e6,
                    "generator": sum(map(share, answers)) * 100,
                    **_ends(answers),
                    **_faults(answers, published * scale.clients),
                }


def _ends(answers: Sequence[Answer]) -> Figures:
    """When the last client of all had each event; ms."""
    ends = [{number: took / 1000 for number, took in answer["ends"]} for answer in answers]
    whole = set(ends[0]).intersection(*ends)
    if not whole:
        raise RuntimeError("no event reached everybody before the next one was published")
    last = [max(end[number] for end in ends) for number in whole]
    return {"last": median(last), "slowest": max(last)}


def _faults(answers: Sequence[Answer], expected: int) -> Figures:
    found = [faults(answer) for answer in answers]
    figures = {name: sum(one[name] for one in found) for name in FAULTS}
    if not any(figures.values()) and sum(answer["numbered"] for answer in answers) != expected:
        raise RuntimeError(f"not {expected} deliveries: {answers}")
    return figures


@contextmanager
def redis() -> Iterator[int]:
    """A Redis that keeps nothing on disk, and its port."""
    program = shutil.which("redis-server")
    if program is None:
        raise RuntimeError("Redis: apt-get install redis-server")
    port = free_port()
    options = {"port": port, "bind": "127.0.0.1", "save": "", "appendonly": "no"}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with running([program, *words], port, None):
        yield port


@contextmanager
def several(server: Pushd, count: int) -> Iterator[Several]:
    """So many processes of it, once all listen on its port."""
    with ExitStack() as stack:
        processes = []
        for _ in range(count):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-pushd-")))
            process = Process(server.arguments(folder), None, folder)
            stack.callback(process.end)
            processes.append(process)
        for process in processes:
            process.wait_to_say("listens on")
        yield Several(processes)

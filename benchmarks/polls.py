"""Polls that find nothing new: how many a second does one core make?"""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import build
from benchmarks.benchmark import Benchmark, Figures, Measure, Scale
from benchmarks.load import load
from benchmarks.machine import CLIENTS, SERVER
from benchmarks.peers import Pushd
from benchmarks.process import Process, free_port, running

WARM_UP = 2.0

SOURCE = """
[sources.same]
topic = "same/{{n}}"
url = "http://127.0.0.1:{port}/same/{{n}}"
every = {every}
max_topics = 4000
"""

WANTED = 4000
"""Polls a second that are asked for: more than have to be done, but not so many more that
all is late, as then each poll needs a connection of its own."""

BODY = 50_000
"""Bytes of what is polled, the first time. After that, it is not modified."""


class Polls(Benchmark):
    """
    Each client watches a topic of its own; together they want 4,000 polls a second.
    Beside it treq alone, a hundred requests at a time, as fast as it can.
    """

    name = "polls"
    peers = few = ("pushd", "treq")
    full = Scale(1000, 10.0)
    quick = Scale(300, 3.0)
    measures = {  # noqa: RUF012  # read only
        "most": Measure("polls a second on a core of its own, answered 304", "", least=3000),
        "rate": Measure("polls a second that there were", ""),
        "poll": Measure("CPU per poll", "us"),
        "core": Measure("of one core", "%"),
        "upstream": Measure("the upstream's share of its core", "%"),
    }

    def run(self, peer: str, scale: Scale) -> Figures:
        """See :meth:`Benchmark.run`."""
        port = free_port()
        command = [build.program("upstream"), str(port), str(BODY)]
        poller = _pushd if peer == "pushd" else _treq
        with running(command, port, CLIENTS) as upstream, poller(port, scale) as process:
            time.sleep(WARM_UP)
            polls, cpu, upstream_cpu = _count(port), process.cpu(), upstream.cpu()
            began = time.monotonic()
            time.sleep(scale.seconds)
            seconds = time.monotonic() - began
            polls, cpu = _count(port) - polls, process.cpu() - cpu
            return {
                "most": polls / cpu,
                "rate": polls / seconds,
                "poll": cpu / polls * 1e6,
                "core": cpu / seconds * 100,
                "upstream": (upstream.cpu() - upstream_cpu) / seconds * 100,
            }


def _count(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/count") as answer:
        return int(json.load(answer)["not_modified"])


@contextmanager
def _pushd(port: int, scale: Scale) -> Iterator[Process]:
    server = Pushd(SOURCE.format(port=port, every=scale.clients / WANTED))
    paths = [f"/topics/same/{n}" for n in range(scale.clients)]
    with server.running() as process, load(server.port, paths) as load_:
        load_.open(scale.clients, 200)
        yield process


@contextmanager
def _treq(port: int, scale: Scale) -> Iterator[Process]:
    script = Path(__file__).with_name("bare_treq.py")
    with TemporaryDirectory(prefix="bench-treq-") as folder:
        process = Process([sys.executable, str(script), str(port)], SERVER, Path(folder))
        try:
            yield process
        finally:
            process.end()

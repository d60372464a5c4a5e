"""Clients that come and stay: what one costs to let in, and to keep."""

from __future__ import annotations

import time

from benchmarks.benchmark import GENERATOR, Benchmark, Figures, Measure, Meter, Scale, share
from benchmarks.load import load
from benchmarks.peers import PEERS

WARM_UP = 200
"""Clients that come and go before, so that what is made once has been made."""

UNPACED = 1_000_000
"""Clients a second, if nobody is to wait for anything but answers."""


class Clients(Benchmark):
    """
    Clients with a browser's headers connect, 1,000 a second, and get the first bytes.
    Then they stay, and nothing happens. They leave, and as many come as fast as they are
    answered: how a server meets those whom another has left. Between two of those that
    come one by one the server's core falls asleep and its caches go cold, which is most
    of what they cost more.
    """

    name = "clients"
    peers = ("pushd", "c", "nchan", "plain", "klein", "klein-resource", "starlette")
    few = ("pushd", "nchan", "klein")
    full = Scale(10_000, 2.0)
    quick = Scale(2000, 0.5)
    measures = {  # noqa: RUF012  # read only
        "connect": Measure("CPU per connect", "us", most=110.0, times={"klein": 0.52}),
        "paced": Measure("CPU per connect, 1,000 a second", "us"),
        "memory": Measure("memory per idle client", "KB", most=8.0),
        "generator": GENERATOR,
    }

    def run(self, peer: str, scale: Scale) -> Figures:
        """See :meth:`Benchmark.run`."""
        server = PEERS[peer]()
        with server.running() as process, load(server.port, [server.read]) as load_:
            load_.open(WARM_UP)
            load_.close()
            time.sleep(scale.seconds)
            memory = process.memory()
            meter = Meter(process, scale.warm_up)
            load_.open(scale.clients)
            paced = meter.used() / scale.clients * 1e6
            time.sleep(scale.seconds)
            memory = process.memory() - memory
            load_.close()
            process.rest()
            meter = Meter(process, scale.warm_up)
            answer = load_.open(scale.clients, UNPACED)
            return {
                "connect": meter.used() / scale.clients * 1e6,
                "paced": paced,
                "memory": memory / scale.clients / 1000,
                "generator": share(answer) * 100,
            }

"""A reconnect storm: everybody drops, and everybody comes back."""

from __future__ import annotations

from benchmarks.benchmark import (
    FAULTS,
    GENERATOR,
    Benchmark,
    Figures,
    Measure,
    Scale,
    faults,
    share,
)
from benchmarks.load import load
from benchmarks.peers import PEERS

EVERY = 0.5
"""Seconds between two events, all the time."""

AWAY = 1.0


class Storm(Benchmark):
    """
    All connections drop at once while events go on; after a second the clients
    return, all within one second, each with its last id. One is resumed when it has all
    that had been published when it returned.
    """

    name = "storm"
    peers = ("pushd", "nchan")
    few = ("pushd",)
    full = Scale(10_000, 3.0)
    quick = Scale(2000, 1.0)
    measures = {  # noqa: RUF012  # read only
        "resumed": Measure("from the first return until all are resumed", "s", most=3.0),
        "cpu": Measure("CPU per client that drops and returns", "us"),
        "generator": GENERATOR,
        **FAULTS,
    }

    def run(self, peer: str, scale: Scale) -> Figures:
        """See :meth:`Benchmark.run`."""
        server = PEERS[peer]()
        with server.running() as process, load(server.port, [server.read], server.publish) as load_:
            load_.open(scale.clients)
            load_.publish(1.0, 1 / EVERY)
            before = process.cpu()
            answer = load_.storm(scale.clients, EVERY, AWAY, scale.seconds)
            if answer["unresumed"]:
                raise RuntimeError(f"{answer['unresumed']} clients were not resumed: {answer}")
            return {
                "resumed": answer["resumed"],
                "cpu": (process.cpu() - before) / scale.clients * 1e6,
                "generator": share(answer) * 100,
                **faults(answer),
            }

"""
The whole path from a source to its readers.

Against the one published figure of a system that does the same: 3,000 users on 100 topics,
each a JSON document of 50 KB that is polled every 500 ms and of which each poll renews
20 %. It said: p99 21 ms, at most 250 ms, on a cluster.
"""

from __future__ import annotations

from benchmarks import build
from benchmarks.benchmark import FAULTS, Benchmark, Figures, Measure, Scale, faults, share
from benchmarks.load import load
from benchmarks.peers import Pushd
from benchmarks.process import free_port, running
from benchmarks.sample import Samples

TOPICS = 100
SAMPLED = 5
WARM_UP = 3.0

SOURCE = """
[sources.documents]
topic = "doc/{{n}}"
url = "http://127.0.0.1:{port}/doc/{{n}}"
every = 0.5
"""


class Users(Benchmark):
    """
    Every document carries the time at which its upstream wrote it; what is measured is
    from there to each client's receipt. Nobody is pinned: server, upstream and load
    generator share the machine's cores. Some readers apply all patches, and verify.
    """

    name = "users"
    peers = few = ("pushd",)
    full = Scale(3000, 60.0)
    quick = Scale(3000, 4.0)
    measures = {  # noqa: RUF012  # read only
        "p50": Measure("from the upstream's answer to a client, median", "ms"),
        "p99": Measure("99 % of all", "ms", most=10.0),
        "max": Measure("the slowest of all", "ms", most=100.0),
        "deliveries": Measure("deliveries a second", ""),
        "megabytes": Measure("sent", "MB/s"),
        "cpu": Measure("pushd's CPU, all processes", "cores"),
        "generator": Measure("load generator's share of a core", "%"),
        **FAULTS,
        "verified": Measure("documents rebuilt from patches and verified", ""),
        "wrong": Measure("of those, wrong", "", most=0),
    }

    def run(self, peer: str, scale: Scale) -> Figures:
        """See :meth:`Benchmark.run`."""
        upstream = free_port()
        server = Pushd(SOURCE.format(port=upstream))
        paths = [f"/topics/doc/{n}" for n in range(TOPICS)]
        command = [build.program("upstream"), str(upstream), "100"]
        with (
            running(command, upstream, None),
            server.running(None) as process,
            load(server.port, paths, core=None) as load_,
        ):
            load_.open(scale.clients)
            with Samples(server.port, paths[:SAMPLED]) as samples:
                load_.watch(WARM_UP)
                before = process.cpu()
                answer = load_.watch(scale.seconds)
                cpu = process.cpu() - before
            latency = answer["latency"]
            return {
                "p50": latency["p50"] / 1000,
                "p99": latency["p99"] / 1000,
                "max": latency["max"] / 1000,
                "deliveries": answer["events"] / answer["seconds"],
                "megabytes": answer["bytes"] / answer["seconds"] / 1e6,
                "cpu": cpu / answer["seconds"],
                "generator": share(answer) * 100,
                **faults(answer),
                **samples.verify(),
            }

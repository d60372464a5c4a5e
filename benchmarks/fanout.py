"""Fan-out: what it costs to send an event to everybody, alone and ten at a time."""

from __future__ import annotations

import re
import urllib.request

from benchmarks.benchmark import (
    FAULTS,
    GENERATOR,
    Benchmark,
    Figures,
    Measure,
    Meter,
    Scale,
    faults,
    share,
)
from benchmarks.load import Answer, Load, load
from benchmarks.peers import PEERS, Peer, Pushd, TimedPushd
from benchmarks.process import Process

BATCH = 10
BATCHES_PER_SECOND = 5.0


class FanOut(Benchmark):
    """
    All clients read one topic. Events are published one at a time, 50 a second at most
    and none before everybody has the last: so nobody saves work by joining two.

    Then the same with ten in one turn of the server's loop; for pushd that is checked.
    """

    name = "fanout"
    peers = ("pushd", "pushd-sqlite", "c", "nchan", "plain", "klein", "starlette")
    few = ("pushd", "c", "nchan", "starlette")
    full = Scale(5000, 10.0)
    quick = Scale(1000, 2.0)
    measures = {  # noqa: RUF012  # read only
        "delivery": Measure("CPU per delivery", "us", times={"c": 1.5, "nchan": 0.6}),
        "batch": Measure("CPU per delivery, 10 in a turn", "us", times={"nchan": 0.1}),
        "rate": Measure("events a second that it kept up with, of 50", ""),
        "last": Measure("an event's last delivery, median", "ms"),
        "turn": Measure("events that fell into one turn", "", least=9.5),
        "generator": GENERATOR,
        **FAULTS,
    }

    def run(self, peer: str, scale: Scale) -> Figures:
        """See :meth:`Benchmark.run`."""
        server = PEERS[peer]()
        with server.running() as process, load(server.port, [server.read], server.publish) as load_:
            load_.open(scale.clients)
            load_.publish(scale.warm_up)
            figures = self._single(process, load_, scale)
            batch = self._batch(server, process, load_, scale)
            lost = {key: figures[key] + batch.pop(key) for key in FAULTS}
            return figures | batch | lost

    def _single(self, process: Process, load_: Load, scale: Scale) -> Figures:
        meter = Meter(process, scale.warm_up)
        answer = load_.publish(scale.seconds)
        return {
            "delivery": meter.used() / answer["events"] * 1e6,
            "rate": answer["published"] / answer["seconds"],
            "last": answer["rounds"]["p50"] / 1000,
            "generator": share(answer) * 100,
            **faults(answer),
        }

    def _batch(self, server: Peer, process: Process, load_: Load, scale: Scale) -> Figures:
        pid = process.pids()[server.worker]
        load_.publish(scale.warm_up, BATCHES_PER_SECOND, BATCH, pid)
        turns = _turns(server)
        meter = Meter(process, scale.warm_up)
        answer = load_.publish(scale.seconds, BATCHES_PER_SECOND, BATCH, pid)
        figures = {"batch": meter.used() / answer["events"] * 1e6, **faults(answer)}
        if turns is not None:
            figures["turn"] = answer["published"] / ((_turns(server) or 0) - turns)
        return figures


def _turns(server: Peer) -> float | None:
    """How many turns of pushd's loop had an event in them; None for others."""
    if not isinstance(server, Pushd):
        return None
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as answer:
        found = re.search(
            r"^pushd_delivery_seconds_count (.*)$", answer.read().decode(), re.MULTILINE
        )
    assert found
    return float(found[1])


class Many(Benchmark):
    """As many clients as there may be files: when does the last one have an event?"""

    name = "many"
    peers = ("pushd", "c", "nchan")
    few = ("pushd", "c")
    full = Scale(19_000, 20.0)
    quick = Scale(2000, 2.0)
    measures = {  # noqa: RUF012  # read only
        "last": Measure("a broadcast's last delivery, median", "ms", times={"c": 1.5}),
        "slowest": Measure("the slowest one's", "ms"),
        "held": Measure("the longest that a timer waited for its turn", "ms", most=50.0),
        "delivery": Measure("CPU per delivery", "us"),
        "generator": GENERATOR,
        **FAULTS,
    }

    def run(self, peer: str, scale: Scale) -> Figures:
        """See :meth:`Benchmark.run`."""
        figures = self._broadcasts(PEERS[peer](), scale)
        return {**figures, "held": _held(scale)} if peer == "pushd" else figures

    def _broadcasts(self, server: Peer, scale: Scale) -> Figures:
        with server.running() as process, load(server.port, [server.read], server.publish) as load_:
            load_.open(scale.clients, 2000)
            load_.publish(scale.warm_up, 2.0)
            meter = Meter(process, scale.warm_up)
            answer: Answer = load_.publish(scale.seconds, 2.0)
            return {
                "last": answer["rounds"]["p50"] / 1000,
                "slowest": answer["rounds"]["max"] / 1000,
                "delivery": meter.used() / answer["events"] * 1e6,
                "generator": share(answer) * 100,
                **faults(answer),
            }


def _held(scale: Scale) -> float:
    """How long others wait while broadcasts go out: milliseconds, in a run of its own."""
    server = TimedPushd()
    with server.running() as process, load(server.port, [server.read], server.publish) as load_:
        load_.open(scale.clients, 2000)
        load_.publish(scale.warm_up, 2.0)
        said = process.output.stat().st_size
        load_.publish(scale.seconds / 2, 2.0)
        return server.latest(process, said)

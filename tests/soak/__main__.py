"""
``python -m soak SECONDS [KILLS]``: everything at once, and then, kills; exit code 1 if
anything was lost.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from killed.trial import Plan, Trial
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall, deferLater
from twisted.python.failure import Failure

from soak.daemon import MESSAGE_TOPICS, Pushd
from soak.http import connect
from soak.publisher import Answered, Publisher
from soak.reader import Reader, Temper
from soak.tally import Tally

reactor: Any = _reactor

READERS = 200
SELECTIONS = [
    ["board"],
    ["small"],
    ["items"],
    ["text"],
    ["large"],
    ["extra"],
    *([topic] for topic in MESSAGE_TOPICS),
    ["board", "news0"],
    ["small", "text", "items", "news1", "news2"],
    [*MESSAGE_TOPICS, "small"],
]
TEMPERS: dict[Temper, int] = {"steady": 4, "dropping": 3, "slow": 2, "vanishing": 1}
"""And how many in ten have them."""

MESSAGES_PER_SECOND = 8
"""To each topic."""

LONGEST_CATCH_UP = 30.0
MOST_GROWTH = 1.1
"""How much memory may grow in the last part, where that is at least LONG_ENOUGH."""

LONG_ENOUGH = 60.0
MEGABYTE = 1 << 20


class Soak:
    """All of it, and the order in which it happens."""

    def __init__(self, seconds: float, folder: Path) -> None:
        self.seconds = seconds
        self.tally = Tally()
        self.began = time.monotonic()
        self.upstream = self._program("soak.source")
        assert self.upstream.stdout is not None
        self.upstream_port = int(self.upstream.stdout.readline())
        self.pushd = Pushd(folder, f"http://127.0.0.1:{self.upstream_port}", self.tally)
        self.rude = self._program("soak.rude", str(self.pushd.port))
        pause = 1 / MESSAGES_PER_SECOND
        self.publishers = {
            topic: Publisher(topic, self.pushd.port, pause, self.tally) for topic in MESSAGE_TOPICS
        }
        self.readers = [
            Reader(
                self.pushd.port,
                SELECTIONS[n % len(SELECTIONS)],
                random.choices(list(TEMPERS), list(TEMPERS.values()))[0],
                self.publishers,
                self.tally,
            )
            for n in range(READERS)
        ]
        self.memories: list[tuple[float, int]] = []
        self.restarted = 0.0
        self.table = ""

    @staticmethod
    def _program(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    async def run(self) -> bool:
        """Whether all went well."""
        self.pushd.start()
        self.began = time.monotonic()
        talking = LoopingCall(self.tell)
        talking.start(1.0)
        publishing = [Deferred.fromCoroutine(one.publish()) for one in self.publishers.values()]
        reading = [Deferred.fromCoroutine(one.read()) for one in self.readers]
        await self.disturb()
        rude = self.rude.communicate()[0]
        for publisher in self.publishers.values():
            publisher.over = True
        await gatherResults(publishing)
        told = await self.calm()
        talking.stop()
        for reader in self.readers:
            reader.end(told["versions"])
        await gatherResults(reading)
        await self.pushd.end()
        self.pushd.check_log()
        self.judge_memory()
        self.table = self.tally.table(self.rows(told["counts"], int(rude)))
        return not self.tally.failed

    async def disturb(self) -> None:
        """Reloads and restarts, the last of those when half of the time is over."""
        half = self.seconds / 2
        pause = max(2.5, self.seconds / 12)
        next_restart = pause
        while self.elapsed < self.seconds:
            await deferLater(reactor, random.random() * min(2.0, pause))
            if self.elapsed > next_restart and next_restart < half:
                await self.pushd.restart()
                next_restart = self.elapsed + pause
                if next_restart >= half:
                    self.restarted = self.elapsed
            else:
                self.pushd.reload()
            if self.pushd.listens:
                self.memories.append((self.elapsed, self.pushd.memory))

    async def calm(self) -> dict[str, Any]:
        """All are well and behave; wait until the readers have everything."""
        self.pushd.reload(extra=True)
        told = await self._told()
        for reader in self.readers:
            reader.hurry()
        deadline = time.monotonic() + LONGEST_CATCH_UP
        while time.monotonic() < deadline:
            if all(reader.complete(told["versions"]) for reader in self.readers):
                break
            await deferLater(reactor, 0.1)
        return told

    async def _told(self) -> dict[str, Any]:
        """What the upstream says, when it is calm: what it had begun is over by then."""
        told: dict[str, Any] = {}
        for _ in range(2):
            answer = Answered(b"GET /calm HTTP/1.1\r\nHost: soak\r\n\r\n")
            await connect(self.upstream_port, answer, self.tally)
            await answer.over
            told = json.loads(answer.body)
            await deferLater(reactor, 0.2)
        return told

    # What is said of it.

    def tell(self) -> None:
        counts = self.tally.counts
        process = self.pushd.process
        connected = sum(reader.connected for reader in self.readers)
        wrong = "  SOMETHING IS WRONG" if self.tally.failed else ""
        print(
            f"{self.elapsed:5.0f} s  pushd {process.pid if process else '-'}"
            f"  {connected:3} readers  {counts['messages published']:,} messages"
            f"  {counts['events delivered']:,} events  {counts['reconnects']:,} reconnects"
            f"  {self.pushd.ended} restarts  {self.pushd.reloads} reloads{wrong}",
            flush=True,
        )

    def early_and_late(self) -> tuple[float, float]:
        """
        Memory of the last process, in its second fifth and in its last: the
        greatest, as it is returned to the system late or never.
        """
        span = self.seconds - self.restarted
        own = [(at - self.restarted, size) for at, size in self.memories if at > self.restarted]

        def most(begin: float, end: float) -> float:
            return max((size for at, size in own if begin * span <= at <= end * span), default=0)

        return most(0.2, 0.4), most(0.8, 1.1)

    def judge_memory(self) -> None:
        early, late = self.early_and_late()
        if self.seconds - self.restarted > LONG_ENOUGH and late > early * MOST_GROWTH:
            note = f"from {early / MEGABYTE:.0f} to {late / MEGABYTE:.0f} MB"
            self.tally.wrong("memory that grew", note)

    def rows(self, upstream: dict[str, int], rude: int) -> list[tuple[str, str]]:
        early, late = self.early_and_late()
        counts = self.tally.counts
        return [
            ("seconds", f"{self.elapsed:,.0f}"),
            ("documents published (versions)", f"{upstream.get('versions', 0):,}"),
            ("poll failures injected", f"{upstream.get('failures', 0):,}"),
            ("answers 304", f"{upstream.get('not modified', 0):,}"),
            *(
                (what, f"{counts[what]:,}")
                for what in (
                    "messages published",
                    "messages uncertain",
                    "messages delivered",
                    "messages told as a gap",
                    "gaps told",
                    "gaps told without a restart",
                    "events delivered",
                    "statuses told",
                    "reconnects",
                    "topics that had ended",
                )
            ),
            ("rude clients", f"{rude:,}"),
            ("clients cut off as stalled", f"{self.pushd.written.count(': stalled'):,}"),
            ("reloads", f"{self.pushd.reloads:,}"),
            ("restarts", f"{self.pushd.ended - 1:,}"),
            ("pushd's CPU time, seconds", f"{self.pushd.seconds:,.1f}"),
            ("RSS of the last process early, MB", f"{early / MEGABYTE:,.1f}"),
            ("RSS of the last process late, MB", f"{late / MEGABYTE:,.1f}"),
        ]

    def close(self) -> None:
        self.pushd.close()
        for program in (self.upstream, self.rude):
            program.kill()
            program.communicate()


async def both(soak: Soak, trial: Trial) -> bool:
    """The soak, and then the kills, if there are to be any. Whether all went well."""
    went_well = await soak.run()
    if not trial.plan.kills:
        print(soak.table)
        return went_well
    went_well = await trial.run() and went_well
    print(f"{soak.table}\n\n  and killed:\n\n{trial.table}")
    return went_well


def main(seconds: float, kills: int) -> int:
    results: list[Any] = []
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        soak = Soak(seconds, Path(folder))
        seed = random.SystemRandom().randrange(10**6)
        trial = Trial(Plan(kills=kills), seed, Path(folder))
        running = Deferred.fromCoroutine(both(soak, trial)).addBoth(results.append)
        running.addBoth(lambda _: reactor.stop())
        reactor.run()
        soak.close()
        trial.close()
        (result,) = results
        if isinstance(result, Failure):
            print(result.getTraceback())
        if result is not True:
            print("\n".join(soak.pushd.log_of_interest))
    return 0 if result is True else 1


if __name__ == "__main__":
    given = [float(argument) for argument in sys.argv[1:]]
    sys.exit(main(given[0] if given else 60.0, int(given[1]) if given[1:] else 0))

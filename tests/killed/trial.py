"""A trial: who takes part, the order in which it happens, and what is said of it."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec
from soak.tally import Tally
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, TimeoutError, gatherResults
from twisted.internet.task import deferLater

from killed.histories import HISTORIES
from killed.ledger import MUST_BE_ZERO, Heard, Ledger
from killed.nodes import RETURNS, TOPICS, Nodes
from killed.publisher import Publisher
from killed.reader import Reader, Temper
from killed.upstream import Changing

reactor: Any = _reactor

READERS = 200
PUBLISHERS = 50
SELECTIONS = [
    *([topic] for topic in TOPICS),
    ["board"],
    ["board"],
    ["news0", "news1"],
    ["news2", "board", "news3"],
]
TEMPERS: dict[Temper, int] = {"steady": 4, "dropping": 3, "slow": 2, "resting": 1}
"""And how many in ten have them."""

LONGEST_CATCH_UP = 30.0
A_MOMENT = 0.3
"""Seconds in which what is doubled would still come."""

Moment: TypeAlias = Literal["any time", "while it starts", "while it cannot record"] | Heard
MOMENTS: tuple[Moment, ...] = (
    "any time",
    "while it starts",
    "while it cannot record",
    "an acknowledgement",
    "a message",
)
"""
When processes are killed: each of five in another one of these. Those that cannot record
just then, or go as soon as they are heard, cannot make good what they have said too early.
"""

HELD = 0.05, 0.15
"""Seconds, at least and at most, in which nothing is recorded: somebody publishes meanwhile."""


LONGEST_SILENCE = 2.0


class Plan(msgspec.Struct, frozen=True):
    """
    What is tried.

    :ivar history: which, see :data:`HISTORIES`.
    :ivar kills: how many.
    :ivar how: the signal.
    :ivar rate: messages a second that are asked for.
    :ivar nodes: how many share the history. One of them is killed at a time.
    :ivar back: where a client comes back to, see :data:`RETURNS`.
    """

    history: str = "sqlite"
    kills: int = 20
    how: signal.Signals = signal.SIGKILL
    rate: float = 1000.0
    nodes: int = 1
    back: str = "same"


class Trial:
    """
    :param seed: of all that is random here; the timing is the machine's.
    """

    def __init__(self, plan: Plan, seed: int, folder: Path) -> None:
        self.plan = plan
        self.seed = seed
        self.tally = Tally(MUST_BE_ZERO)
        self.ledger = Ledger(self.tally)
        self.readers: list[Reader] = []
        self._folder = folder
        self._held = HISTORIES[plan.history].held
        self._began = reactor.seconds()
        self._nodes: Nodes | None = None

    @property
    def elapsed(self) -> float:
        return float(reactor.seconds() - self._began)

    async def run(self) -> bool:
        """Whether all went well."""
        random.seed(self.seed)
        self._began = reactor.seconds()
        print(f"seed {self.seed}: {self.plan}", flush=True)
        async with Changing() as changing:
            plan = self.plan
            self._nodes = nodes = Nodes(
                self._folder,
                plan.nodes,
                HISTORIES[plan.history].toml,
                RETURNS[plan.back],
                changing.url(),
                self.tally,
            )
            for node in nodes.all:
                node.start()
            await nodes.until_all_listen()
            await self._go_through(nodes, changing)
            for node in nodes.all:
                await node.end(signal.SIGTERM)
                node.check_logs()
        self.ledger.judge(reader.seen for reader in self.readers)
        self._judge_resumptions()
        return not self.tally.failed

    async def _go_through(self, nodes: Nodes, changing: Changing) -> None:
        reading = [self._reads(nodes, n) for n in range(READERS)]
        await self._until(lambda: all(reader.last_id for reader in self.readers))
        # Without what they say of documents: who comes with these has none.
        first = {tuple(one.topics): one.last_id.partition(".")[0] for one in self.readers}
        publishers = self._publishers(nodes)
        publishing = [Deferred.fromCoroutine(one.publish()) for one in publishers]
        await self._kill(nodes)
        for publisher in publishers:
            publisher.over = True
        await gatherResults(publishing)
        changing.stand_still()
        # Who has seen nothing yet is told all, from what is kept.
        late = [self._reads(nodes, READERS + n, since) for n, since in enumerate(first.items())]
        for reader in self.readers:
            reader.hurry()
        newest = {topic: max(self.ledger.places([topic]), default=-1) for topic in TOPICS}
        await self._until(lambda: all(reader.complete(newest, changing) for reader in self.readers))
        await deferLater(reactor, A_MOMENT)
        for reader in self.readers:
            reader.end()
            reader.judge(changing)
        await gatherResults([*reading, *late])

    def _reads(
        self, nodes: Nodes, number: int, since: tuple[tuple[str, ...], str] | None = None
    ) -> Deferred[None]:
        """One reader more, as they come, or of what was said since an id."""
        topics, id = (SELECTIONS[number % len(SELECTIONS)], "") if since is None else since
        temper = random.choices(list(TEMPERS), list(TEMPERS.values()))[0]
        reader = Reader(number, list(topics), temper, nodes, self.ledger, self.tally, id)
        self.readers.append(reader)
        return Deferred.fromCoroutine(reader.read())

    def _publishers(self, nodes: Nodes) -> list[Publisher]:
        every = PUBLISHERS / self.plan.rate
        return [
            Publisher(n, TOPICS, nodes.port, every, self.ledger, self.tally)
            for n in range(PUBLISHERS)
        ]

    async def _kill(self, nodes: Nodes) -> None:
        """One at a time, each after a random time of its life."""
        for n, moment in enumerate(self._moments()):
            node = random.choice(nodes.all)
            for other in nodes.all:
                if other is not node or moment != "while it starts":
                    await other.until_it_listens()
            with ExitStack() as stack:
                await self._wait_for(moment, stack)
                self.ledger.kills.append(reactor.seconds())
                await node.end(self.plan.how)
            self._tell(n, node.name, moment)
            await deferLater(reactor, random.uniform(0, 0.1))
            node.start()
        await nodes.until_all_listen()
        await deferLater(reactor, 1.0)

    def _moments(self) -> Iterator[Moment]:
        """One for each kill: all there are, in any order, and all again."""
        deck: list[Moment] = []
        for n in range(self.plan.kills):
            if not deck:
                deck = random.sample(MOMENTS, len(MOMENTS))
            moment = deck.pop()
            orderly = self.plan.how != signal.SIGKILL
            if (moment == "while it starts" and (orderly or n == 0)) or (
                moment == "while it cannot record" and (orderly or self._held is None)
            ):
                moment = "any time"
            yield moment

    async def _wait_for(self, moment: Moment, stack: ExitStack) -> None:
        """Whoever waits goes on in the moment itself, which lasts as long as `stack`."""
        if moment == "while it starts":
            await deferLater(reactor, random.uniform(0, 0.6))
            return
        await deferLater(reactor, random.uniform(0.1, 0.9))
        if moment == "while it cannot record":
            assert self._held is not None
            stack.enter_context(self._held(self._folder))
            await deferLater(reactor, random.uniform(*HELD))
        elif moment != "any time":
            heard: Deferred[None] = Deferred()
            self.ledger.heard = lambda it: (
                it == moment and not heard.called and heard.callback(None)
            )
            with suppress(TimeoutError):
                await heard.addTimeout(LONGEST_SILENCE, reactor)

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Or until it takes too long; what is missing then is said in the end."""
        deadline = reactor.seconds() + LONGEST_CATCH_UP
        while not condition() and reactor.seconds() < deadline:
            await deferLater(reactor, 0.05)

    # What is said of it.

    def _judge_resumptions(self) -> None:
        """Those who come back soon have missed little of the document: not all of it is due."""
        if self.ledger.kills and not self.tally.counts["resumed in another process, with a patch"]:
            note = "whoever came back after a kill was sent the document whole"
            self.tally.wrong("no resumption by a patch", note)

    def _tell(self, n: int, name: str, moment: Moment) -> None:
        counts = self.tally.counts
        print(
            f"{self.elapsed:7.3f} s  kill {n + 1} of {self.plan.kills}: {name}, {moment}"
            f"  {counts['acknowledged']:,} acknowledged"
            f"  {counts['delivered']:,} delivered"
            f"{'  SOMETHING IS WRONG' if self.tally.failed else ''}",
            flush=True,
        )

    @property
    def table(self) -> str:
        """All that came of it."""
        return self.tally.table(self._rows())

    def _rows(self) -> list[tuple[str, str]]:
        counts = self.tally.counts
        assert self._nodes is not None
        recorded = len(self.ledger.recorded) - len(self.ledger.acknowledged)
        return [
            ("seconds", f"{self.elapsed:,.0f}"),
            ("seed", f"{self.seed}"),
            ("kills", f"{len(self.ledger.kills):,}"),
            ("longest away, seconds", f"{max(node.away for node in self._nodes.all):.2f}"),
            *((what, f"{counts[what]:,}") for what in ("asked", "acknowledged")),
            ("not acknowledged", f"{counts['not acknowledged']:,}"),
            ("not acknowledged, but recorded", f"{recorded:,}"),
            *(
                (what, f"{counts[what]:,}")
                for what in (
                    "delivered",
                    "streams that ended",
                    "resumed in another process, with a patch",
                    "resumed in another process, with a snapshot",
                )
            ),
        ]

    def close(self) -> None:
        if self._nodes is not None:
            self._nodes.close()

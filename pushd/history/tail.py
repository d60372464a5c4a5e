"""
The log in Redis, followed: every draft of every node, each once, in order.

Beside the drafts it hears whether anything can be recorded, and whether Redis
still has what it had. A Redis that was emptied, or that fell back to an
earlier state (its disk is a second behind, a replica took over), would give
seqs out twice. So each second, and before it reads from a new connection, the
tail looks for the draft that it was told last, by its nonce; when that is not
there, another epoch begins, on all nodes. So it does when Redis is in an epoch
that began before the one that the tail knows.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from pushd.errors import HistoryError
from pushd.event import Document, Event
from pushd.history.scripts import CHECK
from pushd.history.stored import payload, seq, unpacked
from pushd.redis.client import Redis

CHECK_SECONDS = 1.0
"""How long it may take to see that Redis is another one."""

_RETRY_SECONDS = 0.2
"""How soon to look again when Redis has refused."""

_DRAFTS = 64
"""How many are read at once; with them come their documents."""


class Entry(msgspec.Struct, frozen=True):
    """
    A draft in the log.

    :ivar place: its id there: ``<seq of its last event>-0``.
    :ivar nonce: tells it from another that was given the same seq.
    :ivar events: none at the beginning of an epoch.
    """

    place: bytes
    epoch: bytes
    nonce: bytes
    events: tuple[Event, ...]
    document: Document | None


class Follower(Protocol):
    """Who is told what the tail sees."""

    def told(self, entry: Entry) -> None:
        """The next draft."""

    def began(self, head: int) -> None:
        """
        The tail is at `head`, the first time, or again after it could not follow or
        another epoch has begun.
        """

    def looked(self, problem: str | None) -> None:
        """Something can be recorded, or a sentence why not. Told again and again."""


class Tail:
    """
    :param redis: a connection of its own: reading from the log blocks it.
    :param now: seconds since 1970.
    :ivar epoch: of what is told; empty before :meth:`Follower.began`.
    :ivar seq: of the last event told.
    """

    log = Logger()

    def __init__(
        self, redis: Redis, clock: IReactorTime, now: Callable[[], float], follower: Follower
    ) -> None:
        self.epoch = ""
        self.seq = 0
        self._begun = b"0"
        self._server = b""
        self._place = b""
        self._nonce = b""
        self._redis = redis
        self._clock = clock
        self._now = now
        self._follower = follower
        self._following: Deferred[None] | None = None

    def start(self) -> None:
        """Follow, whatever becomes of the connection."""
        self._following = Deferred.fromCoroutine(self._follow())
        self._following.addErrback(lambda failure: failure.trap(CancelledError))

    def stop(self) -> None:
        """No longer."""
        if self._following is not None:
            self._following.cancel()

    async def _follow(self) -> None:
        while True:
            try:
                await self._check()
                self._follower.looked(None)
                until = self._clock.seconds() + CHECK_SECONDS
                while self._clock.seconds() < until and await self._read():
                    pass
                continue
            except HistoryError as error:
                self._follower.looked(str(error))
            except CancelledError:
                raise
            except Exception:
                self.log.failure("what the log in Redis says cannot be followed")
                self._follower.looked("What Redis has is not what pushd put there.")
            await deferLater(self._clock, _RETRY_SECONDS)

    async def _check(self, epoch: str | None = None) -> None:
        """Whether Redis is as it was; if it is not, go on from where it is."""
        keys = [self._redis.key(name) for name in ("state", "log", "nothing")]
        known = self.epoch if epoch is None else epoch
        told = known, self._begun, self._server, self._place, self._nonce
        found, begun, self._server, place, nonce = await self._redis.run(
            CHECK, keys, *told, secrets.token_hex(5), repr(self._now())
        )
        if found != known.encode():
            self.epoch, self._begun = found.decode(), begun
            self._place, self._nonce = place, nonce
            self.seq = seq(place)
            self._follower.began(self.seq)

    async def _read(self) -> bool:
        """Tell what has come; whether all is in order."""
        words = ("XREAD", "COUNT", _DRAFTS, "BLOCK", int(1000 * CHECK_SECONDS), "STREAMS")
        patience = self._redis.timeout + CHECK_SECONDS
        reply = await self._redis.call(
            *words, self._redis.key("log"), self._place, timeout=patience
        )
        for place, fields in reply[0][1] if reply else ():
            entry = _entry(place, fields[1::2])
            if entry.epoch != self.epoch.encode():
                return False
            if entry.events and entry.events[0].seq != self.seq + 1:
                # The log is shorter than what we have missed.
                await self._check("")
                return True
            self._place, self._nonce, self.seq = place, entry.nonce, seq(place)
            self._follower.told(entry)
        return True


def _entry(place: bytes, values: Sequence[bytes]) -> Entry:
    """What the script of an append has written, without the names."""
    epoch, nonce, name, at, held, document, lengths, payloads = values
    words = unpacked(lengths, payloads)
    first = seq(place) - len(words) // 2 + 1
    events = tuple(
        Event(first + n, name.decode(), payload(words[2 * n], words[2 * n + 1]), float(at))
        for n in range(len(words) // 2)
    )
    whole = Document(document, held == b"j") if held else None
    return Entry(place, epoch, nonce, events, whole)

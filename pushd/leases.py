"""
Leases in Redis: which of the nodes that share a history polls which source.

A lease is a key that Redis forgets, unless the node that wrote it does so
again; a node counts on it for less long than Redis keeps it. All are renewed,
and all that others have are asked for, every third of the time for which they
are good. That two nodes never write one topic is not trusted to clocks: the
history asks who has the lease when it records (see :mod:`pushd.history.redis`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import cast, get_args

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pushd.errors import HistoryError
from pushd.interfaces import ILeaseholder, ILeases, Report
from pushd.metrics import Metrics
from pushd.redis.client import Redis, Script, Word
from pushd.topic import State

COUNTED_ON = 0.9
"""
The part of the time of a lease for which it is counted on, from when it was
asked for. The rest is for clocks that differ and for stopping to poll.
"""

AT_ONCE = 100
"""How many leases one script asks for: about a millisecond of Redis's time."""

LONGEST_REASON = 200
"""How many characters of a reason are passed on."""

_ELSEWHERE, _KEPT, _TAKEN = 0, 1, 2

_TAKE = Script(
    """
    -- KEYS of each topic: its lease, its rest, what its history holds of it.
    -- ARGV: node, milliseconds; of each topic: term, what is said of the source, rest (ms).
    local node, ms, told = ARGV[1] .. ' ', tonumber(ARGV[2]), {}
    for n = 1, #KEYS / 3 do
        local lease, resting, topic = KEYS[3 * n - 2], KEYS[3 * n - 1], KEYS[3 * n]
        local term, said, rest = ARGV[3 * n], ARGV[3 * n + 1], tonumber(ARGV[3 * n + 2])
        local held = redis.call('GET', lease)
        if held and held:sub(1, #node) ~= node then
            told[n] = {0, held:match('^%S+ %S+ (.*)$') or '', 0, 0}
        else
            redis.call('SET', lease, node .. term .. ' ' .. said, 'PX', ms)
            -- A shorter one would be over before anybody else could have the lease.
            if rest > ms then
                redis.call('SET', resting, said, 'PX', rest)
            end
            local before = redis.call('GET', resting) or ''
            -- Messages that had its name before it was a document's do not count.
            local kind, seq = unpack(redis.call('HMGET', topic, 'kind', 'seq'))
            seq = kind and tonumber(seq) or 0
            told[n] = {held and 1 or 2, before, redis.call('PTTL', resting), seq}
        end
    end
    return told
    """
)

_GIVE_BACK = Script(
    """
    -- KEYS of each topic: its lease, its rest.
    -- ARGV: node; of each topic: term, what is said of the source, rest (ms).
    for n = 1, #KEYS / 2 do
        local term, said, rest = ARGV[3 * n - 1], ARGV[3 * n], tonumber(ARGV[3 * n + 1])
        local ours = ARGV[1] .. ' ' .. term .. ' '
        local held = redis.call('GET', KEYS[2 * n - 1])
        if held and held:sub(1, #ours) == ours then
            redis.call('DEL', KEYS[2 * n - 1])
            if rest > 0 then
                redis.call('SET', KEYS[2 * n], said, 'PX', rest)
            end
        end
    end
    """
)


class _Lease:
    """
    What is known of one.

    :ivar term: tells it from others of this node for the same topic: what was sent late,
        over a connection that is no more, must not give back what was had since.
    :ivar until: when this node no longer counts on it; None while it is not here.
    :ivar asked: whether the answer to that is on its way.
    :ivar seq: what the next holder is to be told, see :meth:`ILeaseholder.granted`.
    """

    def __init__(self, holder: ILeaseholder, term: int) -> None:
        self.holder = holder
        self.term = term
        self.wanted = True
        self.until: float | None = None
        self.asked = False
        self.seq: int | None = None


@implementer(ILeases)
class Leases:
    """
    :param node: tells this process from all others, without a space.
    :param seconds: for how long Redis keeps a lease that is not renewed.
    """

    log = Logger()

    def __init__(
        self, redis: Redis, node: str, seconds: float, clock: IReactorTime, metrics: Metrics
    ) -> None:
        self._redis = redis
        self._node = node
        self._seconds = seconds
        self._clock = clock
        self._metrics = metrics
        self._leases: dict[str, _Lease] = {}
        self._changed: dict[str, None] = {}
        self._terms = count(1)
        self._turn: IDelayedCall | None = None
        self._losing: IDelayedCall | None = None
        self._is_closed = False
        self._giving_back: set[Deferred[None]] = set()
        self._loop = LoopingCall(self._ask_for_all)
        self._loop.clock = clock

    def start(self) -> None:
        """Ask for all that is wanted, from now on."""
        self._redis.made.append(self._ask_for_all)
        self._redis.lost.append(self._disconnected)
        self._loop.start(self._seconds / 3, now=False).addErrback(
            lambda failure: self.log.failure("leases are not renewed any more", failure)
        )

    async def close(self) -> None:
        """Take all from their holders, and give them back. Nothing is granted any more."""
        self._is_closed = True
        if self._loop.running:
            self._redis.made.remove(self._ask_for_all)
            self._redis.lost.remove(self._disconnected)
            self._loop.stop()
        for call in (self._turn, self._losing):
            if call is not None and call.active():
                call.cancel()
        held = {key: lease for key, lease in self._leases.items() if lease.until is not None}
        self._leases.clear()
        for lease in held.values():
            self._lose(lease)
        self._give_back(held)
        await DeferredList(tuple(self._giving_back))

    # What holders ask for. It is done at the end of the turn.

    def want(self, key: str, holder: ILeaseholder) -> None:
        """See :meth:`ILeases.want`."""
        if self._is_closed:
            return
        lease = self._leases.get(key)
        if lease is None:
            self._leases[key] = _Lease(holder, next(self._terms))
        else:
            lease.holder, lease.wanted = holder, True
            if lease.until is not None:
                self._grant(lease, None)
        self._change(key)

    def unwant(self, key: str, holder: ILeaseholder) -> None:
        """See :meth:`ILeases.unwant`."""
        lease = self._leases.get(key)
        if lease is not None and lease.holder is holder:
            lease.wanted = False
            self._change(key)

    def doubt(self, key: str, holder: ILeaseholder) -> None:
        """See :meth:`ILeases.doubt`."""
        lease = self._leases.get(key)
        if lease is not None and lease.holder is holder:
            self._lose(lease)
            self._change(key)

    def _change(self, key: str) -> None:
        self._changed[key] = None
        if self._turn is None:
            self._turn = self._clock.callLater(0, self._end_turn)

    def _end_turn(self) -> None:
        self._turn = None
        changed, self._changed = self._changed, {}
        leases = {key: self._leases[key] for key in changed if key in self._leases}
        unwanted = {key: lease for key, lease in leases.items() if not lease.wanted}
        for key in unwanted:
            del self._leases[key]
        self._give_back({key: lease for key, lease in unwanted.items() if lease.until is not None})
        self._ask_for(key for key, lease in leases.items() if lease.wanted and lease.until is None)

    # To have.

    def _ask_for_all(self) -> None:
        self._ask_for(self._leases)

    def _ask_for(self, keys: Iterable[str]) -> None:
        """Unless the answer is on its way; without a connection, when there is one."""
        if not self._redis.connected:
            return
        for some in _batches([key for key in keys if not self._leases[key].asked]):
            self._take({key: self._leases[key] for key in some})

    def _take(self, leases: Mapping[str, _Lease]) -> None:
        for lease in leases.values():
            lease.asked = True
        keys = self._keys(leases, "lease", "rest", "topic")
        words = [
            word
            for lease in leases.values()
            for word in _words(lease, None if lease.until is None else lease.holder)
        ]
        sent = self._clock.seconds()
        taking = self._redis.run(_TAKE, keys, self._node, _milliseconds(self._seconds), *words)
        taking.addCallbacks(
            self._answered, self._not_answered, callbackArgs=(leases, sent), errbackArgs=(leases,)
        )
        taking.addErrback(lambda failure: self.log.failure("leases were not taken", failure))

    def _answered(
        self,
        answers: Sequence[tuple[int, bytes, int, int]],
        leases: Mapping[str, _Lease],
        sent: float,
    ) -> None:
        for (key, lease), (answer, said, rest, seq) in zip(leases.items(), answers, strict=True):
            lease.asked = False
            if self._leases.get(key) is not lease:
                if answer != _ELSEWHERE:
                    self._give_back({key: lease})
            elif answer == _ELSEWHERE:
                self._lose(lease)
                if lease.wanted:
                    lease.holder.elsewhere(_report(said, 0))
            else:
                if answer == _TAKEN:
                    # Another may have had it meanwhile.
                    self._lose(lease)
                self._have(lease, sent, seq, _report(said, rest) if said else None)
        self._look_out()

    def _not_answered(self, failure: Failure, leases: Mapping[str, _Lease]) -> None:
        """Those that are here are lost when their time is over, if this goes on."""
        failure.trap(HistoryError)
        for lease in leases.values():
            lease.asked = False

    def _have(self, lease: _Lease, sent: float, seq: int, report: Report | None) -> None:
        until = sent + COUNTED_ON * self._seconds
        if until <= self._clock.seconds():
            return
        if lease.until is not None:
            lease.until = until
            if seq == 0:
                lease.holder.unrecorded()
            return
        lease.until, lease.seq = until, seq
        self._metrics.leases.inc()
        if lease.wanted:
            self._grant(lease, report)

    def _grant(self, lease: _Lease, report: Report | None) -> None:
        seq, lease.seq = lease.seq, None
        lease.holder.granted(seq, report)

    # To have no longer.

    def _lose(self, lease: _Lease) -> None:
        if lease.until is not None:
            lease.until = None
            self._metrics.leases.dec()
            lease.holder.revoked()

    def _disconnected(self, _: str) -> None:
        """The Redis that is found next may know nothing of them, and give them to others."""
        for lease in tuple(self._leases.values()):
            self._lose(lease)

    def _look_out(self) -> None:
        """Wake up when the first would be lost, if it is not renewed."""
        ends = [lease.until for lease in self._leases.values() if lease.until is not None]
        if self._losing is None and ends:
            wait = max(0.0, min(ends) - self._clock.seconds())
            self._losing = self._clock.callLater(wait, self._lose_what_is_over)

    def _lose_what_is_over(self) -> None:
        self._losing = None
        now = self._clock.seconds()
        for lease in tuple(self._leases.values()):
            if lease.until is not None and lease.until <= now:
                self._lose(lease)
        self._look_out()

    def _give_back(self, leases: Mapping[str, _Lease]) -> None:
        """Without a connection there is nothing to do: their time will be over."""
        for lease in leases.values():
            if lease.until is not None:
                lease.until = None
                self._metrics.leases.dec()
        if not self._redis.connected:
            return
        for some in _batches(list(leases)):
            keys = self._keys(some, "lease", "rest")
            words = [word for key in some for word in _words(leases[key], leases[key].holder)]
            giving = self._redis.run(_GIVE_BACK, keys, self._node, *words)
            self._giving_back.add(giving)
            giving.addBoth(self._given_back, giving)

    def _given_back(self, result: object, giving: Deferred[None]) -> None:
        self._giving_back.remove(giving)
        if isinstance(result, Failure):
            result.trap(HistoryError)

    def _keys(self, topics: Iterable[str], *kinds: str) -> list[str]:
        return [self._redis.key(kind, topic) for topic in topics for kind in kinds]


def _batches(keys: Sequence[str]) -> Iterable[Sequence[str]]:
    return (keys[at : at + AT_ONCE] for at in range(0, len(keys), AT_ONCE))


def _words(lease: _Lease, holder: ILeaseholder | None) -> tuple[Word, ...]:
    """What the scripts are given of a lease; `holder` is asked what there is to say."""
    report = Report("ok") if holder is None else holder.report()
    return lease.term, _said(report), _milliseconds(report.rest)


def _said(report: Report) -> str:
    """What is passed on, but for the rest: ``"error The source answered 500."``"""
    return f"{report.state} {(report.reason or '')[:LONGEST_REASON]}"


def _report(said: bytes, rest: int) -> Report:
    """What :func:`_said` said, and the milliseconds that the rest takes yet."""
    state, _, reason = said.decode(errors="replace").partition(" ")
    if state not in get_args(State):
        state = "ok"
    return Report(cast("State", state), reason or None, max(0, rest) / 1000)


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)

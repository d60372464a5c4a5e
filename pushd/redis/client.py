"""
A connection to Redis that is kept: made again whenever it was lost.

A command waits for the connection if there is none, and is sent once at the
most: when the connection ends before the reply came, nobody knows whether it
was done, and the sender is told so. Everything has a deadline. What is in
Redis, and what it means, is not known here; only that all keys begin alike.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TypeAlias, cast

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.error import ConnectionClosed, DNSLookupError
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.errors import HistoryError
from pushd.redis.address import Address
from pushd.redis.protocol import RedisProtocol, Refused, StrangeError

Word: TypeAlias = bytes | str | int | float
"""What commands are made of; text is sent as UTF-8."""

RETRY_SECONDS = 0.1, 2.0
"""How long to wait before connecting again: the first time, and at the most."""

AGAIN_SECONDS = 60.0
"""How often the log says that things are as bad as before."""

_SAID = {
    "NOAUTH": "Redis wants a password.",
    "WRONGPASS": "Redis does not accept the user and password.",
    "NOPERM": "Redis does not allow pushd's user what pushd needs.",
    "LOADING": "Redis is still reading its data.",
    "READONLY": "This Redis is a replica, to which nothing can be written.",
    "MASTERDOWN": "This Redis is a replica that has lost its master.",
    "NOREPLICAS": "Redis has not enough replicas.",
    "OOM": "Redis is out of memory.",
    "MISCONF": "Redis cannot save its data, and accepts nothing until it can.",
    "BUSY": "Redis is busy with a script.",
    "CLUSTERDOWN": "The Redis cluster is down.",
    "MOVED": "This Redis is a node of a cluster that has pushd's keys elsewhere.",
}
"""
The first words of what Redis answers, as sentences for anybody. Redis's own name
users, and are in the log.
"""

_UNCONNECTED: dict[type[Exception], str] = {
    DNSLookupError: "Redis's host name was not found.",
    TimeoutError: "Redis does not answer.",
    VerificationError: "Redis's certificate is for another host name.",
    SSL.Error: "There is no trusted TLS connection to Redis.",
    ConnectionClosed: "Redis closes the connection.",
    StrangeError: "What answers there is no Redis.",
}
"""Sentences for there being no connection."""

_ELSEWHERE = frozenset({"READONLY", "MASTERDOWN", "MOVED", "NOAUTH"})
"""What a new connection may cure: after a failover the same address is another server."""


class UnknownOutcomeError(HistoryError):
    """It was sent, and no reply came: it may have been done."""


class RefusedError(HistoryError):
    """
    Redis did not do it.

    :ivar code: the first word of its answer.
    """

    def __init__(self, refused: Refused) -> None:
        super().__init__(_SAID.get(refused.code, "Redis answered with an error."))
        self.code = refused.code


class Script:
    """A Lua script, which Redis knows by its digest once it has seen it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


class _Call:
    """A command on its way. Its `deadline` begins when it is asked for."""

    def __init__(self, command: tuple[Word, ...], result: Deferred[Any]) -> None:
        self.command = command
        self.result = result
        self.deadline: IDelayedCall | None = None

    def done(self, reply: object) -> None:
        """With its reply, or a failure."""
        self.end()
        # It may have been cancelled, or been too late.
        if not self.result.called:
            self.result.callback(reply)

    def end(self) -> None:
        """It waits for nothing any more."""
        if self.deadline is not None and self.deadline.active():
            self.deadline.cancel()


class Redis:
    """
    :param address: where it is.
    :param endpoint: how to connect to it: ``address.endpoint(...)``.
    :param prefix: what all keys begin with, in braces: so they are in one slot of a cluster.
    :param timeout: seconds that a command may take, and so may connecting.
    :ivar timeout: the same.
    :ivar made: called when a connection was made, before what waits for it is sent.
    :ivar lost: called with a sentence when one was lost or could not be made, every time.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        address: Address,
        endpoint: IStreamClientEndpoint,
        prefix: str,
        timeout: float,
    ) -> None:
        self.made: list[Callable[[], object]] = []
        self.lost: list[Callable[[str], object]] = []
        self._clock = clock
        self._address = address
        self._endpoint = endpoint
        self._prefix = prefix
        self.timeout = timeout
        self._protocol: RedisProtocol | None = None
        self._waiting: dict[_Call, None] = {}
        self._keeping: Deferred[None] | None = None
        self._is_stopping = False
        self._complaint = ""
        self._complained = 0.0

    @property
    def connected(self) -> bool:
        """Whether a command would be sent at once."""
        return self._protocol is not None

    def key(self, *parts: str) -> str:
        """The key of something of pushd's: ``key("lease", "a/b")`` is ``{pushd}:lease:a/b``."""
        return ":".join((f"{{{self._prefix}}}", *parts))

    def start(self) -> None:
        """Connect, and stay connected."""
        assert self._keeping is None, "started twice"
        self._keeping = Deferred.fromCoroutine(self._keep())

    async def stop(self) -> None:
        """Disconnect; what waits for a reply fails."""
        if self._keeping is None or self._is_stopping:
            return
        self._is_stopping = True
        if self._protocol is not None:
            self._protocol.abort()
        else:
            self._keeping.cancel()
        with suppress(CancelledError):
            await self._keeping
        for call in tuple(self._waiting):
            del self._waiting[call]
            call.done(Failure(HistoryError("pushd is ending.")))

    # Commands.

    def call(self, *command: Word, timeout: float | None = None) -> Deferred[Any]:
        """
        The reply to a command: bytes, an int, None, or a list of those.

        Fails with :class:`~pushd.errors.HistoryError`: :class:`RefusedError` if Redis did
        not do it, :class:`UnknownOutcomeError` if it may have, another if it was never sent.
        Cancelling takes it back, if it was not sent.

        :param timeout: seconds, if it may take longer than others.
        """
        call = _Call(command, Deferred(lambda _: self._take_back(call)))
        seconds = self.timeout if timeout is None else timeout
        call.deadline = self._clock.callLater(seconds, self._late, call)
        if self._protocol is None:
            self._waiting[call] = None
        else:
            self._send(self._protocol, call)
        return call.result

    def run(self, script: Script, keys: Sequence[str], *arguments: Word) -> Deferred[Any]:
        """The result of a script, once all of it was done. Fails as :meth:`call` does."""
        rest = (len(keys), *keys, *arguments)

        def unknown(failure: Failure) -> Any:
            error = failure.value
            if not isinstance(error, RefusedError) or error.code != "NOSCRIPT":
                return failure
            # It has not been run: this is no second time.
            return self.call("EVAL", script.source, *rest)

        return self.call("EVALSHA", script.digest, *rest).addErrback(unknown)

    def reconnect(self) -> None:
        """Give up this connection for a new one: what is sent fails, and may have been done."""
        if self._protocol is not None:
            protocol, self._protocol = self._protocol, None
            protocol.abort()

    def _take_back(self, call: _Call) -> None:
        call.end()
        self._waiting.pop(call, None)

    def _send(self, protocol: RedisProtocol, call: _Call) -> None:
        protocol.ask(*call.command).addErrback(self._failed, protocol).addBoth(call.done)

    def _failed(self, failure: Failure, protocol: RedisProtocol) -> Failure:
        error = failure.value
        if not isinstance(error, Refused):
            return Failure(UnknownOutcomeError("The connection to Redis was lost."))
        refused = RefusedError(error)
        if error.code != "NOSCRIPT":
            self._complain(refused, error)
        if error.code in _ELSEWHERE and protocol is self._protocol:
            self.reconnect()
        return Failure(refused)

    def _late(self, call: _Call) -> None:
        if call.result.called:
            return
        if call in self._waiting:
            del self._waiting[call]
            call.result.errback(HistoryError("Redis cannot be reached."))
        else:
            # Replies come in order: nothing sent after it would be answered either.
            self.reconnect()
            call.result.errback(UnknownOutcomeError("Redis has not answered in time."))

    # The connection.

    async def _keep(self) -> None:
        wait, most = RETRY_SECONDS
        while not self._is_stopping:
            try:
                protocol = await self._connect()
            except CancelledError:
                raise
            except Exception as error:
                reason = _reason(error)
                self._complain(reason, error)
            else:
                wait, _ = RETRY_SECONDS
                self._serve(protocol)
                await protocol.lost
                self._protocol = None
                reason = HistoryError("The connection to Redis was lost.")
            for lost in tuple(self.lost):
                lost(str(reason))
            if not self._is_stopping:
                # Nodes that lost it together come back apart.
                await deferLater(self._clock, wait * random.uniform(0.5, 1))
            wait = min(2 * wait, most)

    async def _connect(self) -> RedisProtocol:
        """A connection that has been answered on."""
        protocol = cast("RedisProtocol", await self._endpoint.connect(_Factory()))
        try:
            hello = Deferred.fromCoroutine(self._introduce(protocol))
            await hello.addTimeout(self.timeout, self._clock, _too_late)
        except BaseException:
            protocol.abort()
            raise
        return protocol

    async def _introduce(self, protocol: RedisProtocol) -> None:
        """Say who we are, and wait until Redis is ready."""
        user, password = self._address.user, self._address.password
        if password is not None:
            try:
                await protocol.ask("AUTH", *([user] if user else []), password)
            except Refused as refused:
                # The answer to what it does not understand has the password in it.
                raise refused if refused.code in _SAID else Refused("WRONGPASS") from None
        if self._address.database:
            await protocol.ask("SELECT", self._address.database)
        await protocol.ask("PING")

    def _serve(self, protocol: RedisProtocol) -> None:
        self._protocol = protocol
        if self._complaint:
            self.log.info("connected to {address}", address=self._address)
            self._complaint = ""
        for made in tuple(self.made):
            made()
        waiting, self._waiting = self._waiting, {}
        for call in waiting:
            self._send(protocol, call)

    def _complain(self, reason: HistoryError, error: Exception) -> None:
        """For the operator; once in a while, as long as it stays the same."""
        complaint = f"{reason} ({str(error).partition(', with args')[0]})"
        now = self._clock.seconds()
        if complaint != self._complaint or now - self._complained >= AGAIN_SECONDS:
            self._complaint, self._complained = complaint, now
            self.log.error("{address}: {complaint}", address=self._address, complaint=complaint)


def _too_late(_: object, seconds: float) -> NoReturn:
    raise TimeoutError(f"not within {seconds:g} s")


class _Factory(Factory):
    """Silent, or the log has two lines for each connection."""

    protocol = RedisProtocol
    noisy = False


def _reason(error: Exception) -> HistoryError:
    """Why there is no connection, for anybody: no address."""
    if isinstance(error, Refused):
        return RefusedError(error)
    for kind, text in _UNCONNECTED.items():
        if isinstance(error, kind):
            return HistoryError(text)
    return HistoryError("Redis cannot be reached.")

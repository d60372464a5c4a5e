"""What is between pushd and its Redis: it may break at any command, and lead elsewhere."""

from __future__ import annotations

from typing import Any

import hiredis
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    connectProtocol,
)
from twisted.internet.protocol import Factory, Protocol

reactor: Any = _reactor


class RedisProxy:
    """
    ``async with RedisProxy(server.port) as proxy``.

    :ivar port: where it leads; may be changed, for connections to come.
    :ivar is_open: whether it takes connections at all.
    :ivar seen: the commands that came by.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.is_open = True
        self.seen: list[list[bytes]] = []
        self._cut: tuple[int, str] | None = None
        self._sides: set[_Side] = set()

    async def __aenter__(self) -> RedisProxy:
        factory = Factory.forProtocol(lambda: _Client(self))  # type: ignore[arg-type]
        factory.noisy = False
        self._listening = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(
            factory
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self.break_off()
        await self._listening.stopListening()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._listening.getHost().port}/0"

    def break_off(self) -> None:
        """End all connections, in the middle of whatever is said."""
        for side in tuple(self._sides):
            side.transport.abortConnection()  # type: ignore[union-attr]

    def cut(self, command: int, when: str) -> None:
        """
        Break off at a command to come, counted from 0.

        :param when: ``"before"`` Redis has it, or ``"after"`` it has answered.
        """
        self.seen.clear()
        self._cut = command, when

    @property
    def has_cut(self) -> bool:
        return self._cut is None

    def takes(self, command: list[bytes]) -> str | None:
        """When to break off at this command, if at all."""
        self.seen.append(command)
        if self._cut is None or len(self.seen) <= self._cut[0]:
            return None
        _, when = self._cut
        self._cut = None
        return when


class _Side(Protocol):
    """One end of what is passed on."""

    other: _Side | None = None
    proxy: RedisProxy

    def connectionMade(self) -> None:
        self.proxy._sides.add(self)

    def connectionLost(self, _: object = None) -> None:
        self.proxy._sides.discard(self)
        if self.other is not None:
            self.other.transport.abortConnection()  # type: ignore[union-attr]


class _Client(_Side):
    """Commands, one at a time, which may wait for the connection to Redis."""

    def __init__(self, proxy: RedisProxy) -> None:
        self.proxy = proxy
        self._reader = hiredis.Reader(notEnoughData=None)
        self._server: Deferred[_Server] = Deferred()

    def connectionMade(self) -> None:
        super().connectionMade()
        if not self.proxy.is_open:
            self.transport.abortConnection()  # type: ignore[union-attr]
            return
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.proxy.port)
        self._server = connectProtocol(endpoint, _Server(self))
        self._server.addErrback(lambda _: self.transport.abortConnection())  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        self._reader.feed(data)
        while (command := self._reader.gets()) is not None:
            when = self.proxy.takes(command)
            if when == "before":
                self.transport.abortConnection()  # type: ignore[union-attr]
                return
            self._server.addCallback(_pass_on, command, when == "after")


def _pass_on(server: _Server | None, command: list[bytes], is_last: bool) -> _Server | None:
    if server is not None:
        server.transport.write(hiredis.pack_command(tuple(command)))  # type: ignore[union-attr,arg-type]
        server.is_last = server.is_last or is_last
    return server


class _Server(_Side):
    """Replies."""

    def __init__(self, client: _Client) -> None:
        self.proxy = client.proxy
        self.other = client
        self.is_last = False
        client.other = self

    def dataReceived(self, data: bytes) -> None:
        assert self.other is not None
        if self.is_last:
            self.other.transport.abortConnection()  # type: ignore[union-attr]
        else:
            self.other.transport.write(data)  # type: ignore[union-attr]

"""What the system knows about the peer of a connection, beneath whatever lies between."""

from __future__ import annotations

import math
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet import reactor as _reactor
from twisted.internet.endpoints import serverFromString, wrapServerTLS
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport
from upstream import until
from upstream.certificates import Authority

from pushd.certificate import Certificate
from pushd.peer import mind, patience, silent, taken

reactor: Any = _reactor


class Accepted(Protocol):
    lost = False

    def connectionLost(self, _: object = None) -> None:
        self.lost = True


class Peers(Factory):
    noisy = False
    protocol = Accepted

    def __init__(self) -> None:
        self.accepted: list[Any] = []

    def buildProtocol(self, _: object) -> Protocol:
        self.accepted.append(Accepted())
        return self.accepted[-1]


@asynccontextmanager
async def connected(
    endpoint: Any, family: int = socket.AF_INET, seconds: float = 30
) -> AsyncIterator[tuple[Accepted, socket.socket]]:
    """A connection: our side as a protocol, the peer's as a socket that nobody reads."""
    peers = Peers()
    port = await endpoint.listen(peers)
    if family != socket.AF_UNIX:
        mind(port.socket, seconds)
    client = socket.socket(family)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    client.connect(port.socket.getsockname())
    client.setblocking(False)
    try:
        await until(lambda: peers.accepted)
        yield peers.accepted[0], client
    finally:
        client.close()
        await until(lambda: peers.accepted[0].lost)
        await port.stopListening()


def tcp() -> Any:
    return serverFromString(reactor, "tcp:0:interface=127.0.0.1")


async def test_what_the_peer_has_taken_is_known_beneath_the_proxy_protocol() -> None:
    endpoint = serverFromString(reactor, "haproxy:tcp:0:interface=127.0.0.1")
    async with connected(endpoint) as (accepted, client):
        client.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")
        before = taken(accepted.transport)
        assert before is not None
        accepted.transport.write(b"x" * 1000)  # type: ignore[union-attr]
        await until(lambda: taken(accepted.transport) == before + 1000)


async def test_what_the_peer_has_taken_is_known_beneath_tls(tmp_path: Path) -> None:
    identity = Authority().issue("pushd.test")
    (tmp_path / "pem").write_bytes(identity.key + identity.pem)
    certificate = Certificate(*[str(tmp_path / "pem")] * 2)
    async with connected(wrapServerTLS(certificate, tcp(), reactor)) as (accepted, client):
        tls = SSL.Connection(SSL.Context(SSL.TLS_METHOD), client)
        tls.set_connect_state()
        while True:
            try:
                tls.do_handshake()
                break
            except SSL.WantReadError:
                await deferLater(reactor, 0.001)
        await deferLater(reactor, 0.05)
        before = taken(accepted.transport)
        accepted.transport.write(b"x" * 1000)  # type: ignore[union-attr]
        await until(lambda: (taken(accepted.transport) or 0) >= (before or 0) + 1000)


async def test_one_that_reads_nothing_takes_what_its_system_holds_and_no_more() -> None:
    async with connected(tcp()) as (accepted, client):
        patience(accepted.transport, math.inf)
        accepted.transport.write(b"x" * 10_000_000)  # type: ignore[union-attr]
        await deferLater(reactor, 0.2)
        stood = taken(accepted.transport)
        assert stood is not None and 0 < stood < 1_000_000
        await deferLater(reactor, 0.3)
        assert taken(accepted.transport) == stood
        assert silent(accepted.transport) == 0, "its system speaks"
        client.recv(100_000)
        client.recv(100_000)
        await until(lambda: taken(accepted.transport) != stood)


async def test_nobody_can_tell_of_what_is_no_tcp_or_is_over(tmp_path: Path) -> None:
    endpoint = serverFromString(reactor, f"unix:{tmp_path / 'socket'}")
    async with connected(endpoint, socket.AF_UNIX) as (accepted, _):
        others: list[Any] = [accepted.transport, StringTransport(), None]
        for transport in others:
            assert taken(transport) is None
            assert silent(transport) == 0
            patience(transport, 1)
    async with connected(tcp()) as (accepted, client):
        transport = accepted.transport
        assert taken(transport) is not None
        client.close()
        await until(lambda: accepted.lost)
        assert taken(transport) is None
        assert silent(transport) == 0
        patience(transport, 1)


@pytest.mark.parametrize("seconds", [1, 2, 30, 86_400])
async def test_connections_inherit_how_long_the_system_waits(seconds: float) -> None:
    async with connected(tcp(), seconds=seconds) as (accepted, _):
        handle = accepted.transport.getHandle()  # type: ignore[union-attr]
        tcp_option = handle.getsockopt
        assert tcp_option(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        waits = tcp_option(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) / 1000
        assert waits == pytest.approx(seconds * 2 / 3, abs=0.001)
        asks = tcp_option(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        again = tcp_option(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
        times = tcp_option(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
        if 2 <= seconds <= 30:
            assert asks == seconds / 2
            assert asks + again * times <= seconds * 2


async def test_patience_is_for_one_connection_and_may_be_without_end() -> None:
    async with connected(tcp()) as (accepted, _):
        handle = accepted.transport.getHandle()  # type: ignore[union-attr]
        for seconds, milliseconds in ((60, 60_000), (0.5, 500), (math.inf, 0)):
            patience(accepted.transport, seconds)
            given = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert given == milliseconds


async def test_with_patience_one_that_does_not_read_is_not_given_up() -> None:
    async with connected(tcp(), seconds=1) as (accepted, client):
        patience(accepted.transport, math.inf)
        accepted.transport.write(b"x" * 3_000_000)  # type: ignore[union-attr]
        began, received = time.monotonic(), 0
        while time.monotonic() - began < 1.5:
            await deferLater(reactor, 0.1)
            received += len(client.recv(500))
        assert not accepted.lost
        while received < 3_000_000:
            try:
                received += len(client.recv(1_000_000))
            except BlockingIOError:
                await deferLater(reactor, 0.001)


async def test_the_kernel_tells_where_it_is_said_to() -> None:
    """The offsets in ``struct tcp_info``, tried with what ``ss -ti`` would tell."""
    async with connected(tcp()) as (accepted, client):
        accepted.transport.write(b"x" * 5000)  # type: ignore[union-attr]
        await until(lambda: _peek(client) == 5000)
        # tcpi_bytes_received on the other side (offset 128).
        info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
        await until(lambda: taken(accepted.transport) in (5000, 5001))
        assert struct.unpack_from("=Q", info, 128)[0] in (5000, 5001)


def _peek(client: socket.socket) -> int:
    try:
        return len(client.recv(65536, socket.MSG_PEEK))
    except BlockingIOError:
        return 0

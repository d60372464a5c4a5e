"""Where connections come from: endpoints, the options of their sockets, and when none are taken."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as _reactor
from twisted.internet import tcp
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater
from upstream import until
from upstream.certificates import Authority

from pushd import listening
from pushd.config import Server
from pushd.errors import ConfigError
from pushd.listening import OVER_SECONDS, RETRY_SECONDS, Listener

reactor: Any = _reactor
AUTHORITY = Authority()


class Echo(Protocol):
    def connectionMade(self) -> None:
        self.factory.count(self, True)  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[union-attr]

    def connectionLost(self, _: object = None) -> None:
        self.factory.count(self, False)  # type: ignore[union-attr]


class Echoes(Factory):
    """Counts its connections, and tells the listener when they are enough and no longer."""

    noisy = False
    protocol = Echo
    listener: Listener

    def __init__(self) -> None:
        self.open: set[Any] = set()
        self._enough = False

    def count(self, protocol: Echo, there: bool) -> None:
        (self.open.add if there else self.open.discard)(protocol)
        enough = len(self.open) >= self.listener.enough
        if enough != self._enough:
            self._enough = enough
            self.listener.full(enough)


class Open:
    """A listener in use, and its clients."""

    def __init__(self, listener: Listener, echoes: Echoes) -> None:
        self.listener = listener
        self.echoes = echoes
        self.clients: list[socket.socket] = []

    def connect(self, host: str = "127.0.0.1") -> socket.socket:
        port = self.listener.address.port  # type: ignore[attr-defined]
        client = socket.create_connection((host, port))
        client.setblocking(False)
        self.clients.append(client)
        return client

    async def answers(self, client: socket.socket, seconds: float = 2) -> None:
        client.send(b"hello")
        await until(lambda: (received(client) or b"").endswith(b"hello"), seconds)

    async def waits(self, client: socket.socket) -> None:
        client.send(b"hello")
        await deferLater(reactor, 0.1)
        assert received(client) is None


def received(client: socket.socket) -> bytes | None:
    """None: nothing yet."""
    with suppress(BlockingIOError):
        return client.recv(65536)
    return None


@asynccontextmanager
async def opened(
    description: str = "tcp:0:interface=127.0.0.1", server: Server | None = None
) -> AsyncIterator[Open]:
    echoes = Echoes()
    listener = echoes.listener = Listener(reactor, description, server or Server(max_clients=10))
    await listener.listen(echoes)
    one = Open(listener, echoes)
    try:
        yield one
    finally:
        for client in one.clients:
            client.close()
        await until(lambda: not echoes.open)
        await listener.stop()
        assert not [call for call in reactor.getDelayedCalls() if "Listener" in str(call.func)]


@pytest.fixture
def pem(tmp_path: Path) -> str:
    identity = AUTHORITY.issue("pushd.test", days=30)
    path = tmp_path / "a:b.pem"
    path.write_bytes(identity.key + identity.pem)
    return str(path).replace(":", "\\:")


# Queues.


# Twisted's "tls:" uses what pyOpenSSL would rather not have any more.
TLS = pytest.mark.filterwarnings("ignore:X509.*:DeprecationWarning")


@TLS
@pytest.mark.parametrize("reuse_port", [False, True])
@pytest.mark.parametrize(
    ("description", "backlog"),
    [
        ("tcp:0:interface=127.0.0.1", 4096),
        ("tcp:0:interface=127.0.0.1:backlog=7", 7),
        ("haproxy:tcp:0:interface=127.0.0.1", 4096),
        ("haproxy:tcp:0:interface=127.0.0.1:backlog=7", 7),
        ("tcp6:0:interface=\\:\\:1", 4096),
        ("ssl:0:interface=127.0.0.1:privateKey=PEM", 4096),
        ("ssl:0:interface=127.0.0.1:privateKey=PEM:backlog=7", 7),
        ("tls:FOLDER:port=0:interface=\\:\\:1", 4096),
    ],
)
async def test_thousands_may_wait_if_the_endpoint_does_not_say_otherwise(
    description: str, backlog: int, reuse_port: bool, pem: str, tmp_path: Path
) -> None:
    description = description.replace("PEM", pem).replace("FOLDER", str(tmp_path))
    async with opened(description, Server(reuse_port=reuse_port)) as one:
        option = one.listener._port.socket.getsockopt  # type: ignore[union-attr]
        assert option(socket.SOL_SOCKET, socket.SO_REUSEPORT) == reuse_port
        # tcpi_sacked of a listening socket: the length of its queue (tcp_diag(7)).
        info = option(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
        most = int(Path("/proc/sys/net/core/somaxconn").read_text())
        assert int.from_bytes(info[28:32], "little") == min(backlog, most)


def test_a_port_in_use_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        description = f"tcp:{other.getsockname()[1]}:interface=127.0.0.1"
        listener = Listener(reactor, description, Server())
        coroutine = listener.listen(Echoes())
        with pytest.raises(CannotListenError):
            coroutine.send(None)


# A port of several processes.


PORTS = [
    ("tcp:{port}:interface=127.0.0.1", "127.0.0.1"),
    ("tcp:{port}:interface=\\:\\:1", "::1"),
    ("tcp6:{port}:interface=\\:\\:1", "::1"),
    ("haproxy:tcp:{port}:interface=127.0.0.1", "127.0.0.1"),
    ("ssl:{port}:interface=127.0.0.1:privateKey=PEM", "127.0.0.1"),
]
SHARED = Server(max_clients=1000, reuse_port=True)


@pytest.mark.parametrize(("description", "host"), PORTS)
async def test_with_reuse_port_a_port_is_everybodys_who_says_so(
    description: str, host: str, pem: str
) -> None:
    description = description.replace("PEM", pem)
    async with opened(description.format(port=0), SHARED) as one:
        port = one.listener.address.port  # type: ignore[attr-defined]
        async with opened(description.format(port=port), SHARED) as other:
            assert other.listener.address == one.listener.address
            for _ in range(40):
                one.connect(host)
            await until(lambda: len(one.echoes.open) + len(other.echoes.open) == 40)
            assert one.echoes.open and other.echoes.open, "but for one in 2 ** 39 runs"
            for client in one.clients:
                client.close()
        alone = Listener(reactor, description.format(port=port), Server())
        with pytest.raises(CannotListenError):
            alone.listen(Echoes()).send(None)


@pytest.mark.parametrize("reuse_port", [False, True])
async def test_who_waits_is_taken_before_a_port_is_closed(reuse_port: bool) -> None:
    async with opened(server=Server(max_clients=1000, reuse_port=reuse_port)) as one:
        waiting = [one.connect() for _ in range(300)]
        assert not one.echoes.open, "the reactor has not turned yet"
        await one.listener.stop()
        assert len(one.echoes.open) == 300
        for client in waiting:
            await one.answers(client)


async def test_who_waits_at_a_unix_socket_is_taken_before_it_is_closed(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    async with opened(f"unix:{path}") as one:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            await one.listener.stop()
            assert len(one.echoes.open) == 1
            assert not Path(path).exists()


async def test_who_comes_while_the_last_are_taken_comes_to_another_process() -> None:
    async with opened(server=SHARED) as one:
        port = one.listener.address.port  # type: ignore[attr-defined]
        async with opened(f"tcp:{port}:interface=127.0.0.1", SHARED) as other:
            stopped = Deferred.fromCoroutine(one.listener.stop())
            for _ in range(20):
                other.clients.append(client := socket.socket())
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", port))
            await stopped
            assert not one.echoes.open
            await until(lambda: len(other.echoes.open) == 20, 5)
            for client in other.clients:
                client.close()


async def test_who_waits_when_none_may_be_taken_is_not() -> None:
    async with opened(server=SHARED) as one:
        one.listener.full(True)
        one.connect()
        await one.listener.stop()
        assert not one.echoes.open


# The options of sockets.


@pytest.mark.parametrize("reuse_port", [False, True])
@pytest.mark.parametrize(
    ("description", "host"),
    [
        ("tcp:0:interface=127.0.0.1", "127.0.0.1"),
        ("tcp:0:interface=\\:\\:1", "::1"),
        ("haproxy:tcp:0:interface=127.0.0.1", "127.0.0.1"),
        ("ssl:0:interface=\\:\\:1:privateKey=PEM", "::1"),
    ],
)
async def test_connections_have_the_options_that_were_configured(
    description: str, host: str, reuse_port: bool, pem: str
) -> None:
    server = Server(max_clients=10, peer_timeout=12, send_buffer=30_000, reuse_port=reuse_port)
    async with opened(description.replace("PEM", pem), server) as one:
        one.connect(host)
        await until(lambda: one.echoes.open)
        (connection,) = [r for r in reactor.getReaders() if isinstance(r, tcp.Server)]
        option = connection.getHandle().getsockopt
        assert option(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 8000
        assert option(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert option(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * 30_000


async def test_a_unix_socket_has_no_such_options(tmp_path: Path) -> None:
    async with opened(f"unix:{tmp_path / 'socket'}") as one:
        client = socket.socket(socket.AF_UNIX)
        one.clients.append(client)
        client.connect(str(tmp_path / "socket"))
        client.setblocking(False)
        await one.answers(client)


# Who is let in.


def lines(capture: list[dict[str, Any]]) -> list[str]:
    """What the log says of connections that wait."""
    said = [event["log_format"].format(**event) for event in capture if "log_format" in event]
    return [line for line in said if "new " in line]


async def test_when_there_are_enough_others_wait_and_the_log_says_so_once(
    capture: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "SPARE_CONNECTIONS", 0)
    async with opened(server=Server(max_clients=3)) as one:
        clock = one.listener._reactor = Clock()
        assert one.listener.enough == 3
        # All at once: Twisted would take a hundred in one go.
        clients = [one.connect() for _ in range(6)]
        await until(lambda: len(one.echoes.open) == 3)
        await one.waits(clients[-1])
        for client in clients[:3]:
            await one.answers(client)
        full = ["as many connections as may be are open (3); new ones wait"]
        assert lines(capture) == full
        for number in range(3):
            clients[number].close()
            await one.answers(clients[number + 3], 5)
            # It was almost over, but then they were enough again.
            clock.advance(OVER_SECONDS - 1)
        assert lines(capture) == full
        clients[-1].close()
        await until(lambda: len(one.echoes.open) == 2)
        clock.advance(OVER_SECONDS)
        assert lines(capture) == [*full, "there is room for new connections again"]
        one.connect()
        await until(lambda: len(lines(capture)) == 3)
        assert lines(capture)[2:] == full, "another time is told again"


async def test_out_of_descriptors_all_wait_and_the_log_says_so_once(
    capture: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Exhausted:
        left = 3
        asked = 0

        def __init__(self, listening: socket.socket) -> None:
            self._socket = listening

        def accept(self) -> tuple[socket.socket, Any]:
            self.asked += 1
            if self.left == 0:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            connection = self._socket.accept()
            self.left -= 1
            return connection

        def __getattr__(self, name: str) -> Any:
            return getattr(self._socket, name)

    async with opened() as one:
        clock = one.listener._reactor = Clock()
        door: Any = one.listener._port.socket  # type: ignore[union-attr]
        door._socket = exhausted = Exhausted(door._socket)
        clients = [one.connect() for _ in range(6)]
        for client in clients[:3]:
            await one.answers(client)
        await one.waits(clients[3])
        assert exhausted.asked < 10, "it is not asked all the time"
        exhausted.left = 1
        clock.advance(RETRY_SECONDS)
        await until(lambda: len(one.echoes.open) == 4)
        await until(lambda: len(clock.getDelayedCalls()) == 1)
        exhausted.left = 100
        clock.advance(RETRY_SECONDS)
        await until(lambda: len(one.echoes.open) == 6)
        none = "no connection can be opened (Too many open files); new ones wait"
        assert lines(capture) == [none]
        clock.advance(OVER_SECONDS)
        assert lines(capture) == [none, "there is room for new connections again"]
        door._socket = exhausted._socket


async def test_accepting_can_be_paused_for_several_reasons_at_once() -> None:
    async with opened() as one:
        clock = one.listener._reactor = Clock()
        one.listener._exhausted(OSError(errno.EMFILE, "Too many open files"))
        one.listener.full(True)
        client = one.connect()
        await one.waits(client)
        clock.advance(RETRY_SECONDS)
        await one.waits(client)
        assert one.listener._port not in reactor.getReaders(), "or it would be asked all the time"
        one.listener.full(False)
        await until(lambda: received(client) == b"hellohello")


async def test_few_files_are_told_at_the_start(
    capture: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening.descriptors, "room", lambda: 70)
    async with opened(server=Server(max_clients=71)) as one:
        assert one.listener.enough == 70
        (event,) = [e for e in capture if "ulimit" in str(e.get("log_format"))]
        assert (event["room"], event["max_clients"]) == (70, 71)


# Certificates.


async def test_a_certificate_that_cannot_be_used_changes_nothing(pem: str) -> None:
    async with opened(f"ssl:0:interface=127.0.0.1:privateKey={pem}") as one:
        Path(pem.replace("\\", "")).write_text("nothing")
        with pytest.raises(ConfigError, match="no private key"):
            one.listener.reload()

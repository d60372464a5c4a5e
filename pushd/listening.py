"""
Listening: where connections come from, and when none are taken.

An endpoint as Twisted describes it, with what Twisted leaves to others: a
certificate that can be read again, peers that vanish, a queue for thousands,
and no more connections than there is room for. What is said on a connection is
not this module's business.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import tcp
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import serverFromString, wrapServerTLS
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.logger import Logger

from pushd import descriptors, peer
from pushd.certificate import Certificate
from pushd.config import Server
from pushd.errors import ConfigError

BACKLOG = 4096
"""
How many may wait to be taken. Twisted's 50 make the kernel drop the rest, who
try again after a second, and then after three.
"""

SPARE_CONNECTIONS = 64
"""How many connections there may be, beside a tenth, beyond max_clients: for short requests."""

RETRY_SECONDS = 1.0
"""When the system is asked again, after it could not open a file."""

OVER_SECONDS = 10.0
"""How long connections have to be taken again for the log to say so."""

_QUEUES = ("tcp", "tcp6", "ssl", "tls", "unix")
"""Endpoints that take a backlog."""

_SSL = (
    "privateKey",
    "certKey",
    "sslmethod",
    "interface",
    "backlog",
    "extraCertChain",
    "dhParameters",
)
"""What may follow the port of an ``ssl:`` endpoint without its name, in this order."""

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def check(description: str, path: str) -> None:
    """
    See whether a :class:`Listener` could be made.

    :param path: where the description is from: ``"server.listen"``.
    :raises ConfigError: it could not.
    """
    if description.startswith("systemd:") and "LISTEN_FDS" not in os.environ:
        # Who checks a configuration by hand is not given its sockets.
        return
    try:
        _parse(None, description)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


class Listener:
    """
    :param description: a Twisted endpoint.
    :param server: what is obeyed: ``peer_timeout``, ``send_buffer``, ``max_clients``.
    :raises ConfigError: there is no such endpoint, or its certificate cannot be used.
    """

    log = Logger()

    def __init__(self, reactor: Any, description: str, server: Server) -> None:
        self._reactor = reactor
        self._server = server
        self._endpoint, self._certificate = _parse(reactor, description)
        self._port: IListeningPort | None = None
        self._room = 0
        self._reasons: set[str] = set()
        self._told = False
        self._again: IDelayedCall | None = None
        self._over: IDelayedCall | None = None

    async def listen(self, factory: IProtocolFactory) -> None:
        """
        Begin. Where the system tells at once that it cannot be, so does this.

        :raises CannotListenError: the port is taken, or not ours to take.
        """
        self._port = await self._endpoint.listen(factory)
        self._room = descriptors.room()
        if isinstance(self._port, tcp.Port):
            self._port.socket = _Door(self._port.socket, self._may_accept, self._exhausted)
            self._set_options()
        if self._certificate is not None:
            self._certificate.complain()
        if self._room < self._server.max_clients:
            self.log.warn(
                "the limit of open files leaves room for {room} connections, "
                "fewer than max_clients ({max_clients}); see ulimit -n, LimitNOFILE",
                room=self._room,
                max_clients=self._server.max_clients,
            )

    @property
    def address(self) -> IAddress:
        """Where it listens; to be asked once it does."""
        assert self._port is not None
        return self._port.getHost()

    @property
    def enough(self) -> int:
        """How many connections there may be; with as many, :meth:`full` is to be called."""
        wanted = self._server.max_clients * 11 // 10 + SPARE_CONNECTIONS
        return min(wanted, self._room)

    def reload(self, server: Server | None = None) -> None:
        """
        Read the certificate again, and obey these settings: for new connections.

        :raises ConfigError: the certificate cannot be used. It goes on as before.
        """
        if self._certificate is not None:
            self._certificate.reload()
            self._certificate.complain()
        if server is not None:
            self._server = server
            self._set_options()

    async def stop(self) -> None:
        """Listen no more; connections go on."""
        for call in (self._again, self._over):
            if call is not None and call.active():
                call.cancel()
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)

    def _set_options(self) -> None:
        """
        Set what connections inherit. (The few that have come to a service manager's
        socket before its first pushd had a chance to say so do not.)
        """
        port = self._port
        if isinstance(port, tcp.Port) and port.addressFamily != socket.AF_UNIX:
            peer.mind(port.socket, self._server.peer_timeout)
            port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._server.send_buffer)

    # When none are taken. They wait in the kernel's queue.

    def pause(self) -> None:
        """Take no connections, until :meth:`resume`."""
        self._shut("asked")

    def resume(self) -> None:
        """Take them again."""
        self._open("asked")

    def full(self, are: bool) -> None:
        """There are :attr:`enough` connections, or no longer."""
        if not are:
            self._open("full")
        else:
            self._tell(f"as many connections as may be are open ({self.enough})")
            self._shut("full")

    def _exhausted(self, error: OSError) -> None:
        self._tell(f"no connection can be opened ({error.strerror})")
        self._shut("exhausted")
        self._again = self._reactor.callLater(RETRY_SECONDS, self._open, "exhausted")

    def _may_accept(self) -> bool:
        return not self._reasons

    def _shut(self, reason: str) -> None:
        self._reasons.add(reason)
        if isinstance(self._port, tcp.Port):
            self._port.pauseProducing()

    def _open(self, reason: str) -> None:
        self._reasons.discard(reason)
        if self._reasons or self._port is None:
            return
        if isinstance(self._port, tcp.Port):
            self._port.resumeProducing()
        if self._told and self._over is None:
            self._over = self._reactor.callLater(OVER_SECONDS, self._is_over)

    def _tell(self, why: str) -> None:
        """Once for each time of need, however often it comes and goes meanwhile."""
        if self._over is not None:
            self._over.cancel()
            self._over = None
        if not self._told:
            self._told = True
            self.log.warn("{why}; new ones wait", why=why)

    def _is_over(self) -> None:
        self._over = None
        self._told = False
        self.log.info("there is room for new connections again")


class _Door:
    """
    A port's socket that can say "nobody there".

    Twisted takes connections by the hundred at a time, and when it cannot take
    one, it closes all that wait.
    """

    def __init__(
        self,
        listening: socket.socket,
        may_accept: Callable[[], bool],
        exhausted: Callable[[OSError], object],
    ) -> None:
        self._socket = listening
        self._may_accept = may_accept
        self._exhausted = exhausted

    def accept(self) -> tuple[socket.socket, Any]:
        """See :meth:`socket.socket.accept`."""
        if self._may_accept():
            try:
                return self._socket.accept()
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self._exhausted(error)
        raise BlockingIOError(errno.EWOULDBLOCK, "nobody is let in now")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


# Descriptions of endpoints.


def _parse(reactor: Any, description: str) -> tuple[IStreamServerEndpoint, Certificate | None]:
    """What a description says, and the certificate of one that begins with ``ssl:``."""
    try:
        fields, certificate = _without_certificate(_fields(description))
        endpoint = serverFromString(reactor, ":".join(fields))
    except ConfigError:
        raise
    except Exception as error:
        if isinstance(error, LookupError) and description.startswith("systemd:"):
            error = ValueError("the service manager gave pushd no such socket")
        raise ConfigError(f"{description!r} is no endpoint: {error}") from None
    if certificate is not None:
        # Twisted's own reads it once, and of a chain the first certificate only.
        endpoint = wrapServerTLS(certificate, endpoint, reactor)
    return endpoint, certificate


def _fields(description: str) -> list[str]:
    """What stands between colons, still with its backslashes; and a backlog."""
    fields = re.findall(r"((?:[^:\\]|\\.|\\$)*)(?::|$)", description)[:-1]
    kinds = [field for field in fields if field != "haproxy"][:1]
    if kinds and kinds[0] in _QUEUES and not any(f.startswith("backlog=") for f in fields):
        fields.append(f"backlog={BACKLOG}")
    return fields


def _without_certificate(fields: list[str]) -> tuple[list[str], Certificate | None]:
    """
    An ``ssl:`` endpoint as the ``tcp:`` one beneath, and its certificate. (Within
    ``haproxy:``, TLS begins behind the PROXY protocol's header.)
    """
    around = [field for field in fields if field == "haproxy"]
    kind, *said = fields[len(around) :] or [""]
    if kind != "ssl":
        return fields, None
    positional = [field for field in said if not re.match(r"\w+=", field)]
    named = dict(field.split("=", 1) for field in said if re.match(r"\w+=", field))
    port, *rest = positional or [""]
    named = dict(zip(_SSL, rest, strict=False)) | named
    files = [named.pop(name, None) for name in ("privateKey", "certKey", "extraCertChain")]
    key, own, chain = [None if text is None else re.sub(r"\\(.)", r"\1", text) for text in files]
    for name in ("sslmethod", "dhParameters"):
        if name in named:
            raise ConfigError(f"ssl: without {name}: pushd speaks TLS 1.2 and 1.3, with ECDHE")
    key = key or "server.pem"
    beneath = [*around, "tcp", port, *(f"{name}={value}" for name, value in named.items())]
    return beneath, Certificate(key, own or key, chain)

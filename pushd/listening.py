"""
Listening: where connections come from, and when none are taken.

An endpoint with what Twisted leaves to others: peers that vanish, no more
connections than there is room for, and an end that loses none. What is said on a
connection is not this module's business.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet import tcp
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IListeningPort,
    IProtocolFactory,
)
from twisted.internet.task import deferLater
from twisted.logger import Logger

from pushd import descriptors, endpoint, peer
from pushd.config import Server

SPARE_CONNECTIONS = 64
"""How many connections there may be, beside a tenth, beyond max_clients: for short requests."""

RETRY_SECONDS = 1.0
"""When the system is asked again, after it could not open a file."""

OVER_SECONDS = 10.0
"""How long connections have to be taken again for the log to say so."""

HANDSHAKE_SECONDS = 0.2
"""How long a handshake may take that has begun: a round trip."""

_NO_SYN = (
    (0x30, 0, 0, 13),  # the byte of TCP's flags,
    (0x54, 0, 0, 0x12),  # SYN and ACK of it,
    (0x15, 0, 1, 0x02),  # if that is SYN alone:
    (0x06, 0, 0, 0),  # nothing of the packet;
    (0x06, 0, 0, 0xFFFF_FFFF),  # else all of it
)
"""A filter of packets: classic BPF, as in socket(7) and bpf(4)."""

_SO_ATTACH_FILTER = 26
"""See socket(7). Python has no name for it."""

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """
    :param description: a Twisted endpoint.
    :param server: what is obeyed: ``reuse_port``, ``peer_timeout``, ``send_buffer``,
        ``max_clients``.
    :raises ConfigError: there is no such endpoint, or its certificate cannot be used.
    """

    log = Logger()

    def __init__(self, reactor: Any, description: str, server: Server) -> None:
        self._reactor = reactor
        self._server = server
        self._endpoint, self._certificate = endpoint.parse(reactor, description, server.reuse_port)
        self._given = endpoint.is_given(description)
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

    def reload(self) -> None:
        """
        Read the certificate again, for new connections.

        :raises ConfigError: it cannot be used. That before goes on.
        """
        if self._certificate is not None:
            self._certificate.reload()
            self._certificate.complain()

    async def stop(self) -> None:
        """Listen no more; connections go on."""
        for call in (self._again, self._over):
            if call is not None and call.active():
                call.cancel()
        port = self._port
        if isinstance(port, tcp.Port) and port.connected and not self._given:
            await self._take_the_last(port)
        elif port is not None:
            await maybeDeferred(port.stopListening)

    async def _take_the_last(self, port: tcp.Port) -> None:
        """
        Who waits in our queue has been connected, and Linux resets them when the socket
        is closed. (Not if others listen on the port, and the sysctl
        net.ipv4.tcp_migrate_req says so.) So nobody is let into it any more, all who are
        there are taken, and it is closed here and now. Where a port has others, who is
        shaking hands is waited for: they believe that they have come to somebody.
        """
        _keep_out(port.socket)
        if self._server.reuse_port:
            await deferLater(self._reactor, HANDSHAKE_SECONDS)
        # From now on it is not asked any more; Twisted would close it in the next turn.
        stopped = maybeDeferred(port.stopListening)
        port.numberAccepts = 2 * endpoint.BACKLOG
        port.doRead()
        port.socket.close()
        await stopped

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


def _keep_out(listening: socket.socket) -> None:
    """
    Have the system drop what would begin a connection to this socket. Whoever sent it
    tries again a second later, and then comes to another one.
    """
    code = b"".join(struct.pack("=HBBI", *step) for step in _NO_SYN)
    steps = ctypes.create_string_buffer(code)
    program = struct.pack("@HP", len(_NO_SYN), ctypes.addressof(steps))
    # Where it is not allowed, a few may be lost.
    if sys.platform == "linux":
        with suppress(OSError):
            listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

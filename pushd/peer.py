"""
What the system knows about the peer of a TCP connection, and how long it bears with it.

These are questions to a socket, wherever it is beneath TLS and the PROXY
protocol. Where there is no TCP (a UNIX socket, a test's transport), the
answer is that nobody can tell.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import Any

from twisted.internet.interfaces import ISystemHandle
from twisted.protocols.policies import ProtocolWrapper

_ACKED = 120
"""Where ``tcpi_bytes_acked`` is in Linux's ``struct tcp_info``: 8 bytes, since Linux 4.1."""


def taken(transport: Any) -> int | None:
    """
    How many bytes the peer's system has acknowledged since the connection began;
    None where that cannot be told.

    One that does not read has its system take what fits into its buffers, and
    then nothing more.
    """
    if sys.platform != "linux" or (connection := tcp_socket(transport)) is None:
        return None
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED + 8)
    except OSError:
        return None
    if len(info) < _ACKED + 8:
        return None
    (acknowledged,) = struct.unpack_from("=Q", info, _ACKED)
    return int(acknowledged)


def patience(transport: Any, seconds: float) -> None:
    """
    Have the system bear with a peer that acknowledges nothing for so long.

    Linux counts from the first byte that was not acknowledged, and for a peer
    that has no room, alive as it is, from the moment at which it had none.
    """
    connection = tcp_socket(transport)
    if sys.platform != "linux" or connection is None:
        return
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
    except OSError:
        # It is lost already, and whoever has to know is told.
        return


def tcp_socket(transport: Any) -> socket.socket | None:
    """The TCP socket beneath a transport; None if there is none, or none any more."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    if not ISystemHandle.providedBy(transport) or not getattr(transport, "connected", False):
        return None
    connection = transport.getHandle()
    if isinstance(connection, socket.socket) and connection.family in (
        socket.AF_INET,
        socket.AF_INET6,
    ):
        return connection
    return None

"""
The peer of a TCP connection, as the system knows it.

What it has taken, whether it has fallen silent, and after what time the system
gives it up. These are asked of a socket, wherever it is beneath TLS and the
PROXY protocol. Where there is no TCP (a UNIX socket, a test's transport) or
the system does not say, nobody can tell.
"""

from __future__ import annotations

import math
import socket
import struct
import sys
from typing import Any

from twisted.internet.interfaces import ISystemHandle
from twisted.protocols.policies import ProtocolWrapper

_PROBES = 3
_UNACKED = 24
_LAST_ACK = 56
_ACKED = 120
"""
Where these are in Linux's ``struct tcp_info``: segments in flight and
milliseconds since the last ACK, 4 bytes each, and the bytes acknowledged, 8
(since Linux 4.1).
"""

_LONGEST = 32_767
"""Seconds that Linux takes for keepalive."""


def mind(listening: socket.socket, seconds: float) -> None:
    """
    Have the system notice, after about so long, that a peer has vanished; of all
    connections to a socket that listens, which inherit this.

    Something in flight is given up after two thirds of the time. A peer that is
    sent nothing is asked after half of it, and given up after two thirds as
    well. The rest is for a peer that vanishes just after a heartbeat, and is
    missed from the next on only.
    """
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        for option, value in (
            (socket.TCP_USER_TIMEOUT, int(seconds * 2 / 3 * 1000)),
            (socket.TCP_KEEPIDLE, _whole(seconds / 2)),
            (socket.TCP_KEEPINTVL, _whole(seconds / 6)),
            # Where patience() has ended the first, these count.
            (socket.TCP_KEEPCNT, 3),
        ):
            listening.setsockopt(socket.IPPROTO_TCP, option, value)


def _whole(seconds: float) -> int:
    return min(max(1, round(seconds)), _LONGEST)


def patience(transport: Any, seconds: float) -> None:
    """
    Have the system give a peer up that acknowledges nothing for so long;
    ``math.inf``: leave that to us. See TCP_USER_TIMEOUT in tcp(7).

    Linux (6.18) counts a peer that lives and has no room as well, and goes on
    counting while it reads a little; and once it has counted, it may remember,
    and give the peer up the next time that it has no room for a moment. So who
    has been slow once needs infinite patience for good, and :func:`silent`.
    """
    connection = _socket(transport)
    if sys.platform != "linux" or connection is None:
        return
    milliseconds = 0 if seconds == math.inf else max(1, int(seconds * 1000))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def taken(transport: Any) -> int | None:
    """
    How many bytes the peer's system has acknowledged since the connection began;
    None where nobody can tell.

    Who does not read has its system take what fits into its buffers, and then
    nothing more.
    """
    info = _info(transport)
    if info is None:
        return None
    (acknowledged,) = struct.unpack_from("=Q", info, _ACKED)
    return int(acknowledged)


def silent(transport: Any) -> float:
    """
    For how many seconds the peer has acknowledged nothing, while there is
    something for it to acknowledge; 0 where nobody can tell.

    A peer that has no room is asked now and then whether it has some; it is silent
    if it does not answer. Behind a quiet time it is that time that is told, until the peer answers.
    """
    info = _info(transport)
    if info is None:
        return 0.0
    (unacknowledged,) = struct.unpack_from("=I", info, _UNACKED)
    (milliseconds,) = struct.unpack_from("=I", info, _LAST_ACK)
    return milliseconds / 1000 if unacknowledged or info[_PROBES] else 0.0


def _info(transport: Any) -> bytes | None:
    """What Linux tells of a connection, if it tells enough."""
    connection = _socket(transport)
    if sys.platform != "linux" or connection is None:
        return None
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED + 8)
    return info if len(info) == _ACKED + 8 else None


def _socket(transport: Any) -> socket.socket | None:
    """The TCP socket beneath a transport; None if there is none, or none any more."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    if not ISystemHandle.providedBy(transport) or not getattr(transport, "connected", False):
        return None
    handle = transport.getHandle()
    if isinstance(handle, socket.socket) and handle.family != socket.AF_UNIX:
        return handle
    return None

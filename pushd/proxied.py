"""
The PROXY protocol: a proxy says, before anything else, whom it speaks for.

Its header is a line of text or a few bytes, in the versions 1 and 2 of HAProxy's
"The PROXY protocol". Twisted can read it, but lets what is malformed come up as an
error of the reactor's, and hangs up on the bare ``PROXY UNKNOWN`` of a proxy whose
client came by a UNIX socket, which has no address to be told.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Any, NamedTuple

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from zope.interface import implementer

from pushd.throttle import Throttle

log = Logger()

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
"""What version 2 begins with."""

_WORD = b"PROXY "
"""What version 1 begins with."""

_LONGEST_LINE = 107
"""Bytes of version 1, with the line's end (section 2.1)."""

_FIXED = 16
"""Bytes of version 2 before the addresses; the last two are how many more there are."""

_LOCAL, _PROXY = 0x20, 0x21
"""Versions and commands: the proxy speaks for itself, or for somebody."""

_TCP = {0x11: ("!4s4sHH", IPv4Address), 0x21: ("!16s16sHH", IPv6Address)}
"""How version 2 writes addresses, by family and protocol (section 2.2)."""

_OTHERS = (0x00, 0x12, 0x22, 0x31, 0x32)
"""Families and protocols whose addresses are of no use here: none, UDP, UNIX."""

_LAST_PORT = 65535


class Header(NamedTuple):
    """
    :ivar source: the client; None if the proxy speaks for itself, or for nobody that it knows.
    :ivar destination: where the client came to.
    :ivar size: in bytes.
    """

    source: IAddress | None
    destination: IAddress | None
    size: int


def read(data: bytes) -> Header | None:
    """
    The header that `data` begins with; None if it is not all there.

    Raises ValueError if it is none.
    """
    if data[: len(_SIGNATURE)] == _SIGNATURE[: len(data)]:
        return _bytes(data)
    if data[: len(_WORD)] == _WORD[: len(data)]:
        return _line(data)
    raise ValueError("neither version 1 nor 2")


def _line(data: bytes) -> Header | None:
    line, end, _ = data[:_LONGEST_LINE].partition(b"\r\n")
    if not end:
        if len(data) >= _LONGEST_LINE:
            raise ValueError("a line without an end")
        return None
    size = len(line) + len(end)
    _, kind, *said = line.split(b" ")
    if kind == b"UNKNOWN":
        return Header(None, None, size)
    source, destination, near, far = (word.decode("ascii") for word in said)
    made = _text_address(kind, source, near), _text_address(kind, destination, far)
    return Header(*made, size)


def _text_address(kind: bytes, host: str, port: str) -> IAddress:
    if not (port.isdigit() and int(port) <= _LAST_PORT):
        raise ValueError("no port")
    if kind == b"TCP4":
        return IPv4Address("TCP", str(ipaddress.IPv4Address(host)), int(port))
    if kind == b"TCP6":
        return IPv6Address("TCP", str(ipaddress.IPv6Address(host)), int(port))
    raise ValueError("no protocol")


def _bytes(data: bytes) -> Header | None:
    if len(data) < _FIXED:
        return None
    command, family, length = struct.unpack_from("!BBH", data, len(_SIGNATURE))
    if command not in (_LOCAL, _PROXY):
        raise ValueError("no command of version 2")
    size = _FIXED + length
    if len(data) < size:
        return None
    if command == _LOCAL or family in _OTHERS:
        return Header(None, None, size)
    if family not in _TCP:
        raise ValueError("no family")
    form, made = _TCP[family]
    if length < struct.calcsize(form):
        raise ValueError("too short")
    *hosts, near, far = struct.unpack_from(form, data, _FIXED)
    source, destination = (str(ipaddress.ip_address(host)) for host in hosts)
    return Header(made("TCP", source, near), made("TCP", destination, far), size)


@implementer(IStreamServerEndpoint)
class Proxied:
    """
    An endpoint that proxies come to.

    :param beneath: where they come.
    """

    def __init__(self, beneath: IStreamServerEndpoint, clock: IReactorTime) -> None:
        self._beneath = beneath
        self._clock = clock

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """See :meth:`IStreamServerEndpoint.listen`."""
        return self._beneath.listen(_Introductions(factory, self._clock))


class _Introduced(ProtocolWrapper):
    """A connection that begins with a header, of which what it carries sees nothing."""

    transport: Any

    def __init__(self, factory: Any, wrapped: IProtocol) -> None:
        super().__init__(factory, wrapped)
        self._throttle: Throttle = factory.throttle
        self._received = b""
        self._header: Header | None = None

    def dataReceived(self, data: bytes) -> None:
        if self._header is None:
            self._received += data
            try:
                self._header = read(self._received)
            except ValueError:
                self._refuse()
                return
            if self._header is None:
                return
            data = self._received[self._header.size :]
            self._received = b""
        if data:
            self.wrappedProtocol.dataReceived(data)

    def _refuse(self) -> None:
        if self._throttle.allows("refused without a header of the PROXY protocol"):
            log.info(
                "{peer} is refused: what it sent first is no header of the PROXY protocol",
                peer=getattr(self.transport.getPeer(), "host", "-"),
            )
        self.transport.abortConnection()

    def getPeer(self) -> IAddress:
        """The client, if the proxy has said who it is."""
        return (self._header and self._header.source) or self.transport.getPeer()

    def getHost(self) -> IAddress:
        """Where the client came to, if the proxy has said so."""
        return (self._header and self._header.destination) or self.transport.getHost()


class _Introductions(WrappingFactory):
    """Makes them, and bounds what they may have the log say."""

    protocol = _Introduced

    def __init__(self, factory: IProtocolFactory, clock: IReactorTime) -> None:
        super().__init__(factory)
        self.throttle = Throttle(clock)

    def doStop(self) -> None:
        """Called when nobody is let in any more."""
        super().doStop()
        self.throttle.tell()

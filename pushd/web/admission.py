"""
Admission: who asks, and whether there is room for them.

Streams are counted, in all and by the client's address, and so are the
connections that they and everything else come on. Who comes behind a proxy is
known by what the proxy says; a proxy that nobody trusts is a client like any
other. How a client is told that there is no room is not decided here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from twisted.internet.interfaces import IAddress
from twisted.web.iweb import IRequest

from pushd.errors import BusyError
from pushd.web import asked

SPARE_CONNECTIONS = 64
"""How many connections one address may have beyond its streams: for short requests."""

_LONGEST = 64
"""How many characters an address may have; more is none, and not worth remembering."""

_REMEMBERED = 4096
"""How many addresses are remembered, so as not to read them again."""

_WITH_PORT = re.compile(r"\[([^\]]*)\](?::\d+)?|([\d.]+):\d+")
"""How some proxies write an address: ``[2001:db8::1]:443``, ``192.0.2.1:443``."""


class Peer(NamedTuple):
    """
    Whom an address stands for.

    :ivar text: as logs tell it.
    :ivar network: what counts as one client: an IPv4 address, or the first 64
        bits of an IPv6 one, as who has any of those addresses may use them all.
    :ivar trusted: whether it is a proxy of ours. It is believed, and not limited.
    """

    text: str
    network: str | int
    trusted: bool


_LOCAL = Peer("unix", "unix", trusted=True)
"""Who comes by a UNIX socket: somebody on this machine, whom its permissions let in."""

_UNREADABLE = Peer("unknown", "unknown", trusted=False)
"""Whose address is none: all of them are one."""


class Seat:
    """
    A place for one stream.

    :ivar peer: the client's address, as logs tell it.
    """

    __slots__ = ("_admission", "_network", "peer")

    def __init__(self, admission: Admission, peer: Peer) -> None:
        self.peer = peer.text
        self._network = peer.network
        self._admission: Admission | None = admission

    def leave(self, _: object = None) -> None:
        """Give it back; to be called when the stream is over. Once more does nothing."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission.streams -= 1
            _discount(admission.streams_by_network, self._network)


class Admission:
    """
    :param trusted_proxies: addresses and networks, as :mod:`ipaddress` reads them.
    :ivar max_clients: how many streams there may be in all.
    :ivar max_clients_per_peer: how many to one address.
    :ivar streams: how many there are.
    :ivar streams_by_network: by :attr:`Peer.network`; those that have any.
    :ivar connections: how many connections there are, whatever they are for.
    :ivar connections_by_network: by the network of who is at their other end.
    """

    def __init__(
        self, max_clients: int, max_clients_per_peer: int, trusted_proxies: Iterable[str]
    ) -> None:
        self.max_clients = max_clients
        self.max_clients_per_peer = max_clients_per_peer
        networks = tuple(ip_network(proxy) for proxy in trusted_proxies)

        def known(text: str) -> Peer | None:
            return _peer(text, networks)

        self._known = lru_cache(maxsize=_REMEMBERED)(known)
        self.streams = 0
        self.streams_by_network: dict[str | int, int] = {}
        self.connections = 0
        self.connections_by_network: dict[str | int, int] = {}
        self._enough = math.inf
        self._are_enough = False
        self._tell: Callable[[bool], object] = bool

    # Streams.

    def admit(self, request: IRequest) -> Seat:
        """
        A seat for a stream.

        :raises BusyError: there is none now.
        """
        peer = self.asking(request)
        taken = self.streams_by_network.get(peer.network, 0)
        if taken >= self.max_clients_per_peer and not peer.trusted:
            raise BusyError(
                "max_clients_per_peer",
                "There are as many clients at this address as may be (max_clients_per_peer).",
            )
        if self.streams >= self.max_clients:
            raise BusyError("max_clients", "There are as many clients as may be (max_clients).")
        self.streams += 1
        self.streams_by_network[peer.network] = taken + 1
        return Seat(self, peer)

    def peer(self, request: IRequest) -> str:
        """The client's address, as logs tell it."""
        return self.asking(request).text

    def asking(self, request: IRequest) -> Peer:
        """
        The client that a request is from.

        Each proxy adds whom it speaks for at the right end of X-Forwarded-For,
        so it is read from there, as far as proxies are trusted and what they
        wrote is an address. The PROXY protocol has been read already.
        """
        peer = self._direct(request.getClientAddress())
        said = asked.header(request, "X-Forwarded-For") if peer.trusted else None
        for text in reversed(said.split(",") if said else []):
            before = self._read(text.strip())
            if before is None:
                break
            peer = before
            if not peer.trusted:
                break
        return peer

    def _direct(self, address: IAddress) -> Peer:
        host = getattr(address, "host", None)
        if host is None:
            return _LOCAL
        # Behind "%" is the name of an interface of ours.
        return self._read(host.partition("%")[0]) or _UNREADABLE

    def _read(self, text: str) -> Peer | None:
        return self._known(text) if len(text) <= _LONGEST else None

    # Connections.

    def connected(self, address: IAddress) -> bool:
        """
        A connection was opened.

        :param address: who is at its other end; with the PROXY protocol, the proxy.
        :returns: whether it may stay. If not, it is to be closed at once; it
            does not count, and :meth:`disconnected` is not to be called for it.
        """
        peer = self._direct(address)
        open = self.connections_by_network.get(peer.network, 0)
        if open >= self.max_clients_per_peer + SPARE_CONNECTIONS and not peer.trusted:
            return False
        self.connections_by_network[peer.network] = open + 1
        self._count(+1)
        return True

    def disconnected(self, address: IAddress) -> None:
        """A connection that was allowed to stay is closed."""
        _discount(self.connections_by_network, self._direct(address).network)
        self._count(-1)

    def watch(self, enough: float, tell: Callable[[bool], object]) -> None:
        """
        Have `tell` called with True when there are `enough` connections or
        more, and with False when there are fewer again.
        """
        self._enough, self._tell = enough, tell
        self._count(0)

    def _count(self, more: int) -> None:
        self.connections += more
        are_enough = self.connections >= self._enough
        if are_enough != self._are_enough:
            self._are_enough = are_enough
            self._tell(are_enough)


def _discount(counts: dict[str | int, int], network: str | int) -> None:
    """One less; nothing is kept of who has none."""
    if counts[network] > 1:
        counts[network] -= 1
    else:
        del counts[network]


def _peer(text: str, proxies: Iterable[IPv4Network | IPv6Network]) -> Peer | None:
    """Whom an address stands for, as a socket or a proxy writes it; None if it is none."""
    with_port = _WITH_PORT.fullmatch(text)
    if with_port is not None:
        text = with_port[1] or with_port[2]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            # It means something to whoever wrote it only.
            return None
        address = address.ipv4_mapped or address
    trusted = any(address in proxy for proxy in proxies)
    shown = str(address)
    network = int(address) >> 64 if isinstance(address, IPv6Address) else shown
    return Peer(shown, network, trusted)

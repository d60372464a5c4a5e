"""
Endpoints: where to listen, as Twisted describes it in a string.

With what Twisted leaves to others: a certificate that can be read again, a queue
for thousands, and a port that several processes listen on.
"""

from __future__ import annotations

import os
import re
from typing import Any

from twisted.internet import tcp
from twisted.internet.endpoints import serverFromString, wrapServerTLS
from twisted.internet.interfaces import IProtocolFactory, IStreamServerEndpoint

from pushd.certificate import Certificate
from pushd.errors import ConfigError
from pushd.proxied import Proxied

BACKLOG = 4096
"""
How many may wait to be taken. Twisted's 50 make the kernel drop the rest, who
try again after a second, and then after three.
"""

_LIKE = r"one is tcp:8080:interface=127.0.0.1, another tcp:8080:interface=\:\:1"
"""Said of what is none; Twisted's own words for it are about its insides."""

_PORTS = ("tcp", "tcp6", "ssl", "tls")
"""Endpoints that are a port of TCP, which several processes may listen on."""

_QUEUES = (*_PORTS, "unix")
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


def check(description: str, path: str, reuse_port: bool = False) -> None:
    """
    See whether it could be listened there.

    :param path: where the description is from: ``"server.listen"``.
    :param reuse_port: whether its port is to be other processes' too.
    :raises ConfigError: it could not.
    """
    if is_given(description) and "LISTEN_FDS" not in os.environ and not reuse_port:
        # Who checks a configuration by hand is not given its sockets.
        return
    try:
        parse(None, description, reuse_port)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def is_given(description: str) -> bool:
    """Whether the socket is the service manager's, who keeps it open behind us."""
    return _kind(_fields(description)) == "systemd"


def parse(
    reactor: Any, description: str, reuse_port: bool = False
) -> tuple[IStreamServerEndpoint, Certificate | None]:
    """What a description says, and the certificate of one that begins with ``ssl:``."""
    fields = _fields(description)
    if reuse_port:
        _check_reusable(_kind(fields))
    try:
        fields, certificate = _without_certificate(fields)
        listening = _Reusing(reactor) if reuse_port else reactor
        around = fields[:1] == ["haproxy"]
        endpoint = serverFromString(listening, ":".join(fields[around:]))
        if around:
            endpoint = Proxied(endpoint, reactor)
    except ConfigError:
        raise
    except Exception as error:
        why = f"{error}; {_LIKE}"
        if isinstance(error, LookupError) and is_given(description):
            why = "the service manager gave pushd no such socket"
        raise ConfigError(f"{description!r} is no endpoint: {why}") from None
    if certificate is not None:
        # Twisted's own reads it once, and of a chain the first certificate only.
        endpoint = wrapServerTLS(certificate, endpoint, reactor)
    return endpoint, certificate


def _fields(description: str) -> list[str]:
    """What stands between colons, still with its backslashes; and a backlog."""
    fields = re.findall(r"((?:[^:\\]|\\.|\\$)*)(?::|$)", description)[:-1]
    if _kind(fields) in _QUEUES and not any(f.startswith("backlog=") for f in fields):
        fields.append(f"backlog={BACKLOG}")
    return fields


def _kind(fields: list[str]) -> str:
    """What an endpoint is, within ``haproxy:`` if it is there."""
    return next((field for field in fields if field != "haproxy"), "")


def _check_reusable(kind: str) -> None:
    if kind == "systemd":
        raise ConfigError("reuse_port is the socket unit's here: write ReusePort=yes there")
    if kind not in _PORTS:
        said = ", ".join(f"{port}:" for port in _PORTS)
        raise ConfigError(f"reuse_port is for endpoints with a port ({said}), not for {kind}:")


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


class _Reusing:
    """
    A reactor whose TCP ports other processes may listen on as well (SO_REUSEPORT).
    Twisted can do it, but has no word for it in the description of an endpoint.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def listenTCP(
        self, port: int, factory: IProtocolFactory, backlog: int = BACKLOG, interface: str = ""
    ) -> Any:
        """See :class:`twisted.internet.interfaces.IReactorTCP`."""
        binding = tcp.makeBinding(interface, port, reuseAddress=True, reusePort=True)
        return self._reactor.listenTCP(binding, factory, backlog, interface)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

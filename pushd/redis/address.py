"""Where a Redis server is, and as whom pushd speaks to it: what its URL says."""

from __future__ import annotations

from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import optionsForClientTLS

from pushd.errors import ConfigError
from pushd.trust import trust_root

PORT = 6379

FORMS = (
    "redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE], rediss:// for TLS, or unix:///path/to/socket"
)
"""What a URL may look like."""


class Address(msgspec.Struct, frozen=True):
    """
    :ivar host: a name or an IP address; of a Unix socket the path.
    :ivar port: None for a Unix socket.
    :ivar tls: whether the connection is encrypted, and the server has to prove its name.
    :ivar database: its number.
    :ivar user: for an ACL; None for Redis's "default".
    :ivar password: None if there is none.
    """

    host: str
    port: int | None = PORT
    tls: bool = False
    database: int = 0
    user: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        """Without the password: what is printed ends up in a log."""
        return f"Address({str(self)!r})"

    def __str__(self) -> str:
        if self.port is None:
            return f"unix://{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{host}:{self.port}/{self.database}"

    @classmethod
    def parse(cls, url: str) -> Address:
        """
        What a URL says. User and password are percent-decoded.

        :raises ConfigError: it says something else; the message never has the URL in it,
            where the password is.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"not a URL: {error}") from None
        is_unix = parts.scheme == "unix"
        if parts.scheme not in ("redis", "rediss", "unix") or parts.query or parts.fragment:
            raise ConfigError(f"expected {FORMS}")
        if (is_unix and (parts.hostname or not parts.path)) or not (is_unix or parts.hostname):
            raise ConfigError(f"expected {FORMS}")
        if parts.username and not parts.password:
            raise ConfigError("a user needs a password: redis://USER:PASSWORD@HOST")
        return cls(
            host=parts.path if is_unix else str(parts.hostname),
            port=None if is_unix else port or PORT,
            tls=parts.scheme == "rediss",
            database=0 if is_unix else _database(parts),
            user=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
        )

    def endpoint(self, reactor: Any, timeout: float, ca_file: str | None) -> IStreamClientEndpoint:
        """
        How to connect to it.

        :param timeout: seconds that it may take.
        :param ca_file: the authorities (PEM) to trust instead of the system's.
        :raises ConfigError: the file is no good.
        """
        if self.port is None:
            return UNIXClientEndpoint(reactor, self.host, timeout=timeout)
        endpoint = HostnameEndpoint(reactor, self.host, self.port, timeout=timeout)
        if not self.tls:
            return endpoint
        trusted = None if ca_file is None else trust_root(ca_file)
        return wrapClientTLS(optionsForClientTLS(self.host, trusted), endpoint)


def _database(parts: SplitResult) -> int:
    name = parts.path.removeprefix("/") or "0"
    if not (name.isascii() and name.isdigit()):
        raise ConfigError("the database is a number: redis://HOST/0")
    return int(name)

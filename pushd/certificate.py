"""
The certificate that pushd shows to clients, and what it agrees to speak with them.

It is read from files, and can be read again while connections go on: those keep
what they have, new ones get the new one. The rest is Mozilla's "intermediate"
(server side TLS, version 5.7) without the slow suites: TLS 1.2 and 1.3, forward
secrecy, authenticated encryption.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import Certificate as X509
from cryptography.x509 import load_pem_x509_certificates
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.logger import Logger
from zope.interface import implementer

from pushd.errors import ConfigError

SOON = timedelta(days=14)
"""How long before its end a certificate is complained of."""

_SUITES = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    b"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    b"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
"""For TLS 1.2; all that TLS 1.3 has are good."""

_HTTP = b"http/1.1"
"""The one protocol that is agreed to (ALPN, RFC 7301)."""


@implementer(IOpenSSLServerConnectionCreator)
class Certificate:
    """
    :param key: a file with the private key (PEM, without a passphrase).
    :param certificate: a file with its certificate (PEM); those of the
        authorities between it and the root may follow.
    :param chain: a file with those, if they are in one of their own.
    :raises ConfigError: they cannot be read, or don't belong together.
    :ivar ends: when the first certificate of the chain does.
    """

    log = Logger()

    def __init__(self, key: str, certificate: str, chain: str | None = None) -> None:
        self._key = key
        self._certificate = certificate
        self._chain = chain
        self.reload()

    def reload(self) -> None:
        """Read the files again. Raises ConfigError, and goes on with what it had."""
        key = _private_key(self._key)
        certificates = _certificates(self._certificate)
        # Its place in the file is not always the first.
        own = [one for one in certificates if one.public_key() == key.public_key()]
        if not own:
            raise ConfigError(f"{self._certificate}: no certificate of the key in {self._key}")
        between = [one for one in certificates if one not in own]
        between += _certificates(self._chain) if self._chain is not None else []
        self._context = _context(key, own[0], between)
        self.ends = min(one.not_valid_after_utc for one in (own[0], *between))

    def serverConnectionForTLS(self, _: object) -> SSL.Connection:
        """See :class:`IOpenSSLServerConnectionCreator`."""
        return SSL.Connection(self._context, None)

    def complain(self) -> None:
        """Tell the log when it ends soon, or has ended."""
        left = self.ends - datetime.now(UTC)
        if left < timedelta(0):
            self.log.error("{file}: expired {ends}", file=self._certificate, ends=self.ends)
        elif left < SOON:
            self.log.warn(
                "{file}: expires {ends}, in {days} days",
                file=self._certificate,
                ends=self.ends,
                days=left.days,
            )


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def _private_key(path: str) -> Any:
    try:
        return load_pem_private_key(_read(path), password=None)
    except TypeError:
        raise ConfigError(f"{path}: a key with a passphrase, which nobody could enter") from None
    except ValueError:
        raise ConfigError(f"{path}: no private key (PEM)") from None


def _certificates(path: str) -> list[X509]:
    try:
        return load_pem_x509_certificates(_read(path))
    except ValueError:
        raise ConfigError(f"{path}: no certificates (PEM)") from None


def _context(key: Any, certificate: X509, between: Sequence[X509]) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(_SUITES)
    # Tickets would outlive the secrecy of what was said (their keys are kept).
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    # 34 KB less for each connection that is quiet.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_alpn_select_callback(_agree)
    try:
        context.use_certificate(certificate)
        context.use_privatekey(key)
        for one in between:
            context.add_extra_chain_cert(one)
    except (SSL.Error, TypeError, ValueError) as error:
        raise ConfigError(f"TLS cannot use this certificate: {error}") from None
    return context


def _agree(_: object, offered: list[bytes]) -> Any:
    return _HTTP if _HTTP in offered else SSL.NO_OVERLAPPING_PROTOCOLS

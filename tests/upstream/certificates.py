"""Certificates for an :class:`upstream.Upstream` or for pushd, made when needed."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL.SSL import TLS_SERVER_METHOD, Context
from twisted.internet.interfaces import IOpenSSLContextFactory
from zope.interface import implementer

_DAY = timedelta(days=1)


class Authority:
    """
    Signs what it is asked to.

    :param signer: the authority above it; without one it is a root.
    :ivar pem: its own certificate, for a client's CA file.
    """

    def __init__(
        self, name: str = "An authority for tests", signer: Authority | None = None
    ) -> None:
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        signer = signer or self
        builder = signer._certificate(self._name, self._key, datetime.now(UTC) + 60 * _DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        self.pem = builder.sign(signer._key, SHA256()).public_bytes(Encoding.PEM)

    def issue(self, *hosts: str, expired: bool = False, days: float = 1) -> Identity:
        """A server's identity: a certificate for names or IP addresses, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        until = datetime.now(UTC) + (-_DAY if expired else days * _DAY)
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, hosts[0])])
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        builder = self._certificate(subject, key, until).add_extension(names, False)
        return Identity(builder.sign(self._key, SHA256()), key)

    def _certificate(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, until: datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(until - 100 * _DAY)
            .not_valid_after(until)
        )


@implementer(IOpenSSLContextFactory)
class Identity:
    """
    What :class:`upstream.Upstream` takes. Twisted's own warns of pyOpenSSL's future.

    :ivar pem: the certificate; :ivar key: its key, PEM too.
    """

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.pem = certificate.public_bytes(Encoding.PEM)
        self.key = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._context = Context(TLS_SERVER_METHOD)
        self._context.use_certificate(certificate)
        self._context.use_privatekey(key)

    def getContext(self) -> Context:
        return self._context


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)

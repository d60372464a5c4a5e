"""Whom pushd trusts when it connects somewhere: the authorities that sign certificates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet.ssl import Certificate, trustRootFromCertificates

from pushd.errors import ConfigError


def trust_root(path: str) -> Any:
    """
    What to trust instead of the system's certificates: those in a PEM file.

    :raises ConfigError: there are none to be had; the message names the file.
    """
    try:
        found = x509.load_pem_x509_certificates(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not a file of PEM certificates") from error
    return trustRootFromCertificates(
        [Certificate.loadPEM(certificate.public_bytes(Encoding.PEM)) for certificate in found]
    )

"""The certificate: which files make one, and what is agreed to with whom."""

from __future__ import annotations

import re
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from upstream.certificates import Authority, Identity
from zope.interface.verify import verifyObject

from pushd.certificate import Certificate
from pushd.errors import ConfigError

ROOT = Authority("The root")
BETWEEN = Authority("Between", signer=ROOT)


@pytest.fixture
def identity() -> Identity:
    return BETWEEN.issue("pushd.test", days=30)


@pytest.fixture
def files(tmp_path: Path, identity: Identity) -> tuple[Path, Path]:
    key, chain = tmp_path / "key.pem", tmp_path / "fullchain.pem"
    key.write_bytes(identity.key)
    chain.write_bytes(identity.pem + BETWEEN.pem)
    return key, chain


def shake(
    certificate: Certificate,
    alpn: list[str] | None = None,
    before: ssl.SSLObject | None = None,
    **bounds: Any,
) -> ssl.SSLObject:
    """
    A handshake in memory with a client that trusts the root alone, or with that of an
    earlier one, which would have its session taken up again.
    """
    context = ssl.create_default_context(cadata=ROOT.pem.decode())
    if before is not None:
        context = before.context
    for name, value in bounds.items():
        setattr(context, name, value)
    context.set_alpn_protocols(alpn or [])
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(
        to_client,
        to_server,
        server_hostname="pushd.test",
        session=None if before is None else before.session,
    )
    server: Any = certificate.serverConnectionForTLS(None)
    server.set_accept_state()
    for _ in range(5):
        try:
            client.do_handshake()
        except ssl.SSLWantReadError:
            done = False
        else:
            done = True
        if said := to_server.read():
            server.bio_write(said)
        with suppress(SSL.WantReadError):
            server.do_handshake()
        with suppress(SSL.WantReadError):
            to_client.write(server.bio_read(65536))
        if done:
            # OpenSSL forgets a session that did not end well.
            server.set_shutdown(SSL.SENT_SHUTDOWN)
            return client
    raise AssertionError("no handshake")


def test_a_chain_in_one_file_is_sent_whole(files: tuple[Path, Path]) -> None:
    certificate = Certificate(*map(str, files))
    assert verifyObject(IOpenSSLServerConnectionCreator, certificate)
    shake(certificate)


def test_a_chain_in_a_file_of_its_own_is_too(tmp_path: Path, identity: Identity) -> None:
    for name, data in (("k", identity.key), ("c", identity.pem), ("x", BETWEEN.pem)):
        (tmp_path / name).write_bytes(data)
    shake(Certificate(*(str(tmp_path / name) for name in "kcx")))
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        shake(Certificate(str(tmp_path / "k"), str(tmp_path / "c")))


def test_one_file_may_hold_all_in_any_order(tmp_path: Path, identity: Identity) -> None:
    path = tmp_path / "all.pem"
    path.write_bytes(BETWEEN.pem + identity.key + identity.pem)
    shake(Certificate(str(path), str(path)))


def test_http_1_1_is_what_is_agreed_to(files: tuple[Path, Path]) -> None:
    certificate = Certificate(*map(str, files))
    assert shake(certificate, ["h2", "http/1.1"]).selected_alpn_protocol() == "http/1.1"
    assert shake(certificate, ["h2"]).selected_alpn_protocol() is None
    assert shake(certificate).selected_alpn_protocol() is None


def test_tls_1_2_and_1_3_are_spoken_with_no_compression(files: tuple[Path, Path]) -> None:
    certificate = Certificate(*map(str, files))
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        client = shake(certificate, minimum_version=version, maximum_version=version)
        assert client.version() == version.name.replace("_", ".")
        assert client.compression() is None
        cipher = client.cipher()
        assert cipher is not None and ("GCM" in cipher[0] or "CHACHA20" in cipher[0])


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_session_is_taken_up_again(files: tuple[Path, Path], version: ssl.TLSVersion) -> None:
    """Who got hold of the keys of tickets could read what was said long before."""
    certificate = Certificate(*map(str, files))
    first = shake(certificate, minimum_version=version, maximum_version=version)
    with suppress(ssl.SSLWantReadError):
        # What TLS 1.3 takes a session up with again comes behind the handshake.
        first.read(1)
    assert not shake(certificate, before=first).session_reused


def test_reading_again_shows_the_new_one_to_new_connections(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    key, chain = files
    certificate = Certificate(str(key), str(chain))
    first = shake(certificate).getpeercert()
    key.write_bytes((new := BETWEEN.issue("pushd.test")).key)
    chain.write_bytes(new.pem + BETWEEN.pem)
    assert shake(certificate).getpeercert() == first, "not before it is asked to"
    certificate.reload()
    assert shake(certificate).getpeercert() != first


def encrypted(identity: Identity) -> bytes:
    key = load_pem_private_key(identity.key, None)
    secret = BestAvailableEncryption(b"secret")
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret)


def weak() -> bytes:
    key = rsa.generate_private_key(65537, 2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_files_that_will_not_do_are_told_and_the_old_ones_stay(
    files: tuple[Path, Path], identity: Identity
) -> None:
    key, chain = files
    certificate = Certificate(str(key), str(chain))
    first = shake(certificate).getpeercert()
    for path, content, said in (
        (key, None, "key.pem: No such file or directory"),
        (key, b"", "key.pem: no private key"),
        (key, identity.pem, "key.pem: no private key"),
        (key, encrypted(identity), "key.pem: a key with a passphrase"),
        (key, BETWEEN.issue("a").key, "fullchain.pem: no certificate of the key in .*key.pem"),
        (key, weak(), "fullchain.pem: no certificate of the key in .*key.pem"),
        (chain, None, "fullchain.pem: No such file or directory"),
        (chain, identity.key, "fullchain.pem: no certificates"),
        (chain, BETWEEN.pem, "fullchain.pem: no certificate of the key"),
        (chain, identity.pem[:-40], "fullchain.pem: no certificates"),
    ):
        before = path.read_bytes()
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        with pytest.raises(ConfigError, match=said):
            certificate.reload()
        with pytest.raises(ConfigError, match=said):
            Certificate(str(key), str(chain))
        assert shake(certificate).getpeercert() == first
        path.write_bytes(before)
    certificate.reload()


def test_one_that_ends_soon_is_complained_of(tmp_path: Path, capture: list[dict[str, Any]]) -> None:
    path = tmp_path / "all.pem"
    for identity, said in (
        (ROOT.issue("a", days=15), []),
        (ROOT.issue("a", days=13.5), [f"{path}: expires .*, in 13 days"]),
        (ROOT.issue("a", expired=True), [f"{path}: expired "]),
    ):
        path.write_bytes(identity.key + identity.pem)
        capture.clear()
        Certificate(str(path), str(path)).complain()
        told = [event["log_format"].format(**event) for event in capture]
        assert len(told) == len(said)
        for text, expected in zip(told, said, strict=True):
            assert re.match(expected, text)


def test_of_a_chain_the_first_end_counts(tmp_path: Path) -> None:
    path = tmp_path / "all.pem"
    identity = BETWEEN.issue("a", days=90)
    path.write_bytes(identity.key + identity.pem + BETWEEN.pem)
    ends = Certificate(str(path), str(path)).ends
    path.write_bytes(identity.key + identity.pem)
    assert ends < Certificate(str(path), str(path)).ends

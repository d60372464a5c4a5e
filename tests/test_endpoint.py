"""Where to listen, as it is written, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet import reactor
from upstream.certificates import Authority

from pushd.config import Server
from pushd.endpoint import check
from pushd.errors import ConfigError
from pushd.listening import Listener


@pytest.fixture
def pem(tmp_path: Path) -> str:
    identity = Authority().issue("pushd.test")
    path = tmp_path / "a:b.pem"
    path.write_bytes(identity.key + identity.pem)
    return str(path).replace(":", "\\:")


# Twisted's "tls:" uses what pyOpenSSL would rather not have any more.
@pytest.mark.filterwarnings("ignore:X509.*:DeprecationWarning")
def test_descriptions_are_checked_and_told_by_where_they_stand(pem: str, tmp_path: Path) -> None:
    for right in (
        "tcp:8080",
        "tcp:8080:interface=\\:\\:1",
        "tcp6:8080",
        "unix:/run/pushd.sock:mode=660",
        "haproxy:tcp:8080:interface=127.0.0.1",
        f"ssl:443:privateKey={pem}",
        f"ssl:443:{pem}:{pem}",
        f"haproxy:ssl:443:privateKey={pem}:certKey={pem}:interface=\\:\\:1",
        f"tls:{tmp_path}:port=443",
    ):
        check(right, "server.listen")
    for wrong, said in (
        ("", "is no endpoint"),
        ("8080", "is no endpoint"),
        ("127.0.0.1:8080", "one is tcp:8080:interface=127.0.0.1"),
        ("tcp:8080:interface=::1", r"another tcp:8080:interface=\:\:1"),
        ("tpc:80", "'tpc:80' is no endpoint: Unknown endpoint type"),
        ("tcp:http", "is no endpoint"),
        ("tcp:80:interfaces=a", "is no endpoint"),
        ("tcp:80\\", "is no endpoint"),
        (f"ssl::privateKey={pem}", "is no endpoint: invalid literal for int"),
        ("ssl:443:privateKey=/nowhere.pem", "/nowhere.pem: No such file or directory"),
        (f"ssl:443:privateKey={pem}:certKey=/x", "/x: No such file or directory"),
        (f"ssl:443:privateKey={pem}:extraCertChain=/x", "/x: No such file or directory"),
        (f"ssl:443:privateKey={pem}:sslmethod=SSLv3_METHOD", "ssl: without sslmethod"),
        (f"ssl:443:privateKey={pem}:colour=red", "is no endpoint"),
    ):
        with pytest.raises(ConfigError) as caught:
            check(wrong, "server.listen")
        assert str(caught.value).startswith("server.listen: "), wrong
        assert said in str(caught.value)


def test_a_socket_of_a_service_manager_has_to_be_there_only_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    description = "systemd:domain=INET6:name=http"
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    check(description, "server.listen")
    with pytest.raises(ConfigError, match="the service manager gave pushd no such socket"):
        Listener(reactor, description, Server())
    monkeypatch.setenv("LISTEN_FDS", "1")
    with pytest.raises(ConfigError, match="the service manager gave pushd no such socket"):
        check(description, "server.listen")


def test_only_ports_can_be_reused(pem: str) -> None:
    for right in ("tcp:8080", "tcp6:8080", f"ssl:443:privateKey={pem}", "haproxy:tcp:8080"):
        check(right, "server.listen", reuse_port=True)
    for wrong, said in (
        ("unix:/run/pushd.sock", "not for unix:"),
        ("haproxy:unix:/run/pushd.sock", "not for unix:"),
        ("tpc:80", "not for tpc:"),
        ("systemd:domain=INET6:name=http", "write ReusePort=yes there"),
    ):
        with pytest.raises(ConfigError, match=f"^--listen: reuse_port .*{said}"):
            check(wrong, "--listen", reuse_port=True)

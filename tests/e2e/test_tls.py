"""TLS: what is agreed to, certificates that change, and streams that end as they do without it."""

from __future__ import annotations

import re
import signal
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from processes import TWISTD, Process, free_port, listens, program, running, wait_until
from upstream.certificates import Authority

CONFIG = """
server.client_timeout = 2
[publish]
tokens = ["t"]
topics = ["news"]
"""
STREAM = b"GET /topics/news HTTP/1.1\r\nHost: pushd.test\r\n\r\n"


class Secure:
    """A pushd that speaks TLS, and its files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = CONFIG
        self.port = free_port()
        self.root = Authority("The root")
        self.between = Authority("Between", signer=self.root)
        self.renew()
        (folder / "root.pem").write_bytes(self.root.pem)
        self.process: Process

    def renew(self, days: float = 30) -> None:
        """As an ACME client would: the certificate and those above it in one file."""
        identity = self.between.issue("pushd.test", days=days)
        (self.folder / "key.pem").write_bytes(identity.key)
        (self.folder / "fullchain.pem").write_bytes(identity.pem + self.between.pem)

    @contextmanager
    def running(self, endpoint: str = "", host: str = "127.0.0.1") -> Iterator[Secure]:
        (self.folder / "pushd.toml").write_text(self.config)
        files = f"privateKey={self.folder}/key.pem:certKey={self.folder}/fullchain.pem"
        interface = host.replace(":", "\\:")
        listen = endpoint or f"ssl:{self.port}:{files}:interface={interface}"
        arguments = [TWISTD, "-n", "--pidfile=", "pushd", "-c", "pushd.toml", "--listen", listen]
        if host == "127.0.0.1" and not endpoint:
            with running(arguments, self.folder / "log", self.port) as self.process:
                yield self
            return
        self.process = Process(arguments, self.folder / "log")
        try:
            wait_until(lambda: " listens on " in self.process.written, what="pushd")
            yield self
        finally:
            self.process.end()

    def connect(self, host: str = "127.0.0.1") -> ssl.SSLSocket:
        """A client that trusts the root alone."""
        context = ssl.create_default_context(cafile=str(self.folder / "root.pem"))
        plain = socket.create_connection((host, self.port), 5)
        return context.wrap_socket(plain, server_hostname="pushd.test")

    def stream(self) -> ssl.SSLSocket:
        client = self.connect()
        client.sendall(STREAM)
        received = b""
        while b"id:" not in received:
            received += client.recv(65536)
        return client

    def publish(self, text: str) -> None:
        command = [program("curl"), "-sSf", "--cacert", str(self.folder / "root.pem")]
        command += ["--resolve", f"pushd.test:{self.port}:127.0.0.1", "--data-binary", "@-"]
        command += ["-H", "Authorization: Bearer t", "-H", "Content-Type: text/plain"]
        url = f"https://pushd.test:{self.port}/topics/news"
        subprocess.run([*command, url], input=text, text=True, check=True, capture_output=True)

    def openssl(self, *options: str) -> str:
        """What ``openssl s_client`` says of a handshake."""
        command = [program("openssl"), "s_client", "-connect", f"127.0.0.1:{self.port}"]
        command += ["-CAfile", str(self.folder / "root.pem"), "-servername", "pushd.test", *options]
        run = subprocess.run(command, input="", capture_output=True, text=True, check=False)
        return run.stdout + run.stderr

    def ends(self) -> list[str]:
        """Why streams have ended."""
        return re.findall(r"stream of .* ended after .*: ([a-z ]+)", self.process.written)


@pytest.fixture
def secure(tmp_path: Path) -> Secure:
    return Secure(tmp_path)


def test_only_what_is_modern_is_agreed_to(secure: Secure) -> None:
    with secure.running():
        said = secure.openssl("-tls1_3", "-alpn", "h2,http/1.1", "-status")
        assert "Verify return code: 0 (ok)" in said, said
        assert "Certificate chain\n 0 " in said and "\n 1 s:CN = Between\n" in said
        assert "New, TLSv1.3, Cipher is TLS_" in said
        assert "ALPN protocol: http/1.1" in said
        said = secure.openssl("-tls1_2")
        assert re.search("New, TLSv1.2, Cipher is ECDHE-ECDSA-(AES|CHACHA20)", said)
        assert "Secure Renegotiation IS supported" in said
        assert "Compression: NONE" in said
        for weak in (
            ["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"],
            ["-tls1", "-cipher", "DEFAULT@SECLEVEL=0"],
            ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256"],
            ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-SHA"],
            ["-tls1_2", "-cipher", "AES128-GCM-SHA256:AES256-SHA:@SECLEVEL=0"],
        ):
            assert "Cipher is (NONE)" in secure.openssl(*weak), weak


def test_clients_cannot_renegotiate(secure: Secure) -> None:
    with secure.running():
        command = [program("openssl"), "s_client", "-connect", f"127.0.0.1:{secure.port}"]
        said = subprocess.run(
            [*command, "-tls1_2"], input="R\n", capture_output=True, text=True, check=False
        )
        assert "RENEGOTIATING" in said.stdout + said.stderr
        assert "no renegotiation" in (said.stdout + said.stderr).replace("_", " ").lower()


def test_it_listens_on_ipv6_too(secure: Secure) -> None:
    with secure.running(host="::1"), secure.connect("::1") as client:
        assert client.version() == "TLSv1.3"


@contextmanager
def folder_of_certificates(secure: Secure) -> Iterator[Secure]:
    folder = secure.folder / "certificates"
    folder.mkdir()
    for name in ("key.pem", "fullchain.pem"):
        (folder / name).write_bytes((secure.folder / name).read_bytes())
    endpoint = f"tls:{folder}:port={secure.port}:interface=127.0.0.1"
    with secure.running(endpoint):
        yield secure


def test_twisteds_tls_endpoint_works_as_twisted_made_it(secure: Secure) -> None:
    with folder_of_certificates(secure), secure.stream() as client:
        secure.publish("hello")
        assert b"data: hello\n" in client.recv(65536)
        assert "Cipher is (NONE)" in secure.openssl("-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0")


def test_the_proxy_protocol_may_stand_before_tls(secure: Secure) -> None:
    files = f"privateKey={secure.folder}/key.pem:certKey={secure.folder}/fullchain.pem"
    endpoint = f"haproxy:ssl:{secure.port}:{files}:interface=127.0.0.1"
    context = ssl.create_default_context(cafile=str(secure.folder / "root.pem"))
    with secure.running(endpoint):
        plain = socket.create_connection(("127.0.0.1", secure.port), 5)
        plain.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n")
        with context.wrap_socket(plain, server_hostname="pushd.test") as client:
            client.sendall(STREAM)
            received = b""
            while b"id:" not in received:
                received += client.recv(65536)
        wait_until(lambda: "to 192.0.2.7" in secure.process.written)


def serial(secure: Secure) -> object:
    with secure.connect() as client:
        certificate = client.getpeercert()
        assert certificate
        return certificate["serialNumber"]


@pytest.mark.parametrize("reuse_port", ["false", "true"])
def test_sighup_changes_the_certificate_of_new_connections_only(
    secure: Secure, reuse_port: str
) -> None:
    secure.config = f"server.reuse_port = {reuse_port}{CONFIG}"
    with secure.running(), secure.stream() as old:
        before = serial(secure)
        secure.renew(days=5)
        assert serial(secure) == before
        secure.process.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: serial(secure) != before)
        assert "fullchain.pem: expires " in secure.process.written
        now = serial(secure)
        secure.publish("still here")
        assert b"data: still here\n" in old.recv(65536)
        (secure.folder / "key.pem").write_text("nothing")
        secure.process.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: "key.pem: no private key" in secure.process.written)
        assert serial(secure) == now
        secure.renew()
        secure.process.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: serial(secure) != now)
        assert "Traceback" not in secure.process.written


def test_a_bad_certificate_ends_the_start(secure: Secure) -> None:
    listen = f"ssl:{secure.port}:privateKey={secure.folder}/nothing.pem"
    process = Process([TWISTD, "-n", "pushd", "--listen", listen], secure.folder / "log")
    assert process.popen.wait(15) == 1
    assert "--listen: " in process.written
    assert "nothing.pem: No such file or directory" in process.written
    assert "Traceback" not in process.written


def test_leaving_is_noticed_however_it_is_done(secure: Secure) -> None:
    def close_notify(client: ssl.SSLSocket) -> None:
        with suppress(ssl.SSLError, OSError):
            client.unwrap()
        client.close()

    def fin_without_goodbye(client: ssl.SSLSocket) -> None:
        client.close()

    def reset(client: ssl.SSLSocket) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()

    def half_close(client: ssl.SSLSocket) -> None:
        client.shutdown(socket.SHUT_WR)

    with secure.running():
        for number, leave in enumerate((close_notify, fin_without_goodbye, reset, half_close)):
            with secure.stream() as client:
                leave(client)
                wait_until(lambda: len(secure.ends()) == number + 1, 3, leave.__name__)  # noqa: B023
        assert "Traceback" not in secure.process.written
        assert "Unhandled" not in secure.process.written


def test_one_that_stops_reading_is_paused_and_goes_on_where_it_was(secure: Secure) -> None:
    with secure.running(), secure.stream() as slow, secure.stream() as quick:
        for number in range(12):
            secure.publish(f"{number} " + "x" * 900_000)
            received = b""
            while len(received) < 900_000:
                received += quick.recv(1_000_000)
        resident = int(re.findall(r"VmRSS:\s+(\d+)", status(secure))[0])
        assert resident < 250_000, "kB"
        received = b""
        while b"data: 11 " not in received:
            received = received[-100:] + slow.recv(1_000_000)
        assert not secure.ends()


def status(secure: Secure) -> str:
    return Path(f"/proc/{secure.process.popen.pid}/status").read_text()


def test_one_that_takes_nothing_is_cut_off(secure: Secure) -> None:
    with secure.running(), secure.stream():
        began = time.monotonic()
        for number in range(12):
            secure.publish(f"{number} " + "x" * 900_000)
        wait_until(lambda: secure.ends() == ["stalled"], 8)
        assert time.monotonic() - began > 1
        assert listens(secure.port)


def test_an_end_that_is_not_answered_is_an_end(secure: Secure) -> None:
    """TLS ends with a goodbye of both sides; who says none must not stay for ever."""
    with secure.running():
        client = secure.connect()
        client.sendall(b"GET /nothing HTTP/1.1\r\nHost: pushd.test\r\nConnection: close\r\n\r\n")
        files = Path(f"/proc/{secure.process.popen.pid}/fd")

        def connections() -> int:
            return sum("socket:" in str(link.readlink()) for link in files.iterdir())

        before = connections()
        wait_until(lambda: connections() < before, 8)
        client.close()

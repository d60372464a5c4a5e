"""The daemon under systemd: its units, what it tells, and the socket that it is given."""

from __future__ import annotations

import http.client
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from asking import Client, hesitant, until_sent_away
from processes import TWISTD, Process, free_port, listens, program, wait_until
from service_manager import ServiceManager, activate

PUSHD = [TWISTD, "--nodaemon", "--pidfile=", "pushd"]
ON_THE_SOCKET = ["--listen", "systemd:domain=INET6:name=http"]
STREAM = b"GET /topics/a HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n"


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    manager = ServiceManager(str(tmp_path / "notify"))
    yield manager
    manager.close()


@pytest.fixture
def source() -> Iterator[str]:
    """The URL of a source that takes a tenth of a second."""

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(0.1)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "8")
            self.end_headers()
            self.wfile.write(b'{"a": 1}')

        def log_message(self, format: str, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def configuration(tmp_path: Path, source: str) -> Path:
    path = tmp_path / "pushd.toml"
    path.write_text(f'[server]\ndrain = 3.0\n[sources.a]\nurl = "{source}"\n')
    return path


# What it tells.


@contextmanager
def told(
    manager: ServiceManager, folder: Path, *options: str, **environment: str
) -> Iterator[Told]:
    """A pushd that tells `manager` how it is doing."""
    port = free_port()
    arguments = [*PUSHD, *options, "--listen", f"tcp:{port}:interface=127.0.0.1"]
    process = Process(arguments, folder / "pushd.log", NOTIFY_SOCKET=manager.name, **environment)
    try:
        yield Told(process, port)
    finally:
        process.end()


class Told:
    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port


def test_ready_is_told_when_clients_can_connect_and_not_before(
    manager: ServiceManager, tmp_path: Path, configuration: Path
) -> None:
    with told(manager, tmp_path, "-c", str(configuration)) as daemon:
        manager.wait_for("READY=1")
        assert listens(daemon.port)
        assert manager.heard == ["READY=1"]


def test_a_pushd_that_cannot_listen_is_never_ready(
    manager: ServiceManager, tmp_path: Path, configuration: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"tcp:{other.getsockname()[1]}:interface=127.0.0.1"
        arguments = [*PUSHD, "-c", str(configuration), "--listen", listen]
        process = Process(arguments, tmp_path / "log", NOTIFY_SOCKET=manager.name)
        assert process.popen.wait(15) == 1
        assert "READY=1" not in manager.told()


def test_sigterm_is_told_and_the_exit_code_is_0(
    manager: ServiceManager, tmp_path: Path, configuration: Path
) -> None:
    with told(manager, tmp_path, "-c", str(configuration)) as daemon:
        manager.wait_for("READY=1")
        assert daemon.process.end(signal.SIGTERM) == 0, daemon.process.written
        manager.wait_for("STOPPING=1\nEXTEND_TIMEOUT_USEC=13000000")


def test_sighup_is_told_at_once_and_when_it_is_done_also_if_the_configuration_is_wrong(
    manager: ServiceManager, tmp_path: Path, configuration: Path
) -> None:
    with told(manager, tmp_path, "-c", str(configuration)) as daemon:
        manager.wait_for("READY=1")
        for text in (configuration.read_text(), "[server", configuration.read_text()):
            configuration.write_text(text)
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            daemon.process.popen.send_signal(signal.SIGHUP)
            reloading = manager.wait_for("RELOADING=1\nMONOTONIC_USEC=")
            assert int(reloading.rpartition("=")[2]) >= before
            manager.wait_for("READY=1")
        assert listens(daemon.port)


def test_without_a_configuration_sighup_is_told_too(
    manager: ServiceManager, tmp_path: Path
) -> None:
    with told(manager, tmp_path) as daemon:
        manager.wait_for("READY=1")
        daemon.process.popen.send_signal(signal.SIGHUP)
        manager.wait_for("RELOADING=1")
        manager.wait_for("READY=1")
        assert listens(daemon.port)


def test_a_sighup_right_behind_ready_is_heard(
    manager: ServiceManager, tmp_path: Path, configuration: Path
) -> None:
    with told(manager, tmp_path, "-c", str(configuration)) as daemon:
        manager.wait_for("READY=1")
        daemon.process.popen.send_signal(signal.SIGHUP)
        manager.wait_for("RELOADING=1")


def test_the_watchdog_hears_until_the_reactor_hangs(
    manager: ServiceManager, tmp_path: Path, configuration: Path
) -> None:
    environment = {"WATCHDOG_USEC": "900000"}
    with told(manager, tmp_path, "-c", str(configuration), **environment) as daemon:
        manager.wait_for("READY=1")
        for _ in range(5):
            manager.wait_for("WATCHDOG=1", seconds=5)
        daemon.process.popen.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        manager.told()
        time.sleep(1)
        assert manager.told() == []
        daemon.process.popen.send_signal(signal.SIGCONT)
        manager.wait_for("WATCHDOG=1")


def test_the_status_says_how_many_clients_and_sources_there_are(
    manager: ServiceManager, tmp_path: Path, configuration: Path
) -> None:
    with told(manager, tmp_path, "-c", str(configuration)) as daemon:
        assert re.match(r"STATUS=0 clients, 1 sources?\b", manager.wait_for("STATUS="))
        with socket.create_connection(("127.0.0.1", daemon.port)) as client:
            client.sendall(STREAM)
            assert re.match(r"STATUS=1 clients?, 1 sources?\b", manager.wait_for("STATUS="))


# The socket that it is given.


def listening(host: str = "127.0.0.1", port: int = 0, reuse_port: bool = False) -> socket.socket:
    """As conf/pushd.socket says; with `reuse_port`, as conf/pushd@.socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    dual = family == socket.AF_INET6
    return socket.create_server(
        (host, port), family=family, dualstack_ipv6=dual, backlog=4096, reuse_port=reuse_port
    )


def get(port: int, host: str = "127.0.0.1") -> bytes:
    """A small request on a connection of its own, whole."""
    connection = http.client.HTTPConnection(host, port, timeout=30)
    try:
        connection.request("GET", "/topics/a", headers={"Accept": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200, (answer.status, answer.read())
        return answer.read()
    finally:
        connection.close()


def test_systemds_own_tool_starts_it_with_the_first_client(
    tmp_path: Path, configuration: Path
) -> None:
    port = free_port()
    arguments = [program("systemd-socket-activate"), f"--listen=127.0.0.1:{port}"]
    arguments += ["--fdname=http", *PUSHD, "-c", str(configuration), *ON_THE_SOCKET]
    process = Process(arguments, tmp_path / "log")
    try:
        wait_until(lambda: "Listening on" in process.written, what="listening")
        assert "pushd" not in process.written.partition("Listening on")[0]
        assert get(port) == b'{"a":1}'
        assert f"port={port}" in process.written
        assert process.end() == 0
    finally:
        process.end()


@pytest.mark.parametrize(
    ("host", "clients"),
    [("127.0.0.1", ["127.0.0.1"]), ("::1", ["::1"]), ("::", ["127.0.0.1", "::1"])],
)
def test_the_endpoint_of_the_unit_takes_sockets_of_either_family(
    host: str, clients: list[str], tmp_path: Path, configuration: Path
) -> None:
    log = tmp_path / "log"
    with listening(host) as given:
        port = given.getsockname()[1]
        daemon = activate(given, "http", [*PUSHD, "-c", str(configuration), *ON_THE_SOCKET], log)
        try:
            for client in clients:
                assert get(port, client) == b'{"a":1}'
                # With domain=INET, Twisted takes an IPv6 peer's address from memory
                # that is not there.
                assert re.search(rf'"?(::ffff:)?{client}"? - - \[', log.read_text())
        finally:
            daemon.terminate()
            assert daemon.wait(15) == 0, log.read_text()


def test_a_pushd_that_was_given_no_socket_says_so(tmp_path: Path, configuration: Path) -> None:
    arguments = [*PUSHD, "-c", str(configuration), *ON_THE_SOCKET]
    process = Process(arguments, tmp_path / "log")
    assert process.popen.wait(15) == 1
    assert "--listen: " in process.written
    assert "Traceback" not in process.written


# A restart.


class Faithful:
    """
    Keeps its connection for as long as it may (RFC 9112, section 9.3). Idle
    connections may be closed at any time, so it asks again where not a byte came back.
    """

    def __init__(self, port: int, pause: float) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._pause = pause
        self._used = False
        self.again = 0

    def close(self) -> None:
        self._connection.close()

    def __call__(self) -> None:
        try:
            self._exchange()
        except http.client.RemoteDisconnected:
            assert self._used, "the connection was new"
            self._connection.close()
            self._used = False
            self.again += 1
            self._exchange()
        time.sleep(self._pause)

    def _exchange(self) -> None:
        self._connection.request("GET", "/static/format.js")
        answer = self._connection.getresponse()
        assert answer.status == 200
        assert len(answer.read()) == int(answer.headers["Content-Length"])
        self._used = not answer.will_close


def stream(port: int) -> None:
    """Reads a stream until it is sent away."""
    received = until_sent_away(port, STREAM)
    assert b"event: snapshot" in received, received


def test_a_restart_refuses_no_connection(
    manager: ServiceManager, tmp_path: Path, configuration: Path
) -> None:
    log = tmp_path / "log"
    arguments = [*PUSHD, "-c", str(configuration), *ON_THE_SOCKET]
    with listening() as given:
        port = given.getsockname()[1]

        def start() -> subprocess.Popen[bytes]:
            daemon = activate(given, "http", arguments, log, NOTIFY_SOCKET=manager.name)
            manager.wait_for("READY=1")
            return daemon

        def end() -> None:
            daemon.terminate()
            assert daemon.wait(15) == 0, log.read_text()

        daemon = start()
        faithful = Faithful(port, 0), Faithful(port, 0.3)
        clients = [
            *(Client(f"small {number}", lambda: get(port)) for number in range(2)),
            *(Client(f"hesitant {number}", lambda: hesitant(port)) for number in range(2)),
            Client("faithful and busy", faithful[0]),
            Client("faithful and idle", faithful[1]),
        ]
        streams = [Client(f"stream {number}", lambda: stream(port)) for number in range(2)]
        try:
            for _ in range(3):
                time.sleep(0.7)
                end()
                daemon = start()
            time.sleep(0.7)
        finally:
            for client in streams:
                client.over.set()
            for client in clients:
                client.end()
            end()
            for client in streams:
                client.end()
            for kept in faithful:
                kept.close()
    assert faithful[0].again == 0, "a busy connection ends with an answer that says so"
    outcome = {client.name: client.failures for client in clients + streams}
    assert not any(outcome.values()), (outcome, log.read_text())
    assert all(client.answers >= 4 for client in clients + streams)
    # Some had to wait for the next pushd.
    assert all(client.longest < 10 for client in clients + streams)


def test_a_restart_of_one_process_after_the_other_refuses_no_connection(
    manager: ServiceManager, tmp_path: Path, configuration: Path
) -> None:
    port = free_port()
    given = [listening(port=port, reuse_port=True) for _ in range(2)]
    logs = [tmp_path / str(number) / "log" for number in range(2)]
    for log in logs:
        log.parent.mkdir()

    def start(number: int) -> subprocess.Popen[bytes]:
        arguments = [*PUSHD, "-c", str(configuration), *ON_THE_SOCKET]
        environment = {"NOTIFY_SOCKET": manager.name}
        daemon = activate(given[number], "http", arguments, logs[number], **environment)
        manager.wait_for("READY=1")
        return daemon

    def end(daemon: subprocess.Popen[bytes]) -> None:
        daemon.terminate()
        assert daemon.wait(15) == 0

    daemons = [start(number) for number in range(2)]
    clients = [
        *(Client(f"small {number}", lambda: get(port)) for number in range(4)),
        *(Client(f"hesitant {number}", lambda: hesitant(port)) for number in range(4)),
    ]
    try:
        for number in (0, 1, 0, 1):
            time.sleep(0.5)
            end(daemons[number])
            time.sleep(0.2)
            daemons[number] = start(number)
    finally:
        for client in clients:
            client.end()
        for daemon in daemons:
            end(daemon)
        for one in given:
            one.close()
    outcome = {client.name: client.failures for client in clients}
    assert not any(outcome.values()), (outcome, *(log.read_text() for log in logs))
    assert all("GET /static/format.js" in log.read_text() for log in logs)
    assert all(client.answers >= 4 and client.longest < 10 for client in clients)

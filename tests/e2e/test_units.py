"""The units in conf/: what systemd says of them, and life within them."""

from __future__ import annotations

import http.client
import json
import re
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from confined import settings
from processes import ROOT, TWISTD, Process, free_port, program, wait_until
from service_manager import ServiceManager
from upstream.certificates import Authority

from pushd.config import Server

CONFINED = str(Path(__file__).with_name("confined.py"))
OF_253 = r".*pushd@?\.service:\d+: Failed to parse service type, ignoring: notify-reload\n"
KINDS = ["pushd", "pushd@"]
"""The one process, and one of several."""
LARGE = [{"key": number, "text": "x" * 100} for number in range(10_000)]


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The folder with the units, as they are where twistd is installed."""
    for kind in KINDS:
        for name in (f"{kind}.service", f"{kind}.socket"):
            text = (ROOT / "conf" / name).read_text()
            (tmp_path / name).write_text(text.replace("/usr/bin/twistd", TWISTD))
    return tmp_path


def analyze(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("systemd-analyze"), *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )


def version() -> int:
    found = re.match(r"systemd (\d+)", analyze(Path("/"), "--version").stdout)
    assert found
    return int(found[1])


@pytest.mark.parametrize("name", ["pushd", "pushd@1"])
def test_systemd_finds_nothing_wrong_with_the_units(units: Path, name: str) -> None:
    result = analyze(units, "verify", f"./{name}.service", f"./{name}.socket")
    expected = "" if version() >= 253 else f"({OF_253})+"
    assert re.fullmatch(expected, result.stderr), result.stderr
    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_unit_says_for_older_systemds_is_right_too(units: Path, kind: str) -> None:
    text = (units / f"{kind}.service").read_text()
    instead = re.findall(r"^#   (\w+=.*)$", text, re.MULTILINE)
    assert instead == ["Type=notify", "ExecReload=kill -HUP $MAINPID"]
    (units / f"{kind}.service").write_text(text.replace("Type=notify-reload", "\n".join(instead)))
    result = analyze(units, "verify", f"./{kind}.service")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_mistake_in_a_unit_would_be_found(units: Path) -> None:
    with (units / "pushd.service").open("a") as unit:
        unit.write("[Service]\nWatchdogSecs=1\n")
    assert "'WatchdogSecs'" in analyze(units, "verify", "./pushd.service").stderr


@pytest.mark.parametrize("name", ["pushd", "pushd@1"])
def test_little_is_exposed(units: Path, name: str) -> None:
    arguments = ["security", "--offline=true", "--no-pager", "--threshold=15", f"./{name}.service"]
    result = analyze(units, *arguments)
    assert result.returncode == 0, result.stdout
    assert f"Overall exposure level for {name}.service: 1." in result.stdout


@pytest.mark.parametrize(("kind", "socket"), [("pushd", "pushd"), ("pushd@", "pushd@%i")])
def test_service_and_socket_agree(kind: str, socket: str) -> None:
    service = settings(ROOT / f"conf/{kind}.service")
    given = settings(ROOT / f"conf/{kind}.socket")
    (name,) = given["FileDescriptorName"]
    assert service["ExecStart"][0].endswith(f"--listen systemd:domain=INET6:name={name}")
    assert len(given["ListenStream"]) == 1, "sockets of one name hide each other"
    assert int(given["Backlog"][0]) >= 4096
    assert service["Requires"] == service["Also"] == [f"{socket}.socket"]


def test_one_of_several_processes_differs_by_its_name_and_its_folder_and_shares_its_port() -> None:
    def differing(suffix: str) -> set[str]:
        one = settings(ROOT / f"conf/pushd.{suffix}")
        another = settings(ROOT / f"conf/pushd@.{suffix}")
        return {key for key in one | another if one.get(key) != another.get(key)}

    names = {"Description", "Requires", "After", "Also"}
    assert differing("service") == names | {"StateDirectory", "WorkingDirectory"}
    assert differing("socket") == {"Description", "ReusePort"}
    service = settings(ROOT / "conf/pushd@.service")
    assert service["WorkingDirectory"] == [f"%S/{service['StateDirectory'][0]}"]
    assert "%i" in service["StateDirectory"][0]


def test_each_process_that_is_enabled_has_a_socket(units: Path) -> None:
    folder = units / "etc/systemd/system"
    folder.mkdir(parents=True)
    for unit in units.glob("pushd@.*"):
        unit.rename(folder / unit.name)
    command = [program("systemctl"), f"--root={units}", "enable"]
    subprocess.run([*command, "pushd@1", "pushd@2"], check=True, capture_output=True)
    enabled = {path.name for path in folder.glob("*.wants/*")}
    assert enabled == {f"pushd@{n}.{suffix}" for n in (1, 2) for suffix in ("service", "socket")}


def test_the_unit_has_room_for_the_defaults() -> None:
    service = settings(ROOT / "conf/pushd.service")
    assert int(service["LimitNOFILE"][0]) > 2 * Server().max_clients
    assert int(service["TimeoutStopSec"][0].removesuffix("s")) >= Server().drain + 10


@pytest.fixture
def source(tmp_path: Path) -> Iterator[str]:
    """The URL of a source of a megabyte, over TLS with a certificate from ca.pem."""

    class Source(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(LARGE).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *_: object) -> None:
            pass

    authority = Authority()
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    own = authority.issue("localhost")
    (tmp_path / "server.pem").write_bytes(own.pem + own.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Source)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://localhost:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def ask_confined(unit: Path, source: str) -> tuple[int, object, str]:
    """The status and the document that a pushd gives which lives within `unit`, and its log."""
    folder, port = unit.parent, free_port()
    (folder / "pushd.toml").write_text(
        f'[sources.a]\nurl = "{source}"\nca_file = "{folder}/ca.pem"\n'
    )
    manager = ServiceManager(str(folder / "notify"))
    python = str(Path(TWISTD).parent / "python")
    arguments = [python, CONFINED, str(unit), TWISTD, "--nodaemon", "--pidfile=", "pushd"]
    arguments += ["-c", "pushd.toml", "--listen", f"tcp:{port}:interface=127.0.0.1"]
    process = Process(arguments, folder / "log", NOTIFY_SOCKET=manager.name, PYTHONPATH="")
    try:
        manager.wait_for("READY=1")
        wait_until(lambda: "listens on" in process.written)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/topics/a", headers={"Accept": "application/json"})
        answer = connection.getresponse()
        document = json.loads(answer.read())
        connection.close()
    finally:
        process.end()
        manager.close()
    return answer.status, document, process.written


def test_pushd_lives_within_the_calls_and_sockets_that_its_unit_allows(
    units: Path, source: str
) -> None:
    status, document, log = ask_confined(units / "pushd.service", source)
    # Over TLS, with a name to look up and a second process to read so much.
    assert (status, document) == (200, LARGE), log
    assert "not permitted" not in log
    assert "Traceback" not in log


def test_what_the_unit_leaves_out_would_keep_https_sources_from_being_asked(
    units: Path, source: str
) -> None:
    """If this fails, MemoryDenyWriteExecute= may come into the unit."""
    with (units / "pushd.service").open("a") as unit:
        unit.write("MemoryDenyWriteExecute=yes\n")
    status, _, _ = ask_confined(units / "pushd.service", source)
    assert status != 200


def test_the_confinement_of_these_tests_confines() -> None:
    """In a process of its own: there is no way back."""
    code = (
        "import os, socket, sys; sys.path.insert(0, sys.argv[1]); import confined, pathlib\n"
        "confined.confine(pathlib.Path(sys.argv[2]))\n"
        "for call in (lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),\n"
        "             lambda: os.nice(1)):\n"
        "    try: call()\n"
        "    except OSError as error: print(error.errno)\n"
    )
    folder, unit = Path(CONFINED).parent, ROOT / "conf/pushd.service"
    python = str(Path(TWISTD).parent / "python")
    result = subprocess.run(
        [python, "-c", code, str(folder), str(unit)], capture_output=True, text=True, check=True
    )
    assert result.stdout == "97\n1\n"

"""What the daemon's log says, as text and as JSON: enough, and never a secret."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from processes import TWISTD, Daemon, free_port, running, wait_until

LOGGERS = {"text": (), "json": ("--logger=pushd.logs.json_lines",)}

# Each under a name of its own: a leak tells where it came from.
STATIC, KEY, TOKEN, FORWARDED, LISTED = (
    f"s3cr3t-{name}" for name in ("static", "key", "token", "forwarded", "listed")
)
PARAMETER, WRONG, REFERER, MALFORMED, LOCATION = (
    f"s3cr3t-{name}" for name in ("parameter", "wrong", "referer", "malformed", "location")
)
SECRET = re.compile(r"s3cr3t-\w+", re.IGNORECASE)

PATHS = ("good", "echo", "refuse", "html", "redirect", "cut", "garbage", "gone")

CONFIG = """
[publish]
tokens = ["${TOKEN}"]
topics = ["news"]
""" + "".join(
    f"""
[sources.{path}]
url = "http://127.0.0.1:${{PORT}}/{path}?key=${{KEY}}"
headers = {{ X-Static = "${{STATIC}}" }}
forward_headers = ["Authorization", "X-Listed"]
select = {"abs(headers)" if path == "echo" else "@"!r}
"""
    for path in PATHS
)


class Unfriendly(BaseHTTPRequestHandler):
    """An upstream that says all that it was told, and mostly fails."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        told = {"headers": dict(self.headers), "path": self.path}
        getattr(self, self.path[1:].partition("?")[0])(json.dumps(told).encode())

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def good(self, told: bytes) -> None:
        self.answer(200, b'{"good": true}')

    def echo(self, told: bytes) -> None:
        self.answer(200, told)

    def refuse(self, told: bytes) -> None:
        self.answer(500, told)

    def html(self, told: bytes) -> None:
        self.answer(200, told, Content_Type="text/html")

    def redirect(self, told: bytes) -> None:
        self.answer(302, told, Location=f"http://u:{LOCATION}@127.0.0.2/?token={LOCATION}")

    def cut(self, told: bytes) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n" + told)
        self.close_connection = True

    def garbage(self, told: bytes) -> None:
        self.wfile.write(told + b"\r\n" + told + b"\r\n\r\n")
        self.close_connection = True

    def gone(self, told: bytes) -> None:
        self.answer(410, told)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Clients that reset their connections are none of our troubles."""


@contextmanager
def upstream() -> Iterator[int]:
    server = _Server(("127.0.0.1", 0), Unfriendly)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def logging(folder: Path, logger: str, config: str, **environment: str) -> Iterator[Daemon]:
    """A twistd with this logger."""
    port = free_port()
    path = folder / "pushd.toml"
    path.write_text(config)
    listen = f"tcp:{port}:interface=127.0.0.1"
    arguments = [TWISTD, "-n", "--pidfile=", *LOGGERS[logger], "pushd"]
    arguments += ["--listen", listen, "-c", str(path)]
    with running(arguments, folder / "pushd.log", port, **environment) as process:
        yield Daemon(process, port)


def exchange(port: int, request: bytes) -> str:
    """What comes back for a few bytes that may be no request at all; then the line is cut."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        # Cut before it was read, it would prove nothing; some are never answered.
        connection.settimeout(2)
        connection.sendall(request)
        received = b""
        with suppress(OSError):
            while data := connection.recv(65536):
                received += data
                connection.settimeout(0.1)
        # With RST, in the middle of whatever there is.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return received.decode(errors="replace")


def malformed() -> Iterator[bytes]:
    secret = MALFORMED.encode()
    target = b"/topics/good?access_token=" + secret
    news = b"/topics/news?access_token=" + secret
    bearer = b"Authorization: Bearer " + secret + b"\r\n"
    end = b"\r\n\r\n"
    yield b"GET " + target + end
    yield b"GET " + target + b" HTTP/1.1\r\nno header " + secret + end
    yield b"GET " + target + b" HTTP/3.7\r\nHost: x\r\n" + bearer + end
    yield b"GET " + target + b" HTTP/1.1 \r\n" + bearer + end
    yield b"GET http://x:y" + target + b" HTTP/1.1\r\nHost: x\r\nAccept: application/json" + end
    yield b"GET http://" + secret + b"@x" + target + b" HTTP/1.1\r\nHost: x" + end
    yield b"HEAD /topics/%ff?access_token=" + secret + b" HTTP/1.1\r\nHost: x" + end
    yield b"GET /topics/\xff?access_token=" + secret + b" HTTP/1.1\r\nHost: x" + end
    yield b"G\xc3\x84T " + target + b" HTTP/1.1\r\nHost: x" + end
    yield b"BREW " + target + b" HTTP/1.1\r\nHost: x\r\n" + bearer + end
    yield b"GET " + target + b" HTTP/1.1\r\nX-Long: " + 1000 * secret + 10_000 * secret + end
    yield b"GET " + target + 10_000 * secret + b" HTTP/1.1\r\nHost: x" + end
    yield b"POST " + news + b" HTTP/1.1\r\nHost: x\r\nContent-Length: " + secret + end
    yield b"POST " + news + b" HTTP/1.1\r\nHost: x\r\n" + bearer + b"Content-Length: 9999" + end
    chunked = b"Content-Type: text/plain\r\nTransfer-Encoding: chunked"
    yield b"POST " + news + b" HTTP/1.1\r\nHost: x\r\n" + chunked + end + secret + b"\r\n"
    yield b"POST " + news + b" HTTP/1.1\r\nHost: " + secret + b"\r\n" + chunked + end + b"0" + end
    yield b"GET /topics/none?topic=x;access_token=" + secret + b" HTTP/1.0" + end
    yield b"GET /topics/none?client=x;header=X-Listed:" + secret + b" HTTP/1.0" + end
    yield b"GET /events?topic=%00&access%5Ftoken=" + secret + b" HTTP/1.0" + end
    yield b"GET /events?wait=1&=" + secret + b"&" + secret + b" HTTP/1.0" + end


def say_everything(daemon: Daemon, folder: Path) -> Iterator[str]:
    """Use all secrets in all places where they may be, and some more; gives the answers."""
    token = f"Authorization: Bearer {TOKEN}"
    text = ("-H", "Content-Type: text/plain", "-d", "x")
    forwarded = ("-H", f"Authorization: Bearer {FORWARDED}", "-H", f"X-Listed: {LISTED}")
    referer = ("-e", f"http://127.0.0.1/?access_token={REFERER}")
    for path in PATHS:
        target = f"/topics/{path}"
        given = f"{target}?header=Authorization:{PARAMETER}&access_token={PARAMETER}"
        for options in ((), forwarded):
            yield daemon.curl(target, "-H", "Accept: application/json", *options, *referer)
        with daemon.stream(folder, given, "-i") as curl:
            wait_until(lambda c=curl: "HTTP/1.1 20" in c.written)  # type: ignore[misc]
            if path != "gone":
                wait_until(lambda c=curl: "event: " in c.written)  # type: ignore[misc]
            yield curl.written
    yield daemon.curl("/topics/news", "-H", token, *text, *referer)
    yield daemon.curl(f"/topics/news?access_token={TOKEN}", *text)
    yield daemon.curl(f"/topics/news?event=gap&access_token={TOKEN}", *text)
    for wrong in (f"Bearer {WRONG}", f"Basic {WRONG}", WRONG):
        yield daemon.curl("/topics/news", "-H", f"Authorization: {wrong}", *text)
        yield daemon.curl("/topics/none", "-H", f"Authorization: {wrong}", *text)
    yield daemon.curl(f"/topics/news?ACCESS_TOKEN={WRONG}", *text)
    yield daemon.curl(f"/topics/good?header=Cookie:{PARAMETER}")
    yield daemon.curl(f"/topics/good?header=X-Listed:%07{PARAMETER}")
    yield daemon.curl(f"/topics/good?header={PARAMETER}")
    yield daemon.curl(f"/nothing?access_token={PARAMETER}", *referer)
    for request in malformed():
        yield exchange(daemon.port, request)
    yield daemon.curl("/readyz")
    yield daemon.curl("/metrics")


@pytest.mark.parametrize("logger", LOGGERS)
def test_no_secret_is_in_a_log_or_in_an_answer(tmp_path: Path, logger: str) -> None:
    secrets = {"TOKEN": TOKEN, "STATIC": STATIC, "KEY": KEY}
    with upstream() as port, logging(tmp_path, logger, CONFIG, PORT=str(port), **secrets) as daemon:
        answers = list(say_everything(daemon, tmp_path))
        daemon.process.end()
        log = daemon.process.written
    # That there were secrets to be found, and that they were left out and not the lines.
    for said in (
        "500 Internal Server Error",
        "select failed",
        "client left",
        "POST /topics/news?access_token=... HTTP/1.1",
        "GET /topics/good?access_token=... HTTP/1.1",
        "GET /topics/none?topic=x&access_token=... HTTP/1.0",
        "GET /topics/none?client=x&header=... HTTP/1.0",
        "GET /events?wait=1&...=...&...=... HTTP/1.0",
    ):
        assert said in log
    assert [line for line in log.splitlines() if SECRET.search(line)] == []
    assert [answer for answer in answers if SECRET.search(answer)] == []
    assert "Traceback" not in log
    assert "Unhandled" not in log
    # The throttle hides nothing that is of interest here: these lines are alike.
    assert set(re.findall(r"more within 10 s: ([\w ]+)", log)) <= {"answered with 502"}


def test_each_line_of_the_json_log_is_an_object(tmp_path: Path) -> None:
    with logging(tmp_path, "json", '[sources.a]\nurl = "http://127.0.0.1:1/"') as daemon:
        daemon.curl("/topics/a?client=%E2%80%A8x", "-H", "Accept: application/json")
        daemon.process.end()
        lines = daemon.process.written.splitlines()
    events = [json.loads(line) for line in lines]
    assert len(events) > 5
    for event in events:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["time"])
        assert {type(event[name]) for name in ("level", "logger", "message")} == {str}
    (refused,) = [event for event in events if event.get("state") == "error"]
    assert refused["topic"] == "a"
    assert refused["logger"] == "pushd.sources.health.Health"
    assert refused["reason"] == "The source refused the connection."
    assert "The source refused the connection." in refused["message"]


def test_a_stream_that_ended_leaves_one_line(tmp_path: Path) -> None:
    with upstream() as port:
        config = f'[sources.good]\nurl = "http://127.0.0.1:{port}/good"\nevery = 0.1'
        with logging(tmp_path, "json", config) as daemon:
            daemon.curl("/topics/good", "-H", "Accept: application/json")
            with daemon.stream(tmp_path, "/topics/good?client=page-7") as curl:
                wait_until(lambda: "event: snapshot" in curl.written)
                size = len(curl.written)
            wait_until(lambda: '"why"' in daemon.process.written)
            daemon.process.end()
            lines = daemon.process.written.splitlines()
    (ended,) = [event for event in map(json.loads, lines) if "why" in event]
    duration = ended.pop("duration")
    assert isinstance(duration, float) and 0 < duration < 30
    sent = ended.pop("size")
    assert 0 < sent <= size, "without the reconnection time in front"
    names = ("level", "topics", "client", "peer", "transport", "events", "why")
    told = ["info", ["good"], "page-7", "127.0.0.1", "sse", 1, "client left"]
    assert [ended[name] for name in names] == told

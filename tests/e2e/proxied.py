"""
What pushd promises behind a proxy whose configuration is in ``conf/``.

Each proxy has a module of tests, with a class that inherits :class:`Promises`.
"""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest
from processes import ROOT, Process, free_port, program, pushd, wait_until
from reader import Parser
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from test_browser import QUIET
from upstream.certificates import Authority

TOKEN = "s3cr3t-t0k3n"
MESSAGES = f"""
[publish]
tokens = ["{TOKEN}"]
topics = ["news", "rooms/{{room}}"]
"""
AWAY = "retry: 1000\n"
AS_JSON = ("-H", "Accept: application/json")
BEARER = ("-H", f"Authorization: Bearer {TOKEN}")
MESSAGE = (*BEARER, "-H", "Content-Type: text/plain")


def adapted(name: str, replaced: Mapping[str, str]) -> str:
    """A file from ``conf/``, with other values in the lines that are marked "yours"."""
    lines = (ROOT / "conf" / name).read_text().splitlines(keepends=True)
    for old, new in replaced.items():
        found = [number for number, line in enumerate(lines) if old in line and "# yours" in line]
        assert found, f"{old!r} is not in a line of {name} that is marked"
        for number in found:
            lines[number] = lines[number].replace(old, new)
    return "".join(lines)


class Certificate:
    """
    A certificate for this machine, in files.

    :ivar authority: who signed it.
    :ivar path: the certificate and its key.
    """

    def __init__(self, folder: Path) -> None:
        authority = Authority()
        self.authority = folder / "authority.pem"
        self.authority.write_bytes(authority.pem)
        self.path = folder / "certificate.pem"
        identity = authority.issue("localhost", "127.0.0.1")
        self.path.write_bytes(identity.pem + identity.key)


class Proxy:
    """
    A proxy that runs.

    :param logs: what it writes, apart from its output.
    """

    def __init__(self, process: Process, port: int, certificate: Certificate, *logs: Path) -> None:
        self.process = process
        self.port = port
        self.authority = certificate.authority
        self._logs = logs

    @property
    def log(self) -> str:
        logs = [path.read_text() for path in self._logs if path.exists()]
        return "".join([*logs, self.process.written])

    def url(self, path: str) -> str:
        return f"https://localhost:{self.port}{path}"

    def command(self, path: str, *options: str) -> list[str]:
        trusting = ["--cacert", str(self.authority), "--noproxy", "*", "--path-as-is"]
        return [program("curl"), "-sSN", "--max-time", "60", *trusting, *options, self.url(path)]

    def curl(self, path: str, *options: str) -> str:
        """The answer to a request that has an end, with its headers."""
        command = self.command(path, "-i", *options)
        # Without universal newlines, which would take CRs away.
        result = subprocess.run(command, capture_output=True, check=True, timeout=60)
        return result.stdout.decode().replace("\r\n", "\n")

    @contextmanager
    def stream(self, folder: Path, path: str, *options: str) -> Iterator[Process]:
        """One that goes on."""
        process = Process(self.command(path, *options), folder / f"curl-{time.monotonic_ns()}")
        try:
            yield process
        finally:
            process.end()

    @contextmanager
    def http2(self, folder: Path, path: str, count: int) -> Iterator[Process]:
        """Streams that share a connection; see http2.mjs for what it writes."""
        script = Path(__file__).with_name("http2.mjs")
        command = [program("node"), str(script), self.url(""), str(self.authority), path]
        process = Process([*command, str(count)], folder / f"node-{time.monotonic_ns()}")
        try:
            yield process
        finally:
            process.end()


def publish(port: int, topic: str, text: str) -> None:
    """Straight to pushd; it is recorded when this returns."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "text/plain"}
        connection.request("POST", f"/topics/{topic}", text, headers)
        answer = connection.getresponse()
        assert answer.status == 201, answer.read()


@contextmanager
def silent_upstream() -> Iterator[socket.socket]:
    """A source that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        upstream.settimeout(10)
        yield upstream


class Backend(ThreadingHTTPServer):
    """
    In pushd's place: it is ready, answers all else with an error, and notes what it was asked.

    :ivar asked: the headers of each request, with the request line under "".
    :param cut: the answer is not sent in full.
    """

    def __init__(self, status: int, *, cut: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.status, self.cut = status, cut
        self.asked: list[list[tuple[str, str]]] = []

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Somebody left."""


class _Answer(BaseHTTPRequestHandler):
    server: Backend

    def do_GET(self) -> None:
        body = b'{"detail": "from behind"}'
        ready = self.path == "/readyz"
        if not ready:
            headers = [(name.lower(), value) for name, value in self.headers.items()]
            self.server.asked.append([("", self.requestline), *headers])
        cut = self.server.cut and not ready
        self.send_response(200 if ready else self.server.status)
        self.send_header("Content-Type", "application/problem+json")
        self.send_header("Content-Length", str(len(body) + cut))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def chromium(folder: Path) -> Iterator[Chrome]:
    """A browser that takes the certificate for what it is."""
    options = ChromeOptions()
    options.binary_location = program("chromium")
    for name in QUIET.split():
        options.add_argument(f"--{name}")
    options.add_argument("--ignore-certificate-errors")
    options.add_argument(f"--user-data-dir={folder / 'profile'}")
    driver = Chrome(options=options, service=Service(program("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


EVENT_SOURCES = """
window.sources = arguments[0].map(([url, withCredentials]) => {
  const source = new EventSource(url, { withCredentials });
  const seen = { messages: [], ids: [], gaps: 0, errors: 0, closed: false };
  source.onmessage = (event) => {
    seen.messages.push(event.data);
    seen.ids.push(event.lastEventId);
  };
  source.addEventListener("gap", () => (seen.gaps += 1));
  source.onerror = () => {
    seen.errors += 1;
    seen.closed ||= source.readyState === EventSource.CLOSED;
  };
  return { source, seen };
});
"""
SEEN = "return sources.map(({ source, seen }) => ({ ...seen, state: source.readyState }))"


class Promises:
    """
    Inherited by the tests of each proxy.

    :cvar connection: finds in a line of its log which connection a request came on.
    :cvar broken_off: with which code curl ends when pushd breaks off its stream.
    """

    connection: str
    broken_off: Mapping[str, int]

    def proxy(self, folder: Path, backend: int) -> AbstractContextManager[Proxy]:
        """Run it, with the very file from ``conf/``, in front of a port."""
        raise NotImplementedError

    @pytest.mark.parametrize("version", ["--http1.1", "--http2"])
    def test_an_event_is_through_within_100_ms_of_being_recorded(
        self, tmp_path: Path, version: str
    ) -> None:
        with (
            pushd(tmp_path, MESSAGES) as daemon,
            self.proxy(tmp_path, daemon.port) as proxy,
            subprocess.Popen(
                proxy.command("/topics/news", version), stdout=subprocess.PIPE, bufsize=0
            ) as curl,
        ):
            assert curl.stdout is not None
            lines = iter(curl.stdout.readline, b"")
            assert any(line.startswith(b"id:") for line in lines)
            slowest = []
            for _ in range(3):
                times = []
                for number in range(30):
                    asked = time.perf_counter()
                    publish(daemon.port, "news", f"message {number}")
                    assert any(line == b"data: message %d\n" % number for line in lines)
                    times.append((time.perf_counter() - asked) * 1000)
                    time.sleep(0.01)
                slowest.append(max(times))
                median = statistics.median(times)
                print(f"{version}: median {median:.1f} ms, max {slowest[-1]:.1f} ms")
            curl.terminate()
            # The machine may have been busy with something else in one round, or two.
            assert min(slowest) < 100

    def test_100_streams_share_one_http_2_connection(self, tmp_path: Path) -> None:
        with pushd(tmp_path, MESSAGES) as daemon, self.proxy(tmp_path, daemon.port) as proxy:
            with proxy.http2(tmp_path, "/topics/news", 100) as node:
                wait_until(lambda: node.written.count("id: ") == 100, what="100 streams")
                assert node.written.count(" status 200\n") == 100
                for text in ("one", "two"):
                    publish(daemon.port, "news", text)
                    wait_until(
                        lambda text=text: node.written.count(f"data: {text}\\n") == 100,
                        what=f"{text} on 100 streams",
                    )
                # And one more request has room beside them, for others of the page.
                assert "error" not in node.written
                allowed = re.search(r"allowed (\d+)", node.written)
                assert allowed and int(allowed[1]) > 100
            found: list[str] = []

            def logged() -> bool:
                found[:] = re.findall(self.connection, proxy.log)
                return len(found) >= 100

            wait_until(logged, what="the log of 100 streams")
            assert len(found) == 100
            assert len(set(found)) == 1

    @pytest.mark.parametrize("how", ["http1.1 closes", "http2 closes", "http2 resets"])
    def test_a_client_s_leaving_reaches_pushd_and_its_upstream(
        self, tmp_path: Path, how: str
    ) -> None:
        with silent_upstream() as upstream:
            url = f"http://127.0.0.1:{upstream.getsockname()[1]}/"
            config = f'[sources.a]\nurl = "{url}"\ntimeout = 60'
            with (
                pushd(tmp_path, config) as daemon,
                self.proxy(tmp_path, daemon.port) as proxy,
                ExitStack() as client,
            ):
                version = how.split(maxsplit=1)[0]
                if how == "http2 resets":
                    reader = client.enter_context(proxy.http2(tmp_path, "/topics/a", 1))
                else:
                    reader = client.enter_context(
                        proxy.stream(tmp_path, "/topics/a", f"--{version}")
                    )
                poll, _ = upstream.accept()
                with poll:
                    poll.settimeout(5)
                    assert poll.recv(65536).startswith(b"GET / HTTP/1.1\r\n")
                    wait_until(lambda: "id:" in reader.written)
                    left = time.monotonic()
                    if how == "http2 resets":
                        reader.popen.send_signal(signal.SIGUSR2)
                    else:
                        reader.popen.terminate()
                    with suppress(ConnectionResetError):
                        assert poll.recv(1) == b""
                    assert time.monotonic() - left < 1
                if how == "http2 resets":
                    assert reader.popen.poll() is None
                    assert "connection closed" not in reader.written

    def test_a_restart_of_pushd_leaves_a_browser_s_event_source_alive(self, tmp_path: Path) -> None:
        port = free_port()
        with self.proxy(tmp_path, port) as proxy, chromium(tmp_path) as driver:
            site, other = proxy.url(""), f"https://127.0.0.1:{proxy.port}"
            config = f'server.cors_origins = ["{site}"]\n{MESSAGES}'

            def all_have(text: str) -> bool:
                return all(text in source["messages"] for source in driver.execute_script(SEEN))

            def all_open() -> bool:
                return all(source["state"] == 1 for source in driver.execute_script(SEEN))

            with pushd(tmp_path, config, port=port):
                # A page of the site's origin, which pushd's own policy lets read its own only.
                driver.get(f"{site}/nothing")
                # The site's own, and another site's without and with cookies.
                paths = [["/topics/news", False]]
                paths += [[f"{other}/topics/news", credentials] for credentials in (False, True)]
                driver.execute_script(EVENT_SOURCES, paths)
                wait_until(all_open, what="the streams")
                publish(port, "news", "before")
                wait_until(lambda: all_have("before"), what="a message before")
            # pushd has been ended with SIGTERM. They come in vain, and more than once.
            wait_until(
                lambda: all(source["errors"] >= 3 for source in driver.execute_script(SEEN)),
                30,
                what="three attempts",
            )
            (tmp_path / "again").mkdir()
            with pushd(tmp_path / "again", config, port=port):
                wait_until(all_open, 30, what="the streams' return")
                publish(port, "news", "after")
                wait_until(lambda: all_have("after"), what="a message after")
            assert not any(source["closed"] for source in driver.execute_script(SEEN))

    @pytest.mark.parametrize("version", ["http1.1", "http2"])
    def test_a_stream_that_is_broken_off_has_no_end(self, tmp_path: Path, version: str) -> None:
        with (
            pushd(tmp_path, MESSAGES) as daemon,
            self.proxy(tmp_path, daemon.port) as proxy,
            proxy.stream(tmp_path, "/topics/news", f"--{version}") as curl,
        ):
            wait_until(lambda: "id:" in curl.written)
            daemon.process.end(signal.SIGTERM)
            assert curl.popen.wait(5) == self.broken_off[version], curl.written

    def test_streams_are_told_to_come_back_while_pushd_is_away(self, tmp_path: Path) -> None:
        with self.proxy(tmp_path, free_port()) as proxy:
            for path in ("/topics/news", "/topics/rooms/a%2Fb?access_token=x", "/events?topic=a"):
                for accept in ("text/event-stream", "*/*", "text/event-stream, application/json"):
                    answer = proxy.curl(path, "-H", f"Accept: {accept}")
                    assert_away(answer)
                    assert "access-control-allow-origin" not in answer.lower()
            other = proxy.curl("/topics/news", "-H", "Origin: https://a.example")
            assert_away(other)
            assert "\naccess-control-allow-origin: https://a.example\n" in other.lower()
            assert "\naccess-control-allow-credentials: true\n" in other.lower()
            assert re.search("\nvary: .*origin", other.lower())

    def test_all_others_are_told_the_truth_while_pushd_is_away(self, tmp_path: Path) -> None:
        with self.proxy(tmp_path, free_port()) as proxy:
            for path, *options in (
                ("/topics/news", *AS_JSON),
                ("/topics/news", "-H", "Accept: application/json, text/plain, */*"),
                ("/topics/news", "-H", "Accept: application/x-ndjson"),
                ("/topics/news", *MESSAGE, "-d", "x"),
                ("/topics/news", *MESSAGE, "-H", "Accept: text/event-stream", "-d", "x"),
                ("/", "-H", "Accept: text/html,*/*"),
            ):
                assert_problem(proxy.curl(path, *options), {502, 503})
            # HEAD and a preflight are no streams either.
            for options in (("-I",), ("-X", "OPTIONS", "-H", "Origin: https://a.example")):
                head = proxy.curl("/topics/news", *options)
                assert re.match(r"HTTP/2 50[23]", head), head

    @pytest.mark.parametrize("status", [502, 503, 504])
    def test_an_error_from_behind_does_not_close_streams_and_is_passed_on_to_others(
        self, tmp_path: Path, status: int
    ) -> None:
        with Backend(status) as backend, self.proxy(tmp_path, backend.server_port) as proxy:
            assert_away(proxy.curl("/topics/news"))
            answer = proxy.curl("/topics/news", *AS_JSON)
            assert answer.startswith(f"HTTP/2 {status}")
            assert answer.endswith('{"detail": "from behind"}')

    def test_other_errors_are_pushd_s_own(self, tmp_path: Path) -> None:
        large = tmp_path / "large"
        large.write_text("x" * 1_050_000)
        with pushd(tmp_path, MESSAGES) as daemon, self.proxy(tmp_path, daemon.port) as proxy:
            for path, *options in (
                ("/topics/unknown",),
                ("/topics/news", "-H", "Accept: text/html"),
                ("/topics/news", "-d", "x"),
                ("/topics/news", *MESSAGE, "--data-binary", f"@{large}"),
            ):
                through, straight = proxy.curl(path, *options), daemon.curl(path, *options)
                problem = json.loads(straight)
                assert 400 <= problem["status"] < 500
                assert_problem(through, {problem["status"]})
                assert "the proxy" not in through

    def test_messages_pass(self, tmp_path: Path) -> None:
        large = "x" * 300_000
        body = tmp_path / "body"
        with (
            pushd(tmp_path, MESSAGES) as daemon,
            self.proxy(tmp_path, daemon.port) as proxy,
            proxy.stream(tmp_path, "/events?topic=rooms/a%2Bb&topic=news") as curl,
        ):
            wait_until(lambda: "id:" in curl.written)
            for path, text in (("/topics/rooms/a%2Bb?event=e", "hello"), ("/topics/news", large)):
                body.write_text(text)
                answer = proxy.curl(path, *MESSAGE, "--data-binary", f"@{body}")
                assert answer.startswith("HTTP/2 201")
            wait_until(lambda: large in curl.written and curl.written.endswith("\n\n"))
            events = Parser().feed(curl.written.encode())
            assert [event.json["topic"] for event in events] == ["rooms/a+b", "news"]

    def test_documents_and_pages_pass(self, tmp_path: Path) -> None:
        with pushd(tmp_path) as daemon, self.proxy(tmp_path, daemon.port) as proxy:
            head, _, body = proxy.curl("/topics/stocks", *AS_JSON).partition("\n\n")
            assert len(json.loads(body)) == 10
            assert re.search('\netag: ".*"(\n|$)', head)
            assert "<!doctype html>" in proxy.curl("/").lower()
            assert "applyPatch" in proxy.curl("/static/jsonpatch.js")

    def test_what_is_pushd_s_own_is_not_reachable(self, tmp_path: Path) -> None:
        with pushd(tmp_path) as daemon, self.proxy(tmp_path, daemon.port) as proxy:
            for path in (
                "/metrics",
                "/healthz",
                "/readyz",
                "/metrics/",
                "//metrics",
                "/%6detrics",
                "/metrics?x=/topics/",
                "/topics/../metrics",
                "/topics/%2e%2e/metrics",
                "/metrics%2f..%2ftopics%2fa",
                "/events/",
                "/other",
            ):
                for version in ("--http1.1", "--http2"):
                    answer = proxy.curl(path, version)
                    assert re.match(r"HTTP/(2|1\.1) 404", answer), (path, answer)
                    assert "pushd_" not in answer
            assert_problem(proxy.curl("/metrics"), {404})

    def test_no_secret_is_in_a_log(self, tmp_path: Path) -> None:
        secret = f"access_token={TOKEN}&header=Authorization:{TOKEN}"
        referer = ("-H", f"Referer: https://a.example/?t={TOKEN}")
        paths = (f"/topics/news?{secret}", f"/events?topic=news&{secret}", f"/nothing?{secret}")

        def ask_all(proxy: Proxy) -> None:
            for path in paths:
                for version in ("--http1.1", "--http2"):
                    for options in (("-I",), AS_JSON, ("-d", "x"), ("-X", "BREW"), BEARER):
                        with suppress(subprocess.CalledProcessError):
                            proxy.curl(path, version, *referer, *options, "--max-time", "0.3")

        with self.proxy(tmp_path, free_port()) as proxy:
            ask_all(proxy)
            wait_until(lambda: proxy.log.count("/topics/news") >= 10)
            assert TOKEN not in proxy.log
        # Answers that are not finished.
        with (
            Backend(200, cut=True) as backend,
            self.proxy(tmp_path, backend.server_port) as proxy,
        ):
            ask_all(proxy)
            wait_until(lambda: proxy.log.count("/topics/news") >= 10)
            assert TOKEN not in proxy.log
        with pushd(tmp_path, MESSAGES) as daemon, self.proxy(tmp_path, daemon.port) as proxy:
            ask_all(proxy)
            wait_until(lambda: proxy.log.count("/topics/news") >= 10)
            assert TOKEN not in proxy.log

    def test_pushd_is_told_for_whom_the_proxy_asks(self, tmp_path: Path) -> None:
        with Backend(200) as backend, self.proxy(tmp_path, backend.server_port) as proxy:
            made_up = ("-H", "X-Forwarded-For: 9.9.9.9", "-H", "X-Forwarded-Proto: ftp")
            path = "/topics/quotes/a%2Fb?header=A:%20b"
            for options in ((), AS_JSON):
                proxy.curl(path, *made_up, *options)
                asked = backend.asked.pop()
                assert asked[0] == ("", f"GET {path} HTTP/1.1")
                assert [v for name, v in asked if name == "x-forwarded-for"] == ["127.0.0.1"]
                assert [v for name, v in asked if name == "x-forwarded-proto"] == ["https"]
                assert ("connection", "close") not in asked
                (host,) = (value for name, value in asked if name == "host")
                assert host.split(":")[0] == "localhost"


def assert_away(answer: str) -> None:
    head, _, body = answer.partition("\n\n")
    assert re.match(r"HTTP/(2|1\.1) 200", head), answer
    assert "\ncontent-type: text/event-stream\n" in f"{head.lower()}\n"
    assert "\ncache-control: no-cache\n" in f"{head.lower()}\n"
    assert body == AWAY


def assert_problem(answer: str, statuses: set[int]) -> None:
    head, _, body = answer.partition("\n\n")
    status = re.match(r"HTTP/(?:2|1\.1) (\d+)", head)
    assert status and int(status[1]) in statuses, answer
    assert "\ncontent-type: application/problem+json\n" in f"{head.lower()}\n"
    problem: dict[str, Any] = json.loads(body)
    assert problem["status"] == int(status[1])
    assert problem["detail"]

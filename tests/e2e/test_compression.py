"""Compressed streams and those who read them: curl, Chromium and Node, also through nginx."""

from __future__ import annotations

import re
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from processes import Daemon, Process, program, pushd, wait_until
from proxied import MESSAGES, chromium, publish
from selenium.webdriver import Chrome
from test_nginx import nginx

AT_ONCE = 0.25
"""Seconds within which half of the messages are read. Who holds back, does so for longer."""

EVENT_SOURCE = """
window.seen = [];
window.source = new EventSource(arguments[0]);
for (const name of ["message", "snapshot"])
    source.addEventListener(name, (event) => seen.push([event.data, Date.now() / 1000]));
"""
FETCH = """
const response = await fetch(process.argv[1]);
console.log("encoding", response.headers.get("content-encoding"));
const text = new TextDecoder();
for await (const part of response.body) process.stdout.write(text.decode(part, { stream: true }));
console.log("end");
"""


@contextmanager
def node(folder: Path, url: str) -> Iterator[Process]:
    """A fetch() that writes what it reads."""
    process = Process([program("node"), "--input-type=module", "-e", FETCH, url], folder / "node")
    try:
        yield process
    finally:
        process.end()


def compressed(daemon: Daemon) -> int:
    """The bytes of the stream that ended first."""
    lines = r"stream of .* events, (\d+) bytes"
    wait_until(lambda: re.search(lines, daemon.process.written), what="the log of the stream")
    found = re.search(lines, daemon.process.written)
    assert found
    return int(found[1])


@pytest.mark.parametrize("query", ["compress=1", "compress=1&chunked=0"])
def test_curl_reads_each_message_as_it_comes(tmp_path: Path, query: str) -> None:
    path = f"/topics/news?{query}"
    with (
        pushd(tmp_path, MESSAGES) as daemon,
        daemon.stream(tmp_path, path, "--compressed", "-i") as early,
    ):
        wait_until(lambda: "\nid:" in early.written)
        assert "\nContent-Encoding: gzip" in early.written
        publish(daemon.port, "news", "one")
        wait_until(lambda: "data: one\n" in early.written)
        with daemon.stream(tmp_path, path, "--compressed") as late:
            wait_until(lambda: "id:" in late.written)
            publish(daemon.port, "news", "two " * 50)
            wait_until(lambda: "data: two" in early.written and "data: two" in late.written)
            assert "one" not in late.written
        daemon.process.end()
        wait_until(lambda: early.popen.poll() is not None)
        assert early.written.rpartition("\n\n")[2].startswith("retry: ")


def test_chromium_has_each_message_at_once(tmp_path: Path) -> None:
    with pushd(tmp_path, MESSAGES) as daemon, chromium(tmp_path) as driver:
        driver.get(daemon.url("/"))
        reads_at_once(daemon, driver, daemon.url("/topics/news"))


def test_chromium_has_each_message_at_once_through_nginx(tmp_path: Path) -> None:
    with (
        pushd(tmp_path, MESSAGES) as daemon,
        nginx(tmp_path, daemon.port) as proxy,
        chromium(tmp_path) as driver,
    ):
        driver.get(proxy.url("/"))
        reads_at_once(daemon, driver, proxy.url("/topics/news"))
        path = "/topics/news?compress=1"
        with proxy.stream(tmp_path, path, "--compressed", "-i") as curl:
            wait_until(lambda: "\nid:" in curl.written)
            assert "\ncontent-encoding: gzip" in curl.written
            publish(daemon.port, "news", "through")
            wait_until(lambda: "data: through" in curl.written)


def reads_at_once(daemon: Daemon, driver: Chrome, url: str) -> None:
    """The browser has what is published, in order and soon; and it came compressed."""
    driver.execute_script(EVENT_SOURCE, url)
    wait_until(lambda: driver.execute_script("return source.readyState") == 1, what="the stream")
    published = {}
    for number in range(30):
        text = f"{number} " + "again and " * 30
        published[text] = time.time()
        publish(daemon.port, "news", text)
        time.sleep(0.02)
    wait_until(lambda: driver.execute_script("return seen.length") == 30, what="the messages")
    seen = driver.execute_script("return seen")
    assert [text for text, _ in seen] == list(published)
    late = [at - published[text] for text, at in seen]
    print(f"median {statistics.median(late) * 1000:.1f} ms, max {max(late) * 1000:.1f} ms")
    assert statistics.median(late) < AT_ONCE
    driver.execute_script("source.close()")
    assert compressed(daemon) < sum(map(len, published)) / 2


@pytest.mark.parametrize("query", ["", "?compress=1"])
def test_node_s_fetch_reads_both_and_has_to_ask_for_the_second(tmp_path: Path, query: str) -> None:
    with (
        pushd(tmp_path, MESSAGES) as daemon,
        node(tmp_path, daemon.url(f"/topics/news{query}")) as reader,
    ):
        wait_until(lambda: "id:" in reader.written)
        assert f"encoding {'gzip' if query else 'null'}\n" in reader.written
        publish(daemon.port, "news", "hello")
        wait_until(lambda: "data: hello\n" in reader.written)


class Api(BaseHTTPRequestHandler):
    """A source that can go away for good."""

    status: ClassVar = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b"[1]")

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_readers_of_a_topic_that_ends_end_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as api:
        threading.Thread(target=api.serve_forever, args=(0.05,), daemon=True).start()
        config = f'[sources.a]\nurl = "http://127.0.0.1:{api.server_port}/"\nevery = 0.1\n'
        path = "/topics/a?compress=1"
        with (
            pushd(tmp_path, config + "[server]\nretry = 0.2") as daemon,
            daemon.stream(tmp_path, path, "--compressed") as curl,
            node(tmp_path, daemon.url(path)) as fetch,
            chromium(tmp_path) as driver,
        ):
            driver.get(daemon.url("/"))
            driver.execute_script(EVENT_SOURCE, daemon.url(path))
            wait_until(lambda: driver.execute_script("return seen.length") == 1)
            wait_until(lambda: "data: [1]" in curl.written and "data: [1]" in fetch.written)
            monkeypatch.setattr(Api, "status", 410)
            assert (curl.popen.wait(10), fetch.popen.wait(10)) == (0, 0), curl.written
            assert fetch.written.endswith("\nend\n")
            # It came back, and was answered 204.
            wait_until(lambda: driver.execute_script("return source.readyState") == 2)
        api.shutdown()

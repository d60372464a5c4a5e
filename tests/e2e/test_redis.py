"""Two real daemons and one real Redis between them."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from processes import TWISTD, Daemon, Process, pushd, wait_until
from reader import Parser, Received
from redis_server import RedisServer

CONFIG = """
[history]
backend = "redis"
url = "{url}"
timeout = 1.5
[publish]
tokens = ["t"]
topics = ["news"]
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path, "--requirepass", "hunter2", "--appendonly", "yes") as server:
        yield server


def started(stack: ExitStack, folder: Path, name: str, server: RedisServer) -> Daemon:
    (folder / name).mkdir()
    url = server.url.replace("redis://", "redis://:hunter2@")
    return stack.enter_context(pushd(folder / name, CONFIG.format(url=url)))


def publish(daemon: Daemon, message: str) -> tuple[int, dict[str, object]]:
    answer = daemon.curl(
        "/topics/news",
        *("-H", "Authorization: Bearer t", "--json", json.dumps(message)),
        *("-w", "\n%{http_code}"),
    )
    body, _, status = answer.rpartition("\n")
    return int(status), json.loads(body)


def events(written: str) -> list[Received]:
    return Parser().feed(written.encode())


def test_what_is_published_on_one_is_seen_on_another_and_resumed_there(
    tmp_path: Path, server: RedisServer
) -> None:
    with ExitStack() as stack:
        one, other = (started(stack, tmp_path, name, server) for name in ("one", "other"))
        with one.stream(tmp_path, "/topics/news") as on_one:
            with other.stream(tmp_path, "/topics/news") as on_other:
                wait_until(lambda: "id:" in on_one.written and "id:" in on_other.written)
                for n in range(5):
                    status, _ = publish((one, other)[n % 2], f"{n}")
                    assert status == 201
                wait_until(lambda: len(events(on_other.written)) == 5)
            wait_until(lambda: len(events(on_one.written)) == 5)
            seen = events(on_other.written)
            assert [(e.id, e.data) for e in events(on_one.written)] == [
                (e.id, e.data) for e in seen
            ]
        publish(other, "missed")
        # Dropped on one, back at the other, with an id from before.
        for daemon in (one, other):
            path = f"/topics/news?lastEventId={seen[2].id}"
            with daemon.stream(tmp_path, path) as resumed:
                wait_until(lambda resumed=resumed: "missed" in resumed.written)
                assert [e.json for e in events(resumed.written)] == ["3", "4", "missed"]
        # One that is started again goes on as well.
        one.process.end()
        again = started(stack, tmp_path, "again", server)
        with again.stream(tmp_path, f"/topics/news?lastEventId={seen[4].id}") as resumed:
            wait_until(lambda: "missed" in resumed.written)
            assert "gap" not in resumed.written
        for daemon in (one, other, again):
            assert "Traceback" not in daemon.process.written
            assert "hunter2" not in daemon.process.written


def test_while_redis_is_away_streams_stay_and_publishers_are_told(
    tmp_path: Path, server: RedisServer
) -> None:
    with ExitStack() as stack:
        daemon = started(stack, tmp_path, "one", server)
        with daemon.stream(tmp_path, "/topics/news") as curl:
            wait_until(lambda: "id:" in curl.written)
            publish(daemon, "before")
            server.end(signal.SIGKILL)
            began = time.monotonic()
            status, problem = publish(daemon, "meanwhile")
            assert status == 503
            assert 1 < time.monotonic() - began < 5
            assert "Redis" in str(problem["detail"]) and str(server.port) not in str(problem)
            wait_until(lambda: '"state":"error"' in curl.written.replace(" ", ""))
            wait_until(lambda: "not available: Redis cannot be reached." in curl.written)
            server.begin()
            wait_until(lambda: '"state":"ok"' in curl.written.replace(" ", ""))
            assert publish(daemon, "after")[0] == 201
            wait_until(lambda: "after" in curl.written)
            assert curl.popen.poll() is None
        assert re.search("the history is available again", daemon.process.written)
        assert "Traceback" not in daemon.process.written
        assert "hunter2" not in daemon.process.written


def test_when_redis_has_lost_its_data_clients_are_told_of_a_gap(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--requirepass", "hunter2") as server, ExitStack() as stack:
        daemon = started(stack, tmp_path, "one", server)
        with daemon.stream(tmp_path, "/topics/news") as curl:
            wait_until(lambda: "id:" in curl.written)
            publish(daemon, "before")
            wait_until(lambda: "before" in curl.written)
            last = events(curl.written)[-1].id
            server.ask("FLUSHALL", auth="hunter2")
            curl.popen.wait(10)
        with daemon.stream(tmp_path, f"/topics/news?lastEventId={last}") as curl:
            wait_until(lambda: "event: gap" in curl.written)
            publish(daemon, "after")
            wait_until(lambda: "after" in curl.written)


def test_it_waits_for_redis_and_may_be_ended_meanwhile(tmp_path: Path, server: RedisServer) -> None:
    server.end()
    config = tmp_path / "pushd.toml"
    config.write_text(CONFIG.format(url=server.url))
    command = [TWISTD, "-n", "--pidfile=", "pushd", "--listen", "tcp:0:interface=127.0.0.1"]
    daemon = Process([*command, "-c", str(config)], tmp_path / "pushd.log")
    wait_until(lambda: "Redis cannot be reached" in daemon.written)
    assert "listens on" not in daemon.written
    assert daemon.end() == 0
    assert "Traceback" not in daemon.written and "Unhandled" not in daemon.written

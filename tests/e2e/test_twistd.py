"""The daemon as its users start it."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from processes import ROOT, TWISTD, free_port, program, pushd, wait_until


def twistd(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TWISTD, *arguments], capture_output=True, text=True, cwd=folder, timeout=30, check=False
    )


def test_twistd_lists_pushd_from_any_directory(tmp_path: Path) -> None:
    assert re.search(
        r"^    pushd +Polls HTTP APIs", twistd(tmp_path, "--help").stdout, re.MULTILINE
    )


def test_the_demo_streams_moving_stocks_from_a_real_upstream(tmp_path: Path) -> None:
    with pushd(tmp_path) as daemon, daemon.stream(tmp_path, "/topics/stocks") as curl:
        wait_until(lambda: "event: patch" in curl.written, what="a patch")
        snapshot = re.search(r"event: snapshot\ndata: (.*)\nid: (.*)\n\n", curl.written)
        assert snapshot
        assert len(json.loads(snapshot[1])) == 10
        assert "<!doctype html>" in daemon.curl("/").lower()
        assert "applyPatch" in daemon.curl("/static/jsonpatch.js")


def test_sigterm_sends_clients_away_and_ends_with_0(tmp_path: Path) -> None:
    with pushd(tmp_path) as daemon, daemon.stream(tmp_path, "/topics/stocks") as curl:
        wait_until(lambda: "id:" in curl.written)
        assert daemon.process.end(signal.SIGTERM) == 0
        cut_off = 18
        assert curl.popen.wait(5) == cut_off, "or some clients would take it for the end of it all"
        assert re.search(r"\n\nretry: \d+\ncurl: ", curl.written), curl.written[-200:]
        assert re.search("sse stream of .*stocks.* ended after .*: drained", daemon.process.written)
        assert "Traceback" not in daemon.process.written
        assert "Unhandled" not in daemon.process.written


def test_ending_takes_no_longer_than_it_may_and_a_second_sigterm_none_at_all(
    tmp_path: Path,
) -> None:
    config = '[server]\ndrain = 5\n[publish]\ntokens = ["t"]\ntopics = ["news"]'
    for hurried in (False, True):
        with pushd(tmp_path, config) as daemon, many_streams(daemon.port, 3000) as streams:
            began = time.monotonic()
            daemon.process.popen.send_signal(signal.SIGTERM)
            if hurried:
                time.sleep(0.3)
            assert daemon.process.end(signal.SIGTERM if hurried else signal.SIGCONT) == 0
            took = time.monotonic() - began
            assert took < 5 and (hurried or took > 2)
            ends = [stream.recv(65536)[-60:] for stream in streams]
            sent_away = sum(b"\r\nretry: " in end for end in ends)
            assert sent_away < 1500 if hurried else sent_away == 3000, ends[:3]


def test_sighup_goes_over_to_other_sources_and_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    quiet = '[sources.{}]\nurl = "http://127.0.0.1:1/"\nevery = 60\n'
    with (
        pushd(tmp_path, quiet.format("a") + quiet.format("b")) as daemon,
        daemon.stream(tmp_path, "/topics/a") as kept,
        daemon.stream(tmp_path, "/topics/b") as removed,
    ):

        def reload(text: str, until: str) -> None:
            (tmp_path / "pushd.toml").write_text(text)
            daemon.process.popen.send_signal(signal.SIGHUP)
            wait_until(lambda: until in daemon.process.written, what=until)

        def status(name: str) -> str:
            written = daemon.curl(f"/topics/{name}", "-m1", "-w", "\n%{http_code}", check=False)
            return written.rpartition("\n")[2]

        wait_until(lambda: "id:" in kept.written and "id:" in removed.written)
        reload("[sources.a]\nevery = 0", "pushd.toml: sources.a.every: expected float")
        assert removed.popen.poll() is None and status("b") == "200"
        reload(quiet.format("a") + quiet.format("c"), "reloaded: sources added ('c',)")
        assert removed.popen.wait(5) == 0, "an orderly end"
        assert [status(name) for name in "abc"] == ["200", "204", "200"]
        assert kept.popen.poll() is None


@contextmanager
def many_streams(port: int, number: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        streams = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            for _ in range(number)
        ]
        for stream in streams:
            stream.sendall(b"GET /topics/news HTTP/1.1\r\nHost: a\r\n\r\n")
        for stream in streams:
            while b"id:" not in (received := stream.recv(65536)):
                assert received, "it was closed"
        yield streams


def test_check_says_what_is_wrong_and_where(tmp_path: Path) -> None:
    path = tmp_path / "pushd.toml"
    for text, status, said in (
        ('[sources.a]\nurl = "http://127.0.0.1/"', 0, f"{path}: ok, 1 source(s)\n"),
        ('[sources.a]\nurl = "http://127.0.0.1/"\nevry = 1', 1, "sources.a: unknown key 'evry'"),
        ('[sources.a]\nurl = "http://127.0.0.1/"\nselect = "["', 1, "sources.a.select: "),
        ('[server]\nlisten = "tpc:80"', 1, "server.listen: 'tpc:80' is no endpoint: "),
        ('[sources.a]\nurl = "https://a/"\nca_file = "/nope"', 1, "sources.a.ca_file: /nope"),
        ('[history]\nbackend = "redis"', 1, "history.url: "),
        ('[history]\nbackend = "redis"\nurl = "http://:x@h"', 1, "history.url: expected redis://"),
        (
            '[history]\nbackend = "redis"\nurl = "rediss://h"\nca_file = "/nope"',
            1,
            "history.ca_file: /nope",
        ),
        ("[server", 1, "not TOML: "),
    ):
        path.write_text(text)
        result = twistd(tmp_path, "pushd", "--check", "-c", str(path))
        assert (result.returncode, said in result.stdout + result.stderr) == (status, True), result
        if status:
            assert result.stderr.startswith(f"pushd: {path}: ")
            assert "Traceback" not in result.stderr
            started = twistd(tmp_path, "-n", "--pidfile=", "pushd", "-c", str(path))
            assert (started.returncode, started.stderr) == (1, result.stderr)


def test_the_files_in_conf_are_right(tmp_path: Path) -> None:
    for path in (ROOT / "conf").glob("*.toml"):
        result = twistd(tmp_path, "pushd", "--check", "-c", str(path))
        assert result.returncode == 0, result.stderr


def test_a_port_in_use_is_told_without_a_traceback(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        listen = f"tcp:{other.getsockname()[1]}:interface=127.0.0.1"
        result = twistd(tmp_path, "-n", "pushd", "--listen", listen)
        assert result.returncode == 1
        said = result.stdout + result.stderr
        assert f"cannot listen on {listen}: " in said
        assert "Address already in use" in said
        assert "--listen tcp:PORT" in said
        assert "Traceback" not in said
        # As a daemon, too, the command ends and says so.
        result = twistd(tmp_path, "--pidfile=p", "--logfile=l", "pushd", "--listen", listen)
        assert result.returncode == 1
        assert "Address already in use" in (tmp_path / "l").read_text()


def test_tokens_and_forwarded_values_never_reach_the_log(tmp_path: Path) -> None:
    port = free_port()
    config = f"""
    [publish]
    tokens = ["${{TOKEN}}"]
    [sources.a]
    url = "http://127.0.0.1:{port}/x?key=${{TOKEN}}"
    headers = {{ X-Key = "${{TOKEN}}" }}
    forward_headers = ["Authorization"]
    """
    secret = "s3cr3t-t0k3n"
    bearer = f"Authorization: Bearer {secret}"
    text = "Content-Type: text/plain"
    with pushd(tmp_path, config, TOKEN=secret) as daemon:
        daemon.curl("/topics/b", "-H", bearer, "-H", text, "-d", "x")
        daemon.curl(f"/topics/b?access_token={secret}", "-H", text, "-d", "x")
        daemon.curl(f"/topics/b?a=1&ACCESS_TOKEN={secret}", "-H", text, "-d", "x")
        daemon.curl(f"/topics/b?a=1&access%5Ftoken={secret}", "-H", text, "-d", "x")
        for path in ("/topics/a", f"/topics/a?header=Authorization:{secret}&access_token={secret}"):
            daemon.curl(path, "-H", bearer, "-H", "Accept: application/json")
        daemon.curl(f"/nothing?access_token={secret}")
        log = daemon.process.written
        assert "POST /topics/b" in log
        assert "refused" in log
        assert secret not in log


def test_a_client_without_http_1_1_gets_a_stream_too(tmp_path: Path) -> None:
    with pushd(tmp_path) as daemon, daemon.stream(tmp_path, "/topics/stocks", "-0i") as curl:
        wait_until(lambda: "event: patch" in curl.written)
        assert "transfer-encoding" not in curl.written.lower()


def test_leaving_is_noticed_by_the_upstream_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        config = f'[sources.a]\nurl = "http://127.0.0.1:{upstream.getsockname()[1]}/"'
        with pushd(tmp_path, config) as daemon:
            with daemon.stream(tmp_path, "/topics/a"):
                connection, _ = upstream.accept()
                connection.settimeout(5)
                assert connection.recv(65536).startswith(b"GET / HTTP/1.1\r\n")
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""
            connection.close()


def test_a_daemonized_pushd_writes_a_log_and_ends(tmp_path: Path) -> None:
    port = free_port()
    listen = f"tcp:{port}:interface=127.0.0.1"
    result = twistd(tmp_path, "--pidfile=p.pid", "--logfile=p.log", "pushd", "--listen", listen)
    assert result.returncode == 0, result.stderr
    pid = int((tmp_path / "p.pid").read_text())
    try:
        process = subprocess.run(
            [
                program("curl"),
                "-sS",
                "--max-time",
                "5",
                "-H",
                "Accept: application/json",
                f"http://127.0.0.1:{port}/topics/stocks",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        assert len(json.loads(process.stdout)) == 10
    finally:
        subprocess.run(["kill", str(pid)], check=True)
        wait_until(lambda: not (tmp_path / "p.pid").exists())

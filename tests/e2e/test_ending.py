"""How the real daemon ends when it is in the middle of something."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import pytest
from processes import Daemon, pushd, wait_until

NEWS = '[publish]\ntokens = ["t"]\ntopics = ["news"]\n'


def ends(daemon: Daemon, *signals: int, apart: float = 0.0) -> float:
    """How many seconds it takes to end, with 0."""
    began = time.monotonic()
    for number in signals:
        daemon.process.popen.send_signal(number)
        time.sleep(apart)
    assert daemon.process.popen.wait(20) == 0
    assert "Traceback" not in daemon.process.written, daemon.process.written[-2500:]
    return time.monotonic() - began


def test_a_stream_that_is_asked_for_meanwhile_is_sent_away_too(tmp_path: Path) -> None:
    with (
        pushd(tmp_path, "[server]\ndrain = 10\n" + NEWS) as daemon,
        socket.create_connection(("127.0.0.1", daemon.port)) as late,
    ):
        time.sleep(0.2)
        began = time.monotonic()
        daemon.process.popen.send_signal(signal.SIGTERM)
        time.sleep(0.25)
        late.sendall(b"GET /topics/news HTTP/1.1\r\nHost: a\r\n\r\n")
        assert daemon.process.popen.wait(20) == 0
        assert time.monotonic() - began < 4
        assert b"retry: " in late.recv(65536)


def test_a_second_signal_waits_for_no_answer(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        config = f'[server]\ndrain = 15\n[sources.a]\nurl = "{url}"\ntimeout = 30\n'
        with (
            pushd(tmp_path, config) as daemon,
            socket.create_connection(("127.0.0.1", daemon.port)) as asking,
        ):
            asking.sendall(b"GET /topics/a HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n\r\n")
            time.sleep(0.5)
            assert ends(daemon, signal.SIGTERM, signal.SIGTERM, apart=0.5) < 6


def test_two_signals_at_once_are_two_signals(tmp_path: Path) -> None:
    with pushd(tmp_path, "[server]\ndrain = 5\n" + NEWS) as daemon:
        ends(daemon, signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT)


@pytest.mark.parametrize(("values", "told"), [((2, 2), 2), ((2, 1), 1)])
def test_what_waits_for_a_restart_is_told_at_each_reload(
    tmp_path: Path, values: tuple[int, int], told: int
) -> None:
    text = "[server]\nretry = {}\nretry_spread = 0\n" + NEWS
    with pushd(tmp_path, text.format(1)) as daemon, daemon.stream(tmp_path, "/topics/news") as curl:
        wait_until(lambda: "id:" in curl.written)
        for number, value in enumerate(values, start=1):
            (tmp_path / "pushd.toml").write_text(text.format(value))
            daemon.process.popen.send_signal(signal.SIGHUP)
            wait_until(lambda: daemon.process.written.count("reloaded: ") == number)  # noqa: B023
        ends(daemon, signal.SIGTERM)
        waits = "changes of [server] wait until pushd is started again"
        assert daemon.process.written.count(waits) == told
        curl.popen.wait(5)
        assert "retry: 1000\n" in curl.written and "retry: 2000\n" not in curl.written

"""A real pushd and its file: over restarts, on a full disk, and what keeps it from starting."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import TWISTD, Daemon, free_port, program, pushd, wait_until

CONFIG = """
[history]
path = "{}"
[publish]
tokens = ["t"]
topics = ["news"]
"""


def publish(daemon: Daemon, text: str) -> tuple[int, dict[str, str]]:
    """The status and the body of the answer."""
    options = ["-H", "Authorization: Bearer t", "-H", "Content-Type: text/plain"]
    options += ["--data-binary", "@-", "-w", "\n%{http_code}"]
    command = [program("curl"), "-sS", "--max-time", "10", *options, daemon.url("/topics/news")]
    answer = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
    body, _, status = answer.rpartition("\n")
    return int(status), json.loads(body)


def test_after_a_restart_clients_go_on_where_they_were(tmp_path: Path) -> None:
    config = CONFIG.format(tmp_path / "pushd.db")
    with pushd(tmp_path, config) as daemon:
        _, first = publish(daemon, "one")
        publish(daemon, "two")
    with pushd(tmp_path, config) as daemon:
        _, third = publish(daemon, "three")
        resume = f"Last-Event-ID: {first['id']}"
        with daemon.stream(tmp_path, "/topics/news", "-H", resume) as curl:
            wait_until(lambda: "three" in curl.written)
            assert [line for line in curl.written.split("\n") if line.startswith("data")] == [
                "data: two",
                "data: three",
            ]
    epoch, seq = first["id"].split("-")
    assert third["id"] == f"{epoch}-{int(seq) + 2}"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "pushd-test", str(folder)]
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode:
        why = f"no file system can be mounted: {made.stderr.strip()}"
        assert "CI" not in os.environ, why
        pytest.skip(why)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_to_publishers_and_readers_and_left_when_there_is_room(
    tmp_path: Path, small_disk: Path
) -> None:
    with (
        pushd(tmp_path, CONFIG.format(small_disk / "pushd.db")) as daemon,
        daemon.stream(tmp_path, "/topics/news") as curl,
    ):
        status, first = publish(daemon, "first")
        assert status == 201
        filler = small_disk / "filler"
        with filler.open("wb") as file:
            free = os.statvfs(small_disk)
            file.write(b"\0" * (free.f_bavail * free.f_bsize))
        refused, problem = publish(daemon, "x" * 100_000)
        assert (refused, problem["status"]) == (503, 503)
        assert "The disk is full." in problem["detail"] and str(small_disk) not in str(problem)
        wait_until(lambda: '"state":"error"' in curl.written, what="a status")
        assert "event: status" in curl.written and "The disk is full." in curl.written
        with daemon.stream(tmp_path, "/topics/news?lastEventId=" + first["id"][:-1] + "0") as other:
            wait_until(lambda: "data: first" in other.written, what="what is there")
        filler.unlink()
        wait_until(lambda: publish(daemon, "y" * 100_000)[0] == 201, what="publishing")
        wait_until(lambda: "yyyy" in curl.written and '"state":"ok"' in curl.written)
        assert "xxxx" not in curl.written
        log = daemon.process.written
        assert str(small_disk / "pushd.db") in log and "SQLITE_FULL" in log
        assert daemon.process.end() == 0
        assert "Traceback" not in log and "Unhandled" not in log


def start(folder: Path, path: Path) -> tuple[int, list[str]]:
    """The exit code of a pushd that cannot start, and what it says is critical."""
    config = folder / "refused.toml"
    config.write_text(CONFIG.format(path))
    listen = f"tcp:{free_port()}:interface=127.0.0.1"
    arguments = [TWISTD, "-n", "--pidfile=", "pushd", "-c", str(config), "--listen", listen]
    ended = subprocess.run(
        arguments, capture_output=True, text=True, cwd=folder, timeout=30, check=False
    )
    assert "Traceback" not in ended.stdout + ended.stderr
    return ended.returncode, [line for line in ended.stdout.split("\n") if "critical" in line]


def test_what_keeps_it_from_starting_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"\xa5" * 8192)
    used = tmp_path / "pushd.db"
    with pushd(tmp_path, CONFIG.format(used)):
        for path, why in [
            (damaged, "the file is damaged"),
            (used, "another pushd uses it"),
            (tmp_path / "missing" / "pushd.db", "there is no directory"),
        ]:
            code, (line,) = start(tmp_path, path)
            assert code == 1
            assert f"pushd cannot start: history.path: {path}: {why}" in line

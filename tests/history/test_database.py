"""What keeps a file from being opened, whose it is, and how it is kept."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from files import in_file
from house import now
from opened import Open
from twisted.internet.task import Clock

from pushd.config import History
from pushd.errors import StartError
from pushd.history import database, schema


def opened(path: Path) -> Open:
    clock = Clock()
    return Open(in_file(path, History(), clock), clock)


def why(path: Path) -> str:
    """What the operator is told."""
    with pytest.raises(StartError) as raised:
        opened(path)
    message = str(raised.value)
    assert message.startswith(f"history.path: {path}: ") and "\n" not in message
    return message


def lived(path: Path) -> Path:
    """A file that was used."""
    one = opened(path)
    for _ in range(100):
        one.append("m", b"x" * 200)
    now(one.history.close())
    return path


def run(path: Path, *statements: str) -> None:
    sql = sqlite3.connect(path)
    for statement in statements:
        sql.execute(statement)
    sql.commit()
    sql.close()


def _overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: _overwrite(path, 0, b"\xa5" * 100),
        lambda path: _overwrite(path, 4096 * 4, b"\xa5" * 4096 * 3),
        lambda path: os.truncate(path, path.stat().st_size // 2),
        lambda path: path.write_text("[history]\n" * 100),
    ],
    ids=["head", "middle", "truncated", "a text"],
)
def test_a_damaged_file_is_refused_and_left_as_it_is(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = lived(tmp_path / "pushd.db")
    damage(path)
    before = path.read_bytes()
    told = why(path)
    assert "the file is damaged" in told and "move it away" in told and "backup" in told
    assert path.read_bytes() == before


def test_a_file_of_a_later_version_is_refused(tmp_path: Path) -> None:
    path = lived(tmp_path / "pushd.db")
    run(path, "PRAGMA user_version = 1000")
    assert "it is from a later pushd (version 1000 of the tables" in why(path)


def test_another_programs_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    run(path, "CREATE TABLE t (x)")
    before = path.read_bytes()
    assert "it is another program's database" in why(path)
    assert path.read_bytes() == before


def test_two_cannot_use_one_file_by_whatever_name(tmp_path: Path) -> None:
    path = tmp_path / "pushd.db"
    one = opened(path)
    assert "another pushd uses it" in why(path)
    link = tmp_path / "link.db"
    link.symlink_to(path)
    with pytest.raises(StartError, match="another pushd uses it"):
        opened(link)
    now(one.history.close())
    now(opened(link).history.close())


def test_a_file_that_was_refused_can_be_opened_when_it_is_well(tmp_path: Path) -> None:
    path = lived(tmp_path / "pushd.db")
    backup = shutil.copy(path, tmp_path / "backup")
    _overwrite(path, 0, b"\xa5" * 100)
    why(path)
    shutil.copy(backup, path)
    again = opened(path)
    assert again.append("m", b"1") == [101]
    now(again.history.close())


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "pushd.db"
    assert f"there is no directory {path.parent}: make it" in why(path)
    assert not path.parent.exists()


def test_a_directory_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pushd.db").mkdir()
    assert "it cannot be opened and written" in why(tmp_path / "pushd.db")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder with a used file, in which nobody can write, root neither."""
    folder = tmp_path / "folder"
    folder.mkdir()
    lived(folder / "pushd.db")
    mounted = False
    if os.geteuid():
        folder.chmod(0o500)
    else:
        mount = ["mount", "--bind", "-o", "ro", str(folder), str(folder)]
        made = subprocess.run(mount, capture_output=True, text=True, check=False)
        mounted = made.returncode == 0
        if not mounted:
            assert "CI" not in os.environ, made.stderr
            pytest.skip(f"no file system can be mounted: {made.stderr.strip()}")
    yield folder
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)
    folder.chmod(0o700)


def test_a_directory_that_cannot_be_written_is_refused(read_only: Path) -> None:
    assert "it cannot be opened and written: " in why(read_only / "pushd.db")
    assert "Read-only file system" in why(read_only / "new.db") or os.geteuid()


def test_a_file_is_for_nobody_elses_eyes(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        one = opened(tmp_path / "pushd.db")
        one.append("m", b"1")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(
        ["pushd.db", "pushd.db-lock", "pushd.db-shm", "pushd.db-wal"], 0o600
    )
    now(one.history.close())
    assert {path.name for path in tmp_path.iterdir()} == {"pushd.db", "pushd.db-lock"}


def test_names_that_mean_something_in_a_uri_are_names(tmp_path: Path) -> None:
    path = tmp_path / "a?mode=memory#b%20c.db"
    lived(path)
    assert path.exists()
    assert opened(path).head == 100


@pytest.mark.parametrize(("fsync", "synchronous"), [(False, 1), (True, 2)])
def test_a_commit_waits_for_the_disk_if_it_is_to(
    tmp_path: Path, fsync: bool, synchronous: int
) -> None:
    clock = Clock()
    one = Open(in_file(tmp_path / "pushd.db", History(fsync=fsync), clock), clock)
    database: Any = one.history._database  # type: ignore[attr-defined]
    # sqlite.org/pragma.html: 1 is NORMAL, which syncs when the log is emptied; 2 is FULL.
    assert database._writing.execute("PRAGMA synchronous").fetchone() == (synchronous,)
    assert database._writing.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    now(one.history.close())


def test_the_log_does_not_grow_though_it_is_read_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOG_BYTES", 100_000)
    one = opened(tmp_path / "pushd.db")
    log = tmp_path / "pushd.db-wal"
    for _ in range(30):
        one.append("m", b"x" * 20_000)
        one.read(["m"], 0)
        assert log.stat().st_size < 200_000
    now(one.history.close())


FIRST = tuple(schema.MIGRATIONS[:1])
"""The tables as version 1 has them."""


def test_a_file_of_version_1_becomes_one_of_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pushd.db"
    monkeypatch.setattr(schema, "MIGRATIONS", list(FIRST))
    before = opened(lived(path))
    now(before.history.close())
    later = [*FIRST, ("CREATE TABLE more (x)", "INSERT INTO more SELECT seq FROM events")]
    monkeypatch.setattr(schema, "MIGRATIONS", later)
    one = opened(path)
    assert (one.history.epoch, one.head) == (before.history.epoch, 100)
    assert one.append("m", b"1") == [101]
    now(one.history.close())
    sql = sqlite3.connect(path)
    assert sql.execute("SELECT count(*) FROM more").fetchone() == (100,)
    assert sql.execute("PRAGMA user_version").fetchone() == (2,)
    sql.close()


def test_a_migration_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lived(tmp_path / "pushd.db")
    later = [*schema.MIGRATIONS, ("DROP TABLE events", "no statement")]
    with monkeypatch.context() as patched:
        patched.setattr(schema, "MIGRATIONS", later)
        assert "syntax error" in why(path)
    one = opened(path)
    assert len(one.read(["m"], 0).events) == 100
    now(one.history.close())

"""The histories that are tried: how each is configured, and how its writing is held up."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import msgspec

SHARED_MEMORY = "history.sqlite-shm"
WRITE_LOCK = 120
"""
The byte of that file which is locked by whoever writes (WAL_WRITE_LOCK,
sqlite.org/walformat.html, section 2.3.1). SQLite waits for it.
"""

LONGEST_WAIT = 1.0


class History(msgspec.Struct, frozen=True):
    """
    :ivar toml: lines of ``[history]``; ``{folder}`` stands for a folder of its own.
    :ivar held: given that folder, a context in which nothing can be recorded, and whoever
        wants to waits; None if there is no such thing. To be left within half a second.
    """

    toml: str
    held: Callable[[Path], AbstractContextManager[None]] | None = None


@contextmanager
def sqlite_held(folder: Path) -> Iterator[None]:
    """
    As another program that writes to the file, for which a commit has to wait. SQLite
    is not asked to do it, as it would tidy up behind a process that was killed.
    """
    with (folder / SHARED_MEMORY).open("r+b") as shared:
        deadline = time.monotonic() + LONGEST_WAIT
        while True:
            try:
                fcntl.lockf(shared, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, WRITE_LOCK)
                break
            except BlockingIOError:
                assert time.monotonic() < deadline, "the file was never free"
                time.sleep(0.0005)
        yield


_SQLITE = 'backend = "sqlite"\npath = "{folder}/history.sqlite"\nfsync = '

HISTORIES = {
    "sqlite": History(f"{_SQLITE}false", sqlite_held),
    "sqlite-fsync": History(f"{_SQLITE}true", sqlite_held),
    "memory": History('backend = "memory"'),
}

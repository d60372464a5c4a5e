"""
Where a history's file is: found or made, held by one pushd at a time, and still there.

Nothing here knows what is in the file.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class TakenError(Exception):
    """Another process holds the file."""


class Place:
    """
    The place of a file: its path, through all links, and which file is there.

    :ivar path: absolute.
    """

    def __init__(self, path: str) -> None:
        # One file has one lock, by whichever name it is called.
        self.path = Path(path).resolve()
        self._lock: int | None = None
        self._file: tuple[int, int] | None = None

    def hold(self) -> None:
        """
        Keep all other pushd's from it; the lock ends with the process at the latest.

        It is on a file beside: SQLite's own locks are lost when anybody in this
        process closes the file. It stays there, as removing it would let two
        processes lock two files.

        Raises TakenError and OSError.
        """
        lock = os.open(f"{self.path}-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise TakenError from None
        self._lock = lock

    def release(self) -> None:
        """Let others have it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def make(self) -> None:
        """An empty file, for nobody else's eyes, if there is none. Raises OSError."""
        with suppress(FileExistsError):
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))

    def remember(self) -> None:
        """Take the file that is there now for the one. Raises OSError."""
        self._file = _which(self.path)

    @property
    def unchanged(self) -> bool:
        """Whether that file is still the one there: writing to a file that is gone never fails."""
        try:
            return _which(self.path) == self._file
        except OSError:
            return False


def _which(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def chosen(path: str, environment: Mapping[str, str]) -> str:
    """
    The path that the configuration means, :attr:`pushd.config.History.path`.

    Without one: where the service manager says that state is kept (systemd.exec(5),
    StateDirectory=), or the working directory.
    """
    if path:
        return path
    return os.path.join(environment.get("STATE_DIRECTORY", "").partition(":")[0], "pushd.db")


def boot(environment: Mapping[str, str]) -> str:
    """
    What tells this start of the machine from others; "" if nothing does.

    A unit that hides most of /proc says it in ``PUSHD_BOOT_ID``.
    """
    with suppress(OSError):
        return _BOOT_ID.read_text().strip().replace("-", "")
    return environment.get("PUSHD_BOOT_ID", "")

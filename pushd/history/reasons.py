"""
Why a file cannot be used: in words for clients, for the log, and for who starts pushd.

Only the last two name the file.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from pushd.history.database import DamagedError, MovedError, NotOpenError
from pushd.history.place import TakenError

_DAMAGED = "Its file is damaged."
_LOCKED = "Its file is locked by another program."
_UNWRITABLE = "Its file cannot be written to."

_OF_SQLITE = {
    sqlite3.SQLITE_FULL: "The disk is full.",
    sqlite3.SQLITE_READONLY: _UNWRITABLE,
    sqlite3.SQLITE_PERM: _UNWRITABLE,
    sqlite3.SQLITE_CANTOPEN: "Its file cannot be opened.",
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_IOERR: "The disk does not work.",
    sqlite3.SQLITE_NOMEM: "There is not enough memory.",
}
"""By the primary code of an error (sqlite.org/rescode.html)."""


def reason(error: BaseException | None) -> str:
    """A sentence for clients."""
    if isinstance(error, MovedError | FileNotFoundError):
        return "Its file is not in its place."
    if isinstance(error, NotOpenError):
        return "Its file cannot be opened."
    if isinstance(error, DamagedError):
        return _DAMAGED
    if isinstance(error, OSError):
        return "Its file cannot be used."
    return _OF_SQLITE.get(_code(error), "pushd's log says why.")


def exactly(error: BaseException | None) -> str:
    """A few words for the log, after the file's name."""
    if isinstance(error, NotOpenError):
        return "the file was closed, as it did not work"
    if isinstance(error, MovedError):
        return "the file was moved away or replaced"
    name = getattr(error, "sqlite_errorname", "")
    return f"{error} ({name})" if name else str(error) or type(error).__name__


def advice(error: BaseException | None, path: Path) -> str:
    """What keeps pushd from starting, and what to do; after the file's name."""
    damaged = isinstance(error, DamagedError) or _OF_SQLITE.get(_code(error)) == _DAMAGED
    if damaged:
        return (
            f"the file is damaged ({exactly(error)}): move it away, and the -wal and -shm "
            "beside it; then put a backup in its place, or begin with an empty history"
        )
    if isinstance(error, TakenError):
        return "another pushd uses it: end that one, or give each a file of its own"
    if isinstance(error, FileNotFoundError):
        return f"there is no directory {path.parent}: make it, or choose another"
    return f"it cannot be opened and written: {exactly(error)}"


def _code(error: BaseException | None) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF

"""
The tables of a history's file, and how files of older versions become like these.

A file's version (``PRAGMA user_version``) is how many of :data:`MIGRATIONS` it
has been through. One that was released is never changed: what is new is one more.
"""

from __future__ import annotations

import sqlite3

APPLICATION = 0x70757368
"""``PRAGMA application_id`` of our files: "push"."""

MIGRATIONS: list[tuple[str, ...]] = [
    (
        # One row. boot: the start of the machine in which the file was opened last;
        # in_order: whether it was closed since; safe: whether all that was recorded
        # since outlives a power loss.
        """CREATE TABLE life (
            epoch TEXT NOT NULL,
            head INTEGER NOT NULL,
            boot TEXT NOT NULL,
            in_order INTEGER NOT NULL,
            safe INTEGER NOT NULL
        )""",
        # floor: the seq of the last event that is gone; count and size (bytes of
        # data): of those that are there.
        """CREATE TABLE topics (
            id INTEGER PRIMARY KEY,
            key TEXT NOT NULL UNIQUE,
            floor INTEGER NOT NULL,
            count INTEGER NOT NULL,
            size INTEGER NOT NULL
        )""",
        # Beside the topics, whose rows are written with every event.
        """CREATE TABLE documents (
            topic INTEGER PRIMARY KEY,
            is_json INTEGER NOT NULL,
            data BLOB NOT NULL
        )""",
        # data is last: what is longer than a page is not read to find what stands before it.
        """CREATE TABLE events (
            seq INTEGER PRIMARY KEY,
            topic INTEGER NOT NULL,
            at REAL NOT NULL,
            name TEXT,
            is_json INTEGER NOT NULL,
            data BLOB NOT NULL
        )""",
        # An index of SQLite's ends with the primary key: by topic, and then by seq.
        "CREATE INDEX events_of_topic ON events (topic)",
        # Written to see whether writing works.
        "CREATE TABLE attempts (data BLOB NOT NULL)",
    ),
]


class ForeignError(Exception):
    """A file that is not ours to use; the message says whose it is."""


def migrate(sql: sqlite3.Connection) -> None:
    """
    Bring a file up to date, whole or not at all; an empty one gets its tables.

    Raises ForeignError.
    """
    sql.execute("BEGIN IMMEDIATE")
    try:
        (version,) = sql.execute("PRAGMA user_version").fetchone()
        (application,) = sql.execute("PRAGMA application_id").fetchone()
        (tables,) = sql.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application != APPLICATION and (tables or application or version):
            raise ForeignError("it is another program's database")
        if version > len(MIGRATIONS):
            raise ForeignError(
                f"it is from a later pushd (version {version} of the tables, "
                f"this one knows up to {len(MIGRATIONS)})"
            )
        for steps in MIGRATIONS[version:]:
            for step in steps:
                sql.execute(step)
        if version < len(MIGRATIONS):
            sql.execute(f"PRAGMA application_id = {APPLICATION}")
            sql.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    except BaseException:
        if sql.in_transaction:
            sql.execute("ROLLBACK")
        raise
    sql.execute("COMMIT")

"""The sockets that pushd listens on (under construction; see :mod:`pushd.peer`)."""

from __future__ import annotations

from pushd.peer import patience, taken

__all__ = ["patience", "taken"]

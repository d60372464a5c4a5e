"""
File descriptors: how many this process may have, and how many of them are for clients.

Each connection takes one, and so does each poll in flight, the history, the
second process. Who is out of them can do nothing new at all, so clients don't
get the last ones.
"""

from __future__ import annotations

import os
import resource

RESERVE = 64
"""What is kept for all that is no client, at least; or a tenth of all, if that is more."""

MOST_RESERVED = 512
"""Sources poll over as many connections as there are polls at a time, and no more."""

_SOME = 32
"""How many are taken to be open where the system does not say."""


def raise_limit() -> int:
    """Have as many as this process may (RLIMIT_NOFILE's hard limit). How many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            # Some systems name a limit that they don't grant.
            return soft
    return hard


def room() -> int:
    """How many connections fit beside what is open now."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, limit - _open() - reserve(limit))


def reserve(limit: int) -> int:
    """How many of them are not for clients; of very few, a quarter."""
    return min(max(RESERVE, limit // 10), MOST_RESERVED, limit // 4)


def _open() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return _SOME

"""
When the next poll may be: polling as a good guest.

Pure arithmetic on what the upstream said (RFC 9111 for Cache-Control, RFC 9110
section 10.2.3 for Retry-After). Nothing here waits. All times are seconds.
"""

from __future__ import annotations

import math
import re
from datetime import UTC
from email.utils import parsedate_to_datetime

LONGEST = 86_400.0
"""No header silences a source for more than a day."""

_GOLDEN = (math.sqrt(5) - 1) / 2

_MAX_AGE = re.compile(r'(?:^|[,\s])max-age\s*=\s*"?(\d{1,10})"?', re.IGNORECASE)
_SHARED_MAX_AGE = re.compile(r'(?:^|[,\s])s-maxage\s*=\s*"?(\d{1,10})"?', re.IGNORECASE)
_SECONDS = re.compile(r"\d{1,10}", re.ASCII)
_NOT_STORED = re.compile(r"(?:^|[,\s])(?:no-store|no-cache)(?:[,\s]|$)", re.IGNORECASE)


def fresh_for(cache_control: str, age: str) -> float:
    """
    How long an answer stays fresh; 0 if it does not say.

    pushd is a shared cache, so ``s-maxage`` wins (RFC 9111, section 4.2.1);
    what the answer has already aged elsewhere is taken off (section 4.2.3).

    :param cache_control: the header's values, joined by commas; "" if there are none.
    :param age: the header's value; "" if there is none.
    """
    if _NOT_STORED.search(cache_control):
        return 0.0
    lifetime = _SHARED_MAX_AGE.search(cache_control) or _MAX_AGE.search(cache_control)
    if lifetime is None:
        return 0.0
    aged = int(age) if _SECONDS.fullmatch(age) else 0
    return float(min(max(int(lifetime[1]) - aged, 0), LONGEST))


def retry_after(value: str, now: float) -> float | None:
    """
    How long the upstream wants to be left alone; None if `value` makes no sense.

    :param value: seconds, or an HTTP date.
    :param now: seconds since 1970.
    """
    value = value.strip()
    if _SECONDS.fullmatch(value):
        return min(float(value), LONGEST)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    # "-0000" makes a naive date; HTTP dates are always UTC (RFC 9110, section 5.6.7).
    seconds = date.replace(tzinfo=date.tzinfo or UTC).timestamp() - now
    return min(max(seconds, 0.0), LONGEST)


def back_off(every: float, failures: int, most: float, chance: float) -> float:
    """
    The wait after the `failures`-th failed poll in a row.

    It doubles from the source's interval up to `most` (or the interval, if that
    is longer), and is spread over half of that, so that sources that failed
    together do not come back together.

    :param chance: from [0, 1).
    """
    # 2**31 intervals are past any bound, and 2.0**1100 would be past any float.
    wait = min(every * 2.0 ** min(failures, 31), max(most, every))
    return max(every, wait * (0.5 + chance / 2))


def phase(every: float, slot: float, earliest: float) -> float:
    """
    The first moment from `earliest` on at which a source has its turn.

    Sources that began together part at their second poll (at the first somebody
    waits), and are spread evenly over the interval: where several fall together,
    the last one's readers wait for all of them.

    :param slot: where in each interval, from [0, 1); see :class:`Slots`.
    """
    return earliest + (slot * every - earliest) % every


class Slots:
    """
    Places in an interval that are spread evenly, however many are given out.

    Each is a golden section on from the one before: so is none close to another
    before there are many (Knuth, The Art of Computer Programming, section 6.4).

    :param first: from [0, 1); of several daemons, each should have another.
    """

    def __init__(self, first: float) -> None:
        self._next = first

    def next(self) -> float:
        """A place, from [0, 1)."""
        slot = self._next
        self._next = (slot + _GOLDEN) % 1.0
        return slot

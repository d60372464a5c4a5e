"""
The log for machines: one JSON object on each line of the standard output.

::

    twistd -n --logger=pushd.logs.json_lines pushd -c FILE

A line has ``time`` (RFC 3339, UTC), ``level``, ``logger`` and ``message``, the
event's own fields as far as they are plain values, and ``failure``, a text with
the traceback, where something failed. What may be said in a log at all is the
business of those who say it.
"""

from __future__ import annotations

import json
import math
import sys
import time
from typing import TextIO

from twisted.logger import ILogObserver, LogEvent, eventAsText, formatEvent
from zope.interface import implementer

from pushd.wire import rfc3339

_SCALARS = (bool, int, float, str, type(None))

_TAKEN = frozenset({"failure", "level", "logger", "message", "time"})
"""What each line has anyway; an event's fields of these names are left out."""

_OLD = frozenset({"format", "isError", "printed", "system"})
"""What events of Twisted's old log have besides, and says nothing more."""


@implementer(ILogObserver)
class JsonLines:
    """
    :param file: where the lines go. They are ASCII, whatever its encoding is.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def __call__(self, event: LogEvent) -> None:
        """Write a line, whatever the event holds."""
        try:
            line = _line(event)
        except Exception as error:
            # A line that says less is better than none, and than no log at all.
            line = json.dumps(
                {
                    "time": rfc3339(time.time()),
                    "level": "error",
                    "logger": __name__,
                    "message": f"an event could not be written: {type(error).__name__}",
                }
            )
        self._file.write(line + "\n")
        self._file.flush()


def json_lines() -> JsonLines:
    """What twistd's ``--logger`` asks for."""
    return JsonLines(sys.stdout)


def _line(event: LogEvent) -> str:
    line: dict[str, object] = {
        "time": _time(event),
        "level": _text(getattr(event.get("log_level"), "name", None)) or "info",
        "logger": _text(event.get("log_namespace")),
        "message": _whole(formatEvent(event)),
    }
    for name, value in event.items():
        if _is_own(name) and _is_sayable(value):
            line[_whole(name)] = _plain(value)
    if "log_failure" in event:
        failed = {"log_failure": event["log_failure"]}
        text = eventAsText(failed, includeTimestamp=False, includeSystem=False)
        line["failure"] = _whole(text.strip())
    return json.dumps(line)


def _time(event: LogEvent) -> str:
    try:
        return rfc3339(event["log_time"])
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return rfc3339(time.time())


def _text(value: object) -> str | None:
    return _whole(value) if isinstance(value, str) else None


def _is_own(name: object) -> bool:
    """Whether a field is the event's and not Twisted's."""
    return isinstance(name, str) and not (name.startswith("log_") or name in _TAKEN or name in _OLD)


def _is_sayable(value: object) -> bool:
    """Anything else might hold what a log must not, or nothing that is of use in one."""
    items = value if isinstance(value, list | tuple) else [value]
    # By its type and not with isinstance(), which asks the value too.
    return all(issubclass(type(item), _SCALARS) for item in items)


def _plain(value: object) -> object:
    """`value` as JSON can hold it."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return _whole(value) if isinstance(value, str) else value


def _whole(text: str) -> str:
    """`text` without halves of characters, on which strict readers of JSON choke."""
    return str.encode(text, errors="replace").decode()

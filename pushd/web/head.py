"""
The head of a request that came in one piece, as nearly all do.

Twisted's channel takes a head line by line, which costs more than all that is
done with it. Here is read what is beyond doubt, has a path, one Host and no body:
nothing else is understood otherwise than there, and nothing is refused here.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from twisted.web.http_headers import Headers

_HEAD = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) (/[\x21-\xb0]*) (HTTP/1\.[01])\r\n"
    rb"((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\0\r\n]*\r\n)*)\r\n"
)
"""A request line and fields (RFC 9112, sections 3 and 5), none of them over several lines."""

_FIELD = re.compile(rb"([^:]+):[ \t]*([^\r]*)\r\n")
"""A field of those, without the white space in front of its value."""

_LEFT = frozenset({b"Content-Length", b"Transfer-Encoding", b"Expect"})
"""Fields that promise a body, or ask for an answer before it."""

_LONGEST = 64
"""How many bytes of a field's name are worth remembering how it is written."""


class Head(NamedTuple):
    """What a request says before its body."""

    method: bytes
    target: bytes
    version: bytes
    headers: Headers


def read(data: bytes, most: int) -> Head | None:
    """
    A head without a body and with nothing behind it; None for anything else.

    :param most: how many fields it may have.
    """
    match = _HEAD.fullmatch(data)
    if match is None:
        return None
    method, target, version, lines = match.groups()
    fields: dict[bytes, list[bytes]] = {}
    found = _FIELD.findall(lines)
    for name, value in found:
        written = _written(name) if len(name) <= _LONGEST else _written.__wrapped__(name)
        if written in fields:
            fields[written].append(value)
        else:
            fields[written] = [value]
    if len(found) > most or not _LEFT.isdisjoint(fields) or len(fields.get(b"Host", ())) != 1:
        return None
    if b" \r" in lines or b"\t\r" in lines:
        fields = {name: [value.rstrip(b" \t") for value in fields[name]] for name in fields}
    headers = Headers()
    # One at a time would take longer than all the rest here.
    headers._rawHeaders = fields
    return Head(method, target, version, headers)


@lru_cache(maxsize=1024)
def _written(name: bytes) -> bytes:
    """A field's name as Twisted writes it, whose headers it is for."""
    ((written, _),) = Headers({name: [b""]}).getAllRawHeaders()
    return written

"""
Bytes for clients.

Every byte of a stream's body is made here, and each frame is encoded once for
each wire format, however many clients there are. Nothing here knows what a
frame means or who reads it.

SSE follows the WHATWG HTML standard, section 9.2.5 (parsing an event stream).
Two findings with real clients shape it: the heartbeat is ``:`` and one LF
(with a blank line behind it, two Python and npm clients deliver an empty
event), and ids are printable ASCII.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache

import msgspec

from pushd.event import Payload

_LINE_BREAKS_OF_PYTHON = tuple(
    (character.encode(), b"\\u%04x" % ord(character)) for character in "\u0085\u2028\u2029"
)
_LINE_BREAK = re.compile(rb"\r\n|\r|\n")

_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
"""Deflated, of no known time, by no known system (RFC 1952, section 2.3)."""

_LAST_BLOCK = b"\x03\0"
"""A block of nothing that says that it is the last (RFC 1951, section 3.2.6)."""

_NOT_WORTH_IT = 16
"""Bytes that deflating would not make fewer: a heartbeat, a reconnection time."""

_RECALL = 4096
"""
Bytes that a feed keeps of what it has sent. More makes patches no smaller, and
costs time at each; a compressor that goes on would keep 256 KB.
"""

_WORTH_TIME = 16_384
"""
Bytes up to which zlib is given time, about 0.1 ms. Of larger ones at its level
6 comes 15 % less than at 2, in five times the time; and the reactor stands still.
"""


class Frame:
    """
    One thing that is sent on a stream: an event, or just a position.

    :ivar topic: the public name of the topic.
    :ivar payload: None for a block that only tells the position.
    :ivar id: the event id, without a mark; None where the client has to keep
        the one it has.
    """

    __slots__ = ("_encoded", "id", "payload", "topic")

    def __init__(self, topic: str, payload: Payload | None, id: str | None) -> None:
        self.topic = topic
        self.payload = payload
        self.id = id
        self._encoded: dict[str, bytes] = {}

    def on(self, wire: WireFormat, mark: str = "") -> bytes:
        """
        This frame in a wire format, made at the first call.

        :param mark: what its id ends with, see :func:`pushd.event.mark`.
        """
        encoded = self._encoded.get(wire.name + mark)
        if encoded is None:
            id = None if self.id is None else self.id + mark
            encoded = self._encoded[wire.name + mark] = wire.encode(self, id)
        return encoded

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Frame):
            return NotImplemented
        return (self.topic, self.payload, self.id) == (other.topic, other.payload, other.id)

    __hash__ = None  # type: ignore[assignment]  # compared in tests, never looked up

    def __repr__(self) -> str:
        return f"Frame({self.topic!r}, {self.payload!r}, id={self.id!r})"


class WireFormat(msgspec.Struct, frozen=True):
    """
    How frames look on a transport.

    :ivar name: tells it from the others.
    :ivar transport: what carries it: ``sse``.
    :ivar encode: a frame's bytes, under an id.
    :ivar heartbeat: what a quiet stream sends; every parser skips it.
    :ivar retry: tells, between two frames, after how many seconds to come back.
    :ivar pack: what a body is made of, around any number of bytes, which are
        whole frames or parts of one. It may refer to what went before: that is
        b"" where not all readers have been given the same.
    :ivar recall: how many bytes that went before it can use.
    :ivar begin: what a body begins with, around a few bytes.
    :ivar end: what it ends with, if it is not broken off.
    """

    name: str
    transport: str
    encode: Callable[[Frame, str | None], bytes]
    heartbeat: bytes
    retry: Callable[[float], bytes]
    pack: Callable[[bytes, bytes], bytes] = lambda data, before: data
    recall: int = 0
    begin: Callable[[bytes], bytes] = bytes
    end: bytes = b""


def sse_opening(retry: float, hello: bool) -> bytes:
    """
    What a stream begins with, directly in front of its first block.

    The reconnection time goes into that block: one of its own would reach some
    clients as an empty event. WebKit and npm eventsource 2 glue what is left of
    an event that was cut off to the next connection's first; for those who ask
    to be greeted, a comment ends the leftover's line, and the name ``hello``
    sends it where nobody listens.

    :param retry: seconds.
    """
    field = sse_retry(retry)
    return b":\nevent: hello\ndata: {}\n" + field + b"\n" if hello else field


def sse_retry(seconds: float) -> bytes:
    """
    After how long to come back. One line: with a blank one behind it, some
    clients would deliver an empty event.
    """
    return b"retry: %d\n" % round(seconds * 1000)


def sse_later(retry: float, reason: str) -> bytes:
    """
    All that a stream holds which cannot be had now: when to come back, and for
    those who look, why. No blank line, so that nobody is told of an event.

    :param retry: seconds.
    """
    return sse_retry(retry) + b": " + " ".join(reason.split()).encode(errors="replace") + b"\n"


def _sse_block(name: str | None, data: bytes | None, id: str | None) -> bytes:
    """
    One block. CR, CRLF and LF in `data` all reach the client as LF: SSE can
    carry no other.
    """
    lines = []
    if name is not None:
        lines.append(b"event: " + name.encode())
    if data is not None:
        if b"\n" in data or b"\r" in data:
            lines.extend(b"data: " + line for line in _LINE_BREAK.split(data))
        else:
            lines.append(b"data: " + data)
    if id is not None:
        lines.append(b"id: " + id.encode("ascii"))
    lines.append(b"\n")
    return b"\n".join(lines)


def _sse(frame: Frame, id: str | None) -> bytes:
    payload = frame.payload
    if payload is None:
        return _sse_block(None, None, id)
    return _sse_block(payload.name, _escaped(payload), id)


def _escaped(payload: Payload) -> bytes:
    """
    Data without the characters that Python's splitlines takes for line breaks,
    as two PyPI clients do. They can only be in strings; text cannot be helped.
    """
    data = payload.data
    if payload.is_json:
        for character, escape in _LINE_BREAKS_OF_PYTHON:
            if character in data:
                data = data.replace(character, escape)
    return data


def _sse_with_topic(frame: Frame, id: str | None) -> bytes:
    payload = frame.payload
    if payload is None:
        return _sse_block(None, None, id)
    envelope = b'{"topic":%b,"data":%b}' % (msgspec.json.encode(frame.topic), as_json(payload))
    return _sse_block(payload.name, _escaped(Payload(None, envelope)), id)


@cache
def greeting(format: WireFormat) -> WireFormat:
    """
    `format` for clients that ask to be greeted: a block that only tells a position
    is an event ``hello``. Firefox, WebKit and most libraries ignore an id without data.
    """

    def encode(frame: Frame, id: str | None) -> bytes:
        return _sse_block("hello", b"{}", id) if frame.payload is None else format.encode(frame, id)

    return msgspec.structs.replace(format, name=f"{format.name} hello", encode=encode)


SSE = WireFormat("sse", "sse", _sse, b":\n", sse_retry)
"""One topic: ``data:`` is the bare payload."""

SSE_WITH_TOPIC = WireFormat("sse+topic", "sse", _sse_with_topic, b":\n", sse_retry)
"""Several topics: ``data:`` is ``{"topic": ..., "data": ...}``."""


@cache
def gzipped(format: WireFormat) -> WireFormat:
    """
    `format` as a gzip stream that is deflated once for all, whenever they joined.

    There is no trailer: it would be the checksum of what one client has been
    sent. Who was tried does not miss it; a wrong one breaks Node and Python
    clients.
    """

    def begin(opening: bytes) -> bytes:
        return _GZIP_HEADER + deflated(opening, b"")

    return msgspec.structs.replace(
        format,
        name=f"{format.name} gzip",
        pack=deflated,
        recall=_RECALL,
        begin=begin,
        end=_LAST_BLOCK,
    )


def deflated(data: bytes, before: bytes) -> bytes:
    """
    Blocks that end on a byte, so that clients have all of it at once (RFC 1951).

    :param before: what is directly in front of it for all who get it, or the
        end of that. Patches of a document are much alike.
    """
    size = len(data)
    if size <= _NOT_WORTH_IT:
        return struct.pack("<xHH", size, size ^ 0xFFFF) + data
    level = 6 if size <= _WORTH_TIME else 2
    compressor = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS, zdict=before)
    return compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)


@cache
def chunked(format: WireFormat) -> WireFormat:
    """`format` in the chunked transfer coding (RFC 9112, section 7.1)."""

    def pack(data: bytes, before: bytes) -> bytes:
        return chunk(format.pack(data, before))

    def begin(opening: bytes) -> bytes:
        return chunk(format.begin(opening))

    # One of nothing would be the last; that is not ours to send.
    end = chunk(format.end) if format.end else b""
    return msgspec.structs.replace(
        format, name=f"{format.name} chunked", pack=pack, begin=begin, end=end
    )


def chunk(data: bytes) -> bytes:
    """One chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Pieces:
    """
    Bytes in pieces, each packed when it is first asked for: to deflate a large
    document in one go would hold up everybody.

    :ivar size: bytes, before they are packed.
    """

    def __init__(self, data: bytes, size: int, pack: Callable[[bytes, bytes], bytes]) -> None:
        self.size = len(data)
        self._pack = pack
        self._pieces = [data[at : at + size] for at in range(0, len(data), size)]
        self._packed = [False] * len(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, number: int) -> bytes:
        if not self._packed[number]:
            self._pieces[number] = self._pack(self._pieces[number], b"")
            self._packed[number] = True
        return self._pieces[number]


def as_json(payload: Payload) -> bytes:
    """A payload's data as a JSON value on one line: text becomes a string."""
    return payload.data if payload.is_json else msgspec.json.encode(payload.data.decode())


def status(state: str, since: float, reason: str | None) -> Payload:
    """A ``status`` event; `since` in seconds since 1970."""
    return Payload(
        "status", msgspec.json.encode({"state": state, "since": rfc3339(since), "reason": reason})
    )


def gap(after: str | None, resumed: str) -> Payload:
    """A ``gap`` event: messages between the positions `after` and `resumed` are lost."""
    return Payload("gap", msgspec.json.encode({"after": after, "resumed": resumed}))


def rfc3339(seconds: float) -> str:
    """A time in seconds since 1970 as RFC 3339 writes it, to the millisecond, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"

"""The bytes on the wire, to the letter."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reader import Parser

from pushd import wire
from pushd.event import Payload
from pushd.wire import SSE, SSE_WITH_TOPIC, Frame, Pieces

JSON = Payload("patch", b'[{"op":"remove","path":"/a"}]')
TEXT = Payload(None, "a\nb\r\nc\rd\n\n é".encode(), is_json=False)


@pytest.mark.parametrize(
    ("frame", "bare", "envelope"),
    [
        (
            Frame("stocks", JSON, "e-1"),
            b'event: patch\ndata: [{"op":"remove","path":"/a"}]\nid: e-1\n\n',
            b'event: patch\ndata: {"topic":"stocks","data":[{"op":"remove","path":"/a"}]}\n'
            b"id: e-1\n\n",
        ),
        (
            Frame("a/b", TEXT, "e-2w"),
            "data: a\ndata: b\ndata: c\ndata: d\ndata: \ndata:  é\nid: e-2w\n\n".encode(),
            'data: {"topic":"a/b","data":"a\\nb\\r\\nc\\rd\\n\\n é"}\nid: e-2w\n\n'.encode(),
        ),
        (Frame("", None, "e-3"), b"id: e-3\n\n", b"id: e-3\n\n"),
        (
            Frame('"\n', Payload("x", b""), None),
            b"event: x\ndata: \n\n",
            None,
        ),
        (
            Frame('q"', Payload("x", b"1"), None),
            b"event: x\ndata: 1\n\n",
            b'event: x\ndata: {"topic":"q\\"","data":1}\n\n',
        ),
    ],
)
def test_a_frame_looks_like_this(frame: Frame, bare: bytes, envelope: bytes | None) -> None:
    assert frame.on(SSE) == bare
    if envelope is not None:
        assert frame.on(SSE_WITH_TOPIC) == envelope


def test_json_has_no_line_breaks_of_any_kind() -> None:
    odd = "\u0085\u2028\u2029"
    frame = Frame("t", Payload("n", f'"{odd}"'.encode()), None)
    for wire_format in (SSE, SSE_WITH_TOPIC):
        encoded = frame.on(wire_format)
        assert len(encoded.decode().splitlines()) == 3
        (received,) = Parser().feed(encoded)
        data = received.json
        assert (data["data"] if isinstance(data, dict) else data) == odd


def test_an_id_ends_with_the_mark_of_its_stream() -> None:
    frame = Frame("a", JSON, "e-1")
    assert frame.on(SSE, ".abcdef").endswith(b"\nid: e-1.abcdef\n\n")
    assert frame.on(SSE).endswith(b"\nid: e-1\n\n")


def test_a_frame_is_encoded_once_for_each_wire_format() -> None:
    frame = Frame("a", JSON, "e-1")
    assert frame.on(SSE) is frame.on(SSE)
    assert frame.on(SSE_WITH_TOPIC) is frame.on(SSE_WITH_TOPIC)


def test_the_heartbeat_is_a_colon_and_one_line_feed() -> None:
    assert SSE.heartbeat == SSE_WITH_TOPIC.heartbeat == b":\n"


def test_the_reconnection_time_is_in_milliseconds() -> None:
    assert wire.sse_opening(3.1234, hello=False) == b"retry: 3123\n"


@given(st.text(), st.floats(0.001, 86_400))
def test_who_has_to_wait_hears_of_no_event_whatever_the_reason(reason: str, retry: float) -> None:
    parser = Parser(last_id="kept")
    sent = wire.sse_later(retry, reason)
    assert sent.count(b"\n") == 2 and b"\r" not in sent
    # A line that is cut off is glued to the next connection's by some clients.
    assert sent.endswith(b"\n")
    assert parser.feed(sent) == parser.feed(b"\n") == []
    assert (parser.last_id, parser.comments) == ("kept", 1)
    assert parser.retry == round(retry * 1000)


@given(st.text())
def test_any_text_arrives_with_its_line_breaks_as_line_feeds(text: str) -> None:
    frame = Frame("t", Payload("n", text.encode(), is_json=False), "e-1")
    (received,) = Parser().feed(frame.on(SSE))
    assert received.data == text.replace("\r\n", "\n").replace("\r", "\n")
    (received,) = Parser().feed(frame.on(SSE_WITH_TOPIC))
    assert received.json == {"topic": "t", "data": text}


def test_a_status_says_since_when_and_why() -> None:
    payload = wire.status("error", 1_700_000_000.1239, "The source answered 500.")
    assert payload.data == (
        b'{"state":"error","since":"2023-11-14T22:13:20.123Z","reason":"The source answered 500."}'
    )


def inflated(data: bytes) -> bytes:
    """What a client has of the beginning of a gzip stream, without waiting for more."""
    return zlib.decompressobj(wbits=31).decompress(data)


@given(st.lists(st.binary(max_size=200) | st.integers(0, 70_000).map(bytes), max_size=5))
def test_each_part_of_a_gzip_stream_can_be_read_at_once_and_from_any_on(parts: list[bytes]) -> None:
    gzipped = wire.gzipped(SSE)
    packed = [gzipped.pack(part, b"") for part in parts]
    for first in range(len(parts) + 1):
        sent, expected = gzipped.begin(b"retry: 1\n"), b"retry: 1\n"
        for part, bytes_of_part in zip(parts[first:], packed[first:], strict=True):
            sent, expected = sent + bytes_of_part, expected + part
            assert inflated(sent) == expected
        assert inflated(sent + gzipped.end) == expected


@given(st.lists(st.sampled_from([b":\n", b"data: hello, hello, world\n\n", bytes(5000)])))
def test_a_part_of_a_gzip_stream_may_refer_to_what_went_before(parts: list[bytes]) -> None:
    gzipped = wire.gzipped(SSE)
    opening = b"retry: 1\n"
    sent, before = gzipped.begin(opening), opening
    for part in parts:
        sent += gzipped.pack(part, before[-gzipped.recall :])
        before += part
        assert inflated(sent) == before


def test_what_is_like_what_went_before_is_small() -> None:
    patch = b'event: patch\ndata: [{"op":"replace","path":"/%d","value":1}]\nid: 4e4-%d.a5c1\n\n'
    pack = wire.gzipped(SSE).pack
    assert len(pack(patch % (2, 2), patch % (1, 1))) < len(pack(patch % (2, 2), b"")) / 3


def test_compressing_makes_no_small_thing_much_larger_and_large_ones_much_smaller() -> None:
    pack = wire.gzipped(SSE).pack
    assert len(pack(SSE.heartbeat, b"data: 1\n")) == 7
    for size in range(200):
        assert len(pack(bytes(range(size)), b"")) <= size + 10
    for size in (500, 5_000, 16_384, 16_385, 500_000):
        assert len(pack(b'{"price":12.5},' * (size // 15), b"")) < size / 10


def test_a_gzip_stream_in_chunks_ends_with_a_chunk_that_is_not_the_last_one() -> None:
    chunked = wire.chunked(wire.gzipped(SSE))
    assert chunked.name == "sse gzip chunked"
    assert chunked.end == b"2\r\n\x03\0\r\n"
    plain = wire.chunked(SSE)
    assert (plain.begin(b"ab"), plain.pack(b"abc", b"ab"), plain.end) == (
        b"2\r\nab\r\n",
        b"3\r\nabc\r\n",
        b"",
    )


def test_pieces_are_packed_once_and_when_they_are_asked_for() -> None:
    packed = []

    def pack(data: bytes, before: bytes) -> bytes:
        assert before == b""
        packed.append(data)
        return data * 2

    pieces = Pieces(b"abcdefg", 3, pack)
    assert (len(pieces), pieces.size, packed) == (3, 7, [])
    assert [pieces[1], pieces[1], pieces[2], pieces[0]] == [b"defdef", b"defdef", b"gg", b"abcabc"]
    assert packed == [b"def", b"g", b"abc"]
    assert len(Pieces(b"", 3, pack)) == 0

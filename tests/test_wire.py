"""The bytes on the wire, to the letter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reader import Parser

from pushd import wire
from pushd.event import Payload
from pushd.wire import SSE, SSE_WITH_TOPIC, Frame

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

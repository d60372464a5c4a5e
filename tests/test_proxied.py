"""Whom a proxy speaks for, and what it may say instead."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from served import Served
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.logger import formatEvent
from upstream import until

from pushd.proxied import Header, read
from pushd.throttle import MOST

TCP4 = b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 8080\r\n"
TCP6 = b"PROXY TCP6 2001:db8::1 2001:db8::2 4711 65535\r\n"
BEGIN = b"\r\n\r\n\0\r\nQUIT\n"
FOUR = IPv4Address("TCP", "192.0.2.1", 4711), IPv4Address("TCP", "192.0.2.2", 8080)
SIX = IPv6Address("TCP", "2001:db8::1", 4711), IPv6Address("TCP", "2001:db8::2", 65535)
NOBODY = None, None

ADDRESSES_4 = bytes([192, 0, 2, 1, 192, 0, 2, 2]) + struct.pack("!HH", 4711, 8080)
ADDRESSES_6 = bytes.fromhex("20010db8" + "00" * 11 + "01" + "20010db8" + "00" * 11 + "02")
ADDRESSES_6 += struct.pack("!HH", 4711, 65535)


def binary(command: int, family: int, rest: bytes) -> bytes:
    return BEGIN + struct.pack("!BBH", command, family, len(rest)) + rest


RIGHT = [
    (TCP4, FOUR),
    (TCP6, SIX),
    (b"PROXY UNKNOWN\r\n", NOBODY),
    (b"PROXY UNKNOWN ffff::1 whatever \xff 2 3\r\n", NOBODY),
    (binary(0x21, 0x11, ADDRESSES_4), FOUR),
    (binary(0x21, 0x11, ADDRESSES_4 + b"\x04\0\x01x"), FOUR),
    (binary(0x21, 0x21, ADDRESSES_6), SIX),
    (binary(0x20, 0x00, b""), NOBODY),
    (binary(0x20, 0x11, ADDRESSES_4), NOBODY),
    (binary(0x20, 0xFF, b""), NOBODY),
    (binary(0x21, 0x00, b"anything"), NOBODY),
    (binary(0x21, 0x31, bytes(216)), NOBODY),
]


@pytest.mark.parametrize(("data", "addresses"), RIGHT)
def test_a_header_is_read_when_it_is_all_there_and_nothing_behind_it(
    data: bytes, addresses: tuple[Any, Any]
) -> None:
    for size in range(len(data)):
        assert read(data[:size]) is None
    assert read(data) == read(data + data) == Header(*addresses, len(data))


WRONG = [
    b"GET / HTTP/1.1\r\n",
    b"X",
    b"PROXX",
    b"proxy tcp4",
    b"PROXY\r\n\r\n",
    b"PROXY \r\n",
    b"PROXY TCP4\r\n",
    b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 x 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1  2\r\n",
    b"PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 \xff 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 2001:db8::1 ::1 1 2\r\n",
    b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 " + b"9" * 100,
    b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    b"\r\n\r\n\0\r\nQUIT!",
    binary(0x11, 0x11, ADDRESSES_4),
    binary(0x22, 0x11, ADDRESSES_4),
    binary(0x21, 0x41, ADDRESSES_4),
    binary(0x21, 0x13, ADDRESSES_4),
    binary(0x21, 0x11, ADDRESSES_4[:-1]),
    binary(0x21, 0x21, ADDRESSES_4),
]


@pytest.mark.parametrize("data", WRONG)
def test_what_is_no_header_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(data)


@given(st.sampled_from([one for one, _ in RIGHT]), st.data())
def test_whatever_comes_there_is_no_other_error(right: bytes, data: st.DataObject) -> None:
    odd = bytearray(right)
    for _ in range(data.draw(st.integers(0, 3))):
        start = data.draw(st.integers(0, len(odd)))
        odd[start : start + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    with suppress(ValueError):
        header = read(bytes(odd))
        assert header is None or header.size <= len(odd)


LISTEN = "haproxy:tcp:0:interface=127.0.0.1"


@pytest.mark.parametrize("data", [data for data, _ in RIGHT])
async def test_behind_a_header_there_is_a_request_however_it_comes(data: bytes) -> None:
    async with Served("", LISTEN) as served:
        for cut in (0, 1, len(data) - 1, len(data), len(data) + 3):
            whole = data + b"GET /healthz HTTP/1.0\r\n\r\n"
            connection = await served.connect()
            connection.transport.setTcpNoDelay(True)  # type: ignore[union-attr]
            connection.transport.write(whole[:cut])  # type: ignore[union-attr]
            connection.transport.write(whole[cut:])  # type: ignore[union-attr]
            await until(lambda c=connection: not c.open)  # type: ignore[misc]
            assert connection.answer.status == 200


async def test_what_has_no_header_is_refused_with_a_line_that_says_so(
    capture: list[dict[str, Any]],
) -> None:
    async with Served("", LISTEN) as served:
        for data in (b"PROXY TCP4 geheim geheim 1 2\r\n", b"GET /?geheim HTTP/1.1\r\n\r\n") * MOST:
            connection = await served.connect()
            connection.transport.write(data)  # type: ignore[union-attr]
            await until(lambda c=connection: not c.open)  # type: ignore[misc]
            assert connection.received == b""
        line = "127.0.0.1 is refused: what it sent first is no header of the PROXY protocol"
        ours = [event for event in capture if event["log_namespace"] == "pushd.proxied"]
        assert [formatEvent(event) for event in ours] == [line] * MOST
        assert not any("log_failure" in event for event in capture)
    said = "more within 10 s: refused without a header of the PROXY protocol"
    assert f"{MOST} {said}" in [formatEvent(event) for event in capture]

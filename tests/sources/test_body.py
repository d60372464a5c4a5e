"""A body is taken whole or not at all, however it is cut up on the wire."""

from __future__ import annotations

import gzip
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushd.errors import SourceError
from pushd.sources.body import Body


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=4), st.integers(1, 700))
def test_members_and_reads_may_lie_anyhow(members: list[bytes], read: int) -> None:
    wire = b"".join(gzip.compress(member) for member in members)
    whole = b"".join(members)
    body = Body(31, len(whole), len(wire))
    for start in range(0, len(wire), read):
        body.add(wire[start : start + read])
    assert body.whole() == whole


@given(st.binary(max_size=300), st.data())
def test_what_is_cut_or_changed_is_never_taken_for_whole(whole: bytes, data: Any) -> None:
    wire = gzip.compress(whole)
    at = data.draw(st.integers(0, len(wire) - 1))
    cut, garbage = wire[:at], data.draw(st.binary(min_size=1, max_size=9))
    changed = wire[:at] + bytes([wire[at] ^ data.draw(st.integers(1, 255))]) + wire[at + 1 :]
    for bad in (cut, wire + garbage):
        body = Body(31, 1000, len(bad))
        with pytest.raises(SourceError, match=r"The compressed answer is (damaged|incomplete)\."):
            read(body, bad)
    # Some bits mean nothing, most of all in the header.
    with suppress(SourceError):
        assert read(Body(31, 1000, len(wire)), changed) == whole


def read(body: Body, wire: bytes) -> bytes:
    body.add(wire)
    return body.whole()

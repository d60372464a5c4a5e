"""Text in the charsets that the web uses, and in no others."""

from __future__ import annotations

import pytest

from pushd.charset import decode


@pytest.mark.parametrize(
    ("data", "charset", "text"),
    [
        ("é".encode(), "UTF-8", "é"),
        (b"\xe9", "latin-1", "é"),
        (b"\xe9", "windows-1252", "é"),
        ("é".encode("utf-16"), "utf-16", "é"),
        ("日本".encode("shift_jis"), "Shift_JIS", "日本"),
        (b"a", "us-ascii", "a"),
    ],
)
def test_usual_charsets_are_read(data: bytes, charset: str, text: str) -> None:
    assert decode(data, charset) == text


@pytest.mark.parametrize(
    "charset",
    ["punycode", "idna", "undefined", "hex", "rot13", "utf-7", "unicode_escape", ""],
)
def test_others_are_refused(charset: str) -> None:
    with pytest.raises(ValueError, match="charset"):
        decode(b"a", charset)


def test_what_is_not_in_its_charset_is_refused() -> None:
    with pytest.raises(ValueError, match="codec"):
        decode(b"\xff", "utf-8")

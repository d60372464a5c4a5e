"""What answers mean, and how unusable ones are told."""

from __future__ import annotations

import pytest

from pushd.errors import SourceError
from pushd.event import Document, Payload
from pushd.sources.digest import Rules, digest

JSON = "application/json"
OLD = Document(b'{"a":1,"pad":"0123456789012345678901234567890123456789"}')


def test_the_first_answer_is_a_snapshot() -> None:
    body = b' {"a" :\n1.0}'
    document = Document(b'{"a":1.0}')
    result = digest(None, b"", body, JSON, Rules())
    assert (result.payloads, result.document) == ((Payload("snapshot", document.data),), document)


def test_a_change_is_a_patch() -> None:
    result = digest(OLD, b"", OLD.data.replace(b"1,", b"2,"), JSON, Rules())
    assert result.payloads == (Payload("patch", b'[{"op":"replace","path":"/a","value":2}]'),)
    assert result.document.data == OLD.data.replace(b"1,", b"2,")


@pytest.mark.parametrize(
    "body",
    [
        OLD.data,
        OLD.data.replace(b":", b" :\n"),
        b'{"pad":"0123456789012345678901234567890123456789","a":1}',
        b"\xef\xbb\xbf" + OLD.data,
    ],
)
@pytest.mark.parametrize("emit", ["patch", "snapshot"])
def test_the_same_document_in_other_words_is_no_event(body: bytes, emit: str) -> None:
    assert digest(OLD, b"", body, JSON, Rules(emit=emit)).payloads == ()


def test_a_change_of_type_is_a_change() -> None:
    for body in (b"1.0", b"true", b"null", b'"1"'):
        changed = OLD.data.replace(b"1,", body + b",")
        assert len(digest(OLD, b"", changed, JSON, Rules()).payloads) == 1


def test_a_patch_that_is_not_smaller_is_a_snapshot() -> None:
    result = digest(Document(b'{"a":1}'), b"", b'{"a":2}', JSON, Rules())
    assert result.payloads == (Payload("snapshot", b'{"a":2}'),)


def test_select_takes_a_part() -> None:
    body = b'{"stocks":[{"s":"A"}],"time":1}'
    assert digest(None, b"", body, JSON, Rules(select="stocks[]")).document.data == b'[{"s":"A"}]'


def test_items_are_told_one_by_one() -> None:
    rules = Rules(emit="items", key="s")
    pad = "x" * 60
    old = Document(f'[{{"s":"A","n":"{pad}"}},{{"s":"B","n":"{pad}"}}]'.encode())
    new = f'[{{"s":"B","n":"{pad}"}},{{"s":"C","n":1}}]'.encode()
    result = digest(old, b"", new, JSON, rules)
    assert result.payloads == (
        Payload("remove", b'{"key":"A"}'),
        Payload("add", b'{"key":"C","index":1,"item":{"s":"C","n":1}}'),
    )


@pytest.mark.parametrize("old", [None, OLD])
def test_items_have_to_be_items_from_the_first_answer_on(old: Document | None) -> None:
    rules = Rules(emit="items", key="s")
    for body in (b"{}", b"[1]", b'[{"t":1}]', b'[{"s":1},{"s":1}]'):
        with pytest.raises(SourceError, match=r"\.$"):
            digest(old, b"", body, JSON, rules)


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        (b"a\r\nb", "text/plain", b"a\r\nb"),
        (b"\xe9", "text/plain; charset=latin-1", "é".encode()),
        ("\ufeffé".encode(), "text/csv", "é".encode()),
        ("é".encode("utf-16"), "text/csv; charset=utf-16", "é".encode()),
        (b"<a/>", "application/xml", b"<a/>"),
        (b"<a/>", "", b"<a/>"),
    ],
)
def test_text_of_any_kind_is_a_document(body: bytes, content_type: str, text: bytes) -> None:
    result = digest(None, b"", body, content_type, Rules(emit="snapshot"))
    assert result.document == Document(text, is_json=False)
    assert result.payloads == (Payload("snapshot", text, is_json=False),)
    assert digest(result.document, b"", body, content_type, Rules(emit="snapshot")).payloads == ()


def test_a_source_that_turns_from_text_to_json_goes_on() -> None:
    text = digest(None, b"", b"a", "text/plain", Rules(emit="snapshot")).document
    result = digest(text, b"", b"[1]", JSON, Rules(emit="snapshot"))
    assert result.payloads == (Payload("snapshot", b"[1]"),)
    result = digest(result.document, b"", b"[1]", "text/plain", Rules(emit="snapshot"))
    assert result.payloads == (Payload("snapshot", b"[1]", is_json=False),)


def test_format_overrules_the_content_type() -> None:
    assert digest(None, b"", b"[1]", "text/html", Rules(format="json")).document == Document(b"[1]")
    rules = Rules(format="text", emit="snapshot")
    assert digest(None, b"", b"[1]", JSON, rules).document == Document(b"[1]", is_json=False)


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "application/geo+json", ""])
def test_json_has_several_types(kind: str) -> None:
    assert digest(None, b"", b"[1]", kind, Rules()).document.is_json


@pytest.mark.parametrize(
    ("body", "content_type", "rules", "reason"),
    [
        (b"", JSON, Rules(), "The answer is empty."),
        (b" \n", "text/plain", Rules(emit="snapshot"), "The answer is empty."),
        (b"<html>", "text/html", Rules(), "The answer is text/html, not JSON."),
        (b"[1,", JSON, Rules(), "The answer is not valid JSON: "),
        (b"nul", JSON, Rules(), "The answer is not valid JSON: "),
        (b"[1] 2", JSON, Rules(), "The answer is not valid JSON: "),
        (b'"\xff"', JSON, Rules(), "The answer is not valid JSON: "),
        (b'"\\ud800"', JSON, Rules(), "The answer is not valid JSON: "),
        (b"NaN", JSON, Rules(), "The answer is not valid JSON: "),
        (b"[1e999]", JSON, Rules(), "The answer is not valid JSON: "),
        (b"[" * 100_000, JSON, Rules(), "The answer is nested too deeply."),
        (b"[1]", JSON, Rules(select="a.b"), "select = 'a.b' finds nothing in the answer."),
        (b'{"a":1}', JSON, Rules(select="length(a)"), "select failed: "),
        (b"\xff", "text/plain", Rules(emit="snapshot"), "The answer is not utf-8 text."),
        (b"a", "text/plain; charset=x", Rules(emit="snapshot"), "The answer is not x text."),
        (b"a\0", "image/png", Rules(emit="snapshot"), "The answer is not text."),
        (b"a", "text/plain; charset=idna", Rules(emit="snapshot"), "The answer is not idna text."),
        (b"a", "text/plain; charset=hex", Rules(emit="snapshot"), "The answer is not hex text."),
        (b'{"a":[1]}', JSON, Rules(select="a[::0]"), "select failed: "),
    ],
)
def test_an_unusable_answer_is_told_in_a_sentence(
    body: bytes, content_type: str, rules: Rules, reason: str
) -> None:
    with pytest.raises(SourceError) as raised:
        digest(OLD, b"", body, content_type, rules)
    assert raised.value.reason.startswith(reason)


@pytest.mark.parametrize(
    ("select", "reason"),
    [
        ("abs(@)", "select failed: abs() does not take a value of the type object."),
        ("sort_by(items, &name)", "select failed: sort_by() does not take"),
        ("max_by(items, &either)", "select failed: "),
    ],
)
def test_a_select_that_fails_does_not_quote_the_answer(select: str, reason: str) -> None:
    """There are upstreams that say what headers they got, and reasons end up in logs."""
    body = b"""{"token": "s3cr3t", "items": [
        {"name": ["s3cr3t"], "either": 1}, {"name": 2, "either": "s3cr3t"}
    ]}"""
    with pytest.raises(SourceError) as raised:
        digest(OLD, b"", body, JSON, Rules(select=select))
    assert raised.value.reason.startswith(reason)
    assert "s3cr3t" not in raised.value.reason


def test_numbers_are_kept_as_they_are() -> None:
    body = b"[123456789012345678901234567890,-0.0,1e22,0.1]"
    assert digest(None, b"", body, JSON, Rules()).document.data == body


def test_the_same_body_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = digest(None, b"", b"[1]", JSON, Rules())
    monkeypatch.setattr("pushd.sources.digest._parsed", None)
    again = digest(first.document, first.mark, b"[1]", JSON, Rules())
    assert (again.payloads, again.document, again.mark) == ((), None, first.mark)

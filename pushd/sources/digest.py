"""
What an answer means: from its bytes to a document and the events that lead to it.

Pure, and made of values that can be sent to another process. Whatever is wrong
with an answer is a :class:`~pushd.errors.SourceError` that says so in a
sentence; the topic keeps the document it has.
"""

from __future__ import annotations

import codecs
import hashlib
from email.message import Message

import jmespath
import msgspec
from jmespath.exceptions import JMESPathError, JMESPathTypeError

from pushd import charset as charsets
from pushd import delta
from pushd.errors import SourceError
from pushd.event import Document, Json, Payload


class Rules(msgspec.Struct, frozen=True):
    """
    How a source's answers are to be read; see :class:`pushd.config.Source`.

    :ivar format: ``auto``, ``json`` or ``text``.
    :ivar select: a JMESPath expression, or None.
    :ivar emit: ``patch``, ``snapshot`` or ``items``.
    :ivar key: for ``items``, the name of the field that tells items apart.
    """

    format: str = "auto"
    select: str | None = None
    emit: str = "patch"
    key: str | None = None


class Digest(msgspec.Struct, frozen=True):
    """
    What an answer led to.

    :ivar payloads: the events; none if nothing changed.
    :ivar document: what the topic holds now; None if nothing changed.
    :ivar mark: by which the same body is known again.
    """

    payloads: tuple[Payload, ...]
    document: Document | None
    mark: bytes = b""


UNCHANGED = Digest((), None)


def digest(
    old: Document | None, mark: bytes, body: bytes, content_type: str, rules: Rules
) -> Digest:
    """
    Read an answer.

    :param old: what the topic holds; None if it holds nothing yet.
    :param mark: of the body that `old` was read from; a body with the same one
        is not read again.
    :param body: the answer, not compressed.
    :param content_type: the header's value; "" if there is none.
    :raises SourceError: the answer cannot be used.
    """
    found = hashlib.blake2b(body, digest_size=16).digest()
    if old is not None and found == mark:
        return Digest((), None, mark)
    if not body.strip():
        raise SourceError("The answer is empty.")
    kind, charset = _content_type(content_type)
    if rules.format == "json" or (rules.format == "auto" and _is_json(kind, rules)):
        read = _json(old, body, rules)
    else:
        read = _text(old, _decoded(body, charset or "utf-8"))
    return Digest(read.payloads, read.document, found)


def _json(old: Document | None, body: bytes, rules: Rules) -> Digest:
    try:
        new = _selected(_parsed(body), rules.select)
        document = Document(msgspec.json.encode(new))
    except RecursionError:
        raise SourceError("The answer is nested too deeply.") from None
    if old is None or not old.is_json:
        if rules.emit == "items":
            # Raises if these are no items: the first document has to be right too.
            delta.changes([], new, document, emit="items", key=rules.key)
        return Digest((Payload("snapshot", document.data),), document)
    if old.data == document.data:
        return UNCHANGED
    before = msgspec.json.decode(old.data)
    changes = delta.changes(before, new, document, emit=rules.emit, key=rules.key)
    return Digest(changes, document) if changes else UNCHANGED


def _text(old: Document | None, text: bytes) -> Digest:
    document = Document(text, is_json=False)
    if old == document:
        return UNCHANGED
    return Digest((Payload("snapshot", text, is_json=False),), document)


def _content_type(value: str) -> tuple[str, str | None]:
    """The media type and the charset of a Content-Type."""
    if not value:
        return "", None
    message = Message()
    message["Content-Type"] = value
    charset = message.get_param("charset")
    return message.get_content_type(), charset if isinstance(charset, str) else None


def _is_json(kind: str, rules: Rules) -> bool:
    """Whether an answer of this media type is JSON (RFC 8259; RFC 6839, section 3.1)."""
    if kind in ("application/json", "text/json") or kind.endswith("+json"):
        return True
    if rules.emit == "snapshot" and not rules.select:
        return False
    if kind:
        raise SourceError(f"The answer is {kind}, not JSON.")
    return True


def _parsed(body: bytes) -> Json:
    try:
        value: Json = msgspec.json.decode(body.removeprefix(codecs.BOM_UTF8))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SourceError(f"The answer is not valid JSON: {error}.") from None
    return value


def _selected(value: Json, expression: str | None) -> Json:
    if expression is None:
        return value
    try:
        selected: Json = compiled(expression).search(value)
    except JMESPathTypeError as error:
        # Its own text quotes the answer, and that may quote the headers that it got.
        raise SourceError(
            f"select failed: {error.function_name}() does not take a value of the type "
            f"{error.actual_type}."
        ) from None
    except (JMESPathError, TypeError, ValueError) as error:
        raise SourceError(f"select failed: {error}") from None
    if selected is None:
        # An upstream that answers 200 with an error in it must not empty the page.
        raise SourceError(f"select = {expression!r} finds nothing in the answer.")
    return selected


def compiled(expression: str) -> jmespath.parser.ParsedResult:
    """A JMESPath expression, parsed; jmespath remembers the last ones. Raises JMESPathError."""
    return jmespath.compile(expression)


def _decoded(body: bytes, charset: str) -> bytes:
    """Text as UTF-8."""
    try:
        text = charsets.decode(body, charset).removeprefix("\ufeff")
    except ValueError:
        raise SourceError(f"The answer is not {charset} text.") from None
    if "\0" in text:
        raise SourceError("The answer is not text.")
    return text.encode()

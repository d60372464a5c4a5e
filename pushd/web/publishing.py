"""Publishing messages: ``POST /topics/{topic}``."""

from __future__ import annotations

import json
import re

import msgspec
from twisted.web.iweb import IRequest
from werkzeug.http import parse_options_header

from pushd import charset as charsets
from pushd.auth import Tokens
from pushd.errors import ClientError
from pushd.event import Draft, Payload, Position
from pushd.interfaces import IHub
from pushd.sources.catalogue import Catalogue
from pushd.web import asked
from pushd.web.site import PushRequest

LONGEST_EVENT = 128
"""How many characters the name of an event may have."""

_TAKEN = {
    "gap": "what pushd calls lost messages",
    "hello": "how pushd greets clients",
    "open": "what EventSource tells of itself",
    "error": "what EventSource tells of itself",
}
"""Names of events that a page could not tell from others."""

_UNSENDABLE = re.compile("[\r\n\0\u0085\u2028\u2029]")
"""What would end an SSE field before its time; the last three do in Python clients."""


class Publishing:
    """
    :param max_body: bytes that a message may have.
    """

    def __init__(self, hub: IHub, catalogue: Catalogue, tokens: Tokens, max_body: int) -> None:
        self._hub = hub
        self._catalogue = catalogue
        self._tokens = tokens
        self._max_body = max_body

    async def publish(self, request: IRequest, name: str) -> bytes:
        """Record a message. Raises ClientError or HistoryError."""
        self._tokens.admit(
            asked.header(request, "Authorization"), asked.parameter(request, "access_token")
        )
        key = self._catalogue.message_topic(name)
        payload = self._payload(request)
        events = await self._hub.publish(Draft(key, (payload,)))
        request.setResponseCode(201)
        request.setHeader("Content-Type", asked.JSON)
        return msgspec.json.encode({"id": str(Position(self._hub.epoch, events[-1].seq))}) + b"\n"

    def _payload(self, request: IRequest) -> Payload:
        name = _event_name(request)
        assert isinstance(request, PushRequest) and request.content is not None
        if request.too_large:
            raise ClientError(413, f"A message has at most {self._max_body} bytes.")
        body = request.content.read()
        kind, options = parse_options_header(asked.header(request, "Content-Type"))
        if kind == "application/json":
            return Payload(name, _one_line(body))
        if kind == "text/plain":
            return Payload(name, _utf8(body, options.get("charset", "utf-8")), is_json=False)
        raise ClientError(
            415,
            f"A message is application/json or text/plain, not {kind or 'without a Content-Type'}.",
            parameter="Content-Type",
            headers={"Accept": "application/json, text/plain"},
        )


def _event_name(request: IRequest) -> str | None:
    if asked.parameter(request, "id") is not None:
        raise ClientError(400, "Ids are given by pushd; there is no id parameter.", parameter="id")
    name = asked.parameter(request, "event")
    if name is None or name == "":
        return None
    if _UNSENDABLE.search(name) or len(name) > LONGEST_EVENT:
        raise ClientError(
            400,
            f"An event's name has at most {LONGEST_EVENT} characters and no CR, LF or NUL.",
            parameter="event",
        )
    if name in _TAKEN:
        raise ClientError(400, f"{name!r} is {_TAKEN[name]}.", parameter="event")
    return name


def _one_line(body: bytes) -> bytes:
    """JSON as it was sent, but without line breaks, which can only be between tokens."""
    try:
        body.decode()
        text = bytes(msgspec.json.decode(body, type=msgspec.Raw))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        why = "it has half of a surrogate pair" if _has_half_a_pair(body) else str(error)
        raise ClientError(400, f"The body is not valid JSON: {why}.") from None
    return text.replace(b"\r", b" ").replace(b"\n", b" ")


def _has_half_a_pair(body: bytes) -> bool:
    r"""
    Whether what ails JSON is an escape like ``\ud83d`` without its other half,
    which stands for no character (RFC 8259, section 8.2). msgspec takes the text
    for truncated where it looks for the other half.
    """
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    except (ValueError, RecursionError):
        return False
    return False


def _utf8(body: bytes, charset: str) -> bytes:
    try:
        return charsets.decode(body, charset).encode()
    except ValueError:
        raise ClientError(400, f"The body is not {charset} text.") from None

"""
What a client asked for: the parameters of a request, read once and checked.

EventSource cannot set headers, so most of what others say in headers may be
said in the query too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import lru_cache

from twisted.web.iweb import IRequest
from werkzeug.datastructures import Accept, MIMEAccept
from werkzeug.http import parse_accept_header

from pushd.errors import ClientError

EVENT_STREAM = "text/event-stream"
JSON = "application/json"

LONGEST_CLIENT = 128
"""How many characters a page may choose to be known by."""

LONGEST_ACCEPT = 1024
"""How many characters of an Accept header are read; 16 KB of it would take 30 ms."""

_REMEMBERED_ACCEPT = 256
"""How many of them are worth remembering what came of them."""

_CHARSET = re.compile(r";\s*charset=[^;,]*", re.IGNORECASE)
_RESUME = ("lastEventId", "Last-Event-ID", "lastEventID", "last_event_id")


def header(request: IRequest, name: str) -> str | None:
    """
    A header's values, joined; None if it is not there.

    Bytes that are no UTF-8 are replaced: they can be anything, but not an error of ours.
    """
    values = request.requestHeaders.getRawHeaders(name.encode())
    return b", ".join(values).decode(errors="replace") if values else None


def parameter(request: IRequest, name: str) -> str | None:
    """A query parameter's last value; None if it is not there."""
    values = parameters(request, name)
    return values[-1] if values else None


def parameters(request: IRequest, name: str) -> list[str]:
    """All values of a query parameter."""
    return [value.decode(errors="replace") for value in request.args.get(name.encode(), ())]


def last_event_id(request: IRequest) -> str | None:
    """
    Where the client wants to resume; None if it says nothing.

    The header wins: a browser that reconnects sends a newer id in it than the
    one that the page once put into the URL.
    """
    given = header(request, "Last-Event-ID")
    for name in _RESUME if request.args else ():
        given = given or parameter(request, name)
    return given or None


def switch(request: IRequest, name: str, default: bool) -> bool:
    """A query parameter that is 0 or 1. Raises ClientError."""
    value = parameter(request, name)
    if value not in (None, "0", "1"):
        raise ClientError(400, f"{name} is 0 or 1.", parameter=name)
    return default if value is None else value == "1"


def client(request: IRequest) -> str | None:
    """The identifier that the page chose for itself. Raises ClientError."""
    value = parameter(request, "client")
    if value is not None and not (len(value) <= LONGEST_CLIENT and value.isprintable()):
        detail = f"client is at most {LONGEST_CLIENT} printable characters."
        raise ClientError(400, detail, parameter="client")
    return value


def header_names(request: IRequest) -> set[str]:
    """The names in the ``header=`` parameters, in lower case."""
    return {text.partition(":")[0].strip().lower() for text in parameters(request, "header")}


def headers(request: IRequest, forwardable: Collection[str]) -> dict[str, str]:
    """
    The headers that may be of interest to a source, by name in lower case: the
    request's, and over them those of the ``header=`` parameters.

    :raises ClientError: a parameter is no header, or one that no source wants.
    """
    given = {}
    for name in forwardable:
        value = header(request, name)
        if value is not None:
            given[name] = _sendable(name, value)
    for text in parameters(request, "header"):
        name, colon, value = text.partition(":")
        name, value = name.strip().lower(), value.strip()
        if not colon or not name:
            raise ClientError(400, "header is written NAME: VALUE.", parameter="header")
        if name not in forwardable:
            raise ClientError(
                400, f"The header {name!r} is not forwarded to any source.", parameter="header"
            )
        given[name] = _sendable(name, value)
    return given


def _sendable(name: str, value: str) -> str:
    """A header's value, if it can be passed on. Raises ClientError."""
    if not value.isprintable() or "\ufffd" in value:
        detail = f"The value of {name!r} has a control character, or is not UTF-8."
        raise ClientError(400, detail, parameter="header")
    return value


def by_browser(request: IRequest) -> bool:
    """
    Whether it was a browser that sent this, to a site with TLS or on its own machine
    (W3C Fetch Metadata, section 2.4). Node's fetch says Sec-Fetch-Mode, and not this.
    """
    return bool(request.requestHeaders.hasHeader("Sec-Fetch-Site"))


def takes_gzip(request: IRequest) -> bool:
    """
    Whether the client likes gzip, and not less than nothing (RFC 9110, section 12.5.3).
    Without the header anything would do by the letter; who says nothing gets nothing.
    """
    wanted = (header(request, "Accept-Encoding") or "")[:LONGEST_ACCEPT]
    choose = _gzip if len(wanted) <= _REMEMBERED_ACCEPT else _gzip.__wrapped__
    return choose(wanted)


@lru_cache(maxsize=1024)
def _gzip(wanted: str) -> bool:
    accept = parse_accept_header(wanted, Accept)
    return 0 < accept.quality("gzip") >= accept.quality("identity")


def representation(request: IRequest, offers: Sequence[str]) -> str:
    """
    The media type to answer with (RFC 9110, section 12.5.1).

    Of those that the client likes best, one that it names goes before one that
    merely fits a wildcard, and then the first of `offers`: ``*/*`` means events,
    but ``application/json, */*`` means JSON.

    :raises ClientError: 406, it wants none of them.
    """
    wanted = (header(request, "Accept") or "*/*")[:LONGEST_ACCEPT]
    # Not to remember what nobody will send again.
    choose = _chosen if len(wanted) <= _REMEMBERED_ACCEPT else _chosen.__wrapped__
    best = choose(wanted, tuple(offers))
    if best is None:
        raise ClientError(
            406, f"There is {' and '.join(offers)}.", parameter="Accept", extra={"offers": offers}
        )
    return best


@lru_cache(maxsize=256)
def _chosen(wanted: str, offers: tuple[str, ...]) -> str | None:
    """The media type of `offers` that an Accept header likes best; None if it wants none."""
    # A charset is no part of what is negotiated; some clients name one all the same.
    accept = parse_accept_header(_CHARSET.sub("", wanted), MIMEAccept)
    best = max(offers, key=lambda offer: (accept.quality(offer), offer in accept.values()))
    return best if accept.quality(best) > 0 else None

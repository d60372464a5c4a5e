"""Problem documents (RFC 9457): how a client is told what it did wrong."""

from __future__ import annotations

from http import HTTPStatus

import msgspec
from twisted.web.iweb import IRequest

from pushd.errors import ClientError


def problem(error: ClientError) -> tuple[dict[str, str], bytes]:
    """The headers and the body that tell a client of `error`."""
    document: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": error.detail,
    }
    if error.parameter is not None:
        document["parameter"] = error.parameter
    body = msgspec.json.encode({**document, **error.extra}) + b"\n"
    headers = {
        "Content-Type": "application/problem+json",
        "Cache-Control": "no-store",
        "Content-Length": str(len(body)),
        **error.headers,
    }
    return headers, body


def write_problem(request: IRequest, error: ClientError) -> bytes:
    """Set status and headers of `request` for `error`; gives the body."""
    request.setResponseCode(error.status, HTTPStatus(error.status).phrase.encode())
    headers, body = problem(error)
    for name, value in headers.items():
        request.setHeader(name, value)
    return body

"""Problem documents (RFC 9457): how a client is told what it did wrong."""

from __future__ import annotations

from http import HTTPStatus

import msgspec
from twisted.web.iweb import IRequest

from pushd.errors import ClientError


def write_problem(request: IRequest, error: ClientError) -> bytes:
    """Set status and headers of `request` for `error`; gives the body."""
    status = HTTPStatus(error.status)
    request.setResponseCode(error.status, status.phrase.encode())
    request.setHeader("Content-Type", "application/problem+json")
    request.setHeader("Cache-Control", "no-store")
    for name, value in error.headers.items():
        request.setHeader(name, value)
    problem: dict[str, object] = {
        "type": "about:blank",
        "title": status.phrase,
        "status": error.status,
        "detail": error.detail,
    }
    if error.parameter is not None:
        problem["parameter"] = error.parameter
    body = msgspec.json.encode({**problem, **error.extra}) + b"\n"
    request.setHeader("Content-Length", str(len(body)))
    return body

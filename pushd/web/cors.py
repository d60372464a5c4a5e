"""Which other sites' pages may read and publish (WHATWG Fetch, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Collection

from twisted.web.iweb import IRequest

from pushd.web import asked

METHODS = "GET, HEAD, OPTIONS, POST"
_ALLOWED_HEADERS = ("last-event-id", "authorization", "cache-control", "content-type")


class Cors:
    """
    :param origins: ``https://app.example.com``; ``*`` stands for all, without credentials.
    :param headers: gives further request headers that pages may set, in lower case.
    """

    def __init__(self, origins: Collection[str], headers: Callable[[], Collection[str]]) -> None:
        self._origins = frozenset(origins)
        self._further = headers

    def apply(self, request: IRequest) -> None:
        """Set the response headers that let the page read the answer, if it may."""
        if not self._origins:
            return
        # Whatever the answer: a cache must not give one origin's to another.
        request.responseHeaders.addRawHeader("Vary", "Origin")
        origin = asked.header(request, "Origin")
        if origin is None:
            return
        if origin in self._origins:
            request.setHeader("Access-Control-Allow-Origin", origin)
            request.setHeader("Access-Control-Allow-Credentials", "true")
        elif "*" in self._origins:
            request.setHeader("Access-Control-Allow-Origin", "*")
        else:
            return
        request.setHeader("Access-Control-Expose-Headers", "ETag")
        if request.method == b"OPTIONS":
            request.setHeader("Access-Control-Allow-Methods", METHODS)
            further = sorted({*self._further()} - {*_ALLOWED_HEADERS})
            request.setHeader(
                "Access-Control-Allow-Headers", ", ".join([*_ALLOWED_HEADERS, *further])
            )
            request.setHeader("Access-Control-Max-Age", "86400")

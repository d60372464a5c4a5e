"""
The routes: which path is whose, and how every answer that is not a success looks.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from urllib.parse import unquote_to_bytes

from klein import Klein
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from pushd.errors import ClientError, HistoryError
from pushd.web.cors import METHODS, Cors
from pushd.web.monitoring import Monitoring
from pushd.web.pages import Pages
from pushd.web.plain import PlainRequest
from pushd.web.problem import write_problem
from pushd.web.publishing import Publishing
from pushd.web.reading import Reading

_LONGEST_PATH = 256
"""How many bytes of a path are worth remembering where it leads."""

_METHODS = ["GET", "HEAD", "OPTIONS", "POST"]
_ALLOW = {"Allow": METHODS}


class Root:
    """Everything that is served under one site."""

    app = Klein()
    # A redirect would end an EventSource of an old library (npm eventsource 2).
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = False
    log = Logger()

    def __init__(
        self,
        reading: Reading,
        publishing: Publishing,
        monitoring: Monitoring,
        pages: Pages,
        cors: Cors,
    ) -> None:
        self._reading = reading
        self._publishing = publishing
        self._monitoring = monitoring
        self._pages = pages
        self._cors = cors

    def resource(self) -> Resource:
        """What a site serves."""
        return _Checked(self, self.app.resource())

    def at_once(self, request: PlainRequest) -> bool:
        """
        Answer what needs not wait for anything, without all that Klein prepares for
        what may: that takes longer than all the rest of such an answer.

        :returns: whether it was answered; if not, nothing was done.
        """
        find = _route if len(request.path) <= _LONGEST_PATH else _route.__wrapped__
        endpoint, name = find(request.path)
        return endpoint == "topic" and self._reading.at_once(request, name, self._cors.apply)

    @app.route("/topics/<path:name>", methods=_METHODS)
    async def topic(self, request: IRequest, name: str) -> Any:
        """One topic."""
        self._cors.apply(request)
        if request.method == b"OPTIONS":
            return _options(request, METHODS)
        if request.method == b"POST":
            return await self._publishing.publish(request, name)
        return await self._reading.topic(request, name)

    @app.route("/events", methods=["GET", "HEAD", "OPTIONS"])
    async def events(self, request: IRequest) -> Any:
        """Several topics."""
        self._cors.apply(request)
        if request.method == b"OPTIONS":
            return _options(request, "GET, HEAD, OPTIONS")
        return await self._reading.events(request)

    @app.route("/", methods=["GET", "HEAD"])
    def front(self, request: IRequest) -> Any:
        """The page."""
        return self._pages.front(request)

    @app.route("/static/<name>", methods=["GET", "HEAD"])
    def static(self, request: IRequest, name: str) -> Any:
        """A file, such as a module that pages of other sites import to apply patches."""
        self._cors.apply(request)
        return self._pages.static(request, name)

    @app.route("/healthz", methods=["GET", "HEAD"])
    def health(self, request: IRequest) -> bytes:
        """Alive."""
        return self._monitoring.health(request)

    @app.route("/readyz", methods=["GET", "HEAD"])
    def readiness(self, request: IRequest) -> bytes:
        """Ready for clients."""
        return self._monitoring.readiness(request)

    @app.route("/metrics", methods=["GET", "HEAD"])
    def metrics(self, request: IRequest) -> bytes:
        """For Prometheus."""
        return self._monitoring.metrics(request)

    @app.handle_errors(ClientError)
    def refused(self, request: IRequest, failure: Failure) -> bytes:
        """What a client did wrong."""
        error = failure.value
        assert isinstance(error, ClientError)
        return write_problem(request, error)

    @app.handle_errors(HistoryError)
    def unrecorded(self, request: IRequest, failure: Failure) -> bytes:
        """What cannot be recorded or read just now."""
        detail = f"The history is not available: {failure.value}"
        return write_problem(request, ClientError(503, detail, headers={"Retry-After": "5"}))

    @app.handle_errors(HTTPException)
    def unrouted(self, request: IRequest, failure: Failure) -> bytes:
        """No route, or not with this method."""
        error = failure.value
        assert isinstance(error, HTTPException)
        self._cors.apply(request)
        if isinstance(error, MethodNotAllowed):
            allowed = ", ".join(sorted(error.valid_methods or ()))
            detail = f"Not with this method; allowed are {allowed}."
            return write_problem(request, ClientError(405, detail, headers={"Allow": allowed}))
        detail = "There is nothing here. Read /topics/TOPIC or /events?topic=TOPIC."
        return write_problem(request, ClientError(404, detail))

    @app.handle_errors(CancelledError)
    def left(self, request: IRequest, failure: Failure) -> None:
        """The client has gone; nobody is there to be answered."""

    @app.handle_errors(Exception)
    def broken(self, request: Any, failure: Failure) -> bytes:
        """A bug of ours: told to the log, not to the client."""
        if request.site.throttle.allows("answering failed"):
            self.log.failure("answering {method} failed", failure, method=request.method)
        return write_problem(request, ClientError(500, "pushd failed; its log says why."))


@lru_cache(maxsize=1024)
def _route(path: bytes) -> tuple[str, str]:
    """Where Klein leads a GET: the endpoint, and the name that it gets; "" for no such thing."""
    try:
        text = "/" + unquote_to_bytes(path[1:]).decode()
        endpoint, values = Root.app.url_map.bind("pushd").match(text, "GET")
    except (UnicodeDecodeError, HTTPException):
        return "", ""
    return endpoint, values.get("name", "")


class _Checked(Resource):
    """What Klein takes for granted: that path and method are text, and a method in capitals."""

    isLeaf = True

    def __init__(self, root: Root, inner: Resource) -> None:
        super().__init__()
        self._inner = inner
        self.at_once = root.at_once

    def render(self, request: IRequest) -> Any:
        error = _unreadable(request)
        if error is None:
            return self._inner.render(request)
        body = write_problem(request, error)
        # Twisted would log that a HEAD has one, with the whole URL and its token.
        return b"" if request.method == b"HEAD" else body


def _unreadable(request: IRequest) -> ClientError | None:
    try:
        b"/".join(request.postpath or ()).decode()
    except UnicodeDecodeError:
        return ClientError(400, "The path is not UTF-8.")
    # Klein would take "post" for a POST, which then is none.
    if not (request.method.isascii() and request.method.isupper()):
        return ClientError(405, f"Not with this method; allowed are {METHODS}.", headers=_ALLOW)
    return None


def _options(request: IRequest, methods: str) -> bytes:
    request.setResponseCode(204)
    request.setHeader("Allow", methods)
    return b""

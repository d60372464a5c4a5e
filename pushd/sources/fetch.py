"""
One bounded GET.

What an upstream can do to somebody who asks it once ends here: in time, in
memory, in whom we talk to, and in a sentence that says what went wrong. What a
body means, when to ask again and who wants to know will never be found here.

A :class:`~pushd.sources.connection.Connection` bounds what comes before a body, a
:class:`~pushd.sources.body.Body` the body; an :class:`_Exchange` is one request and
its response over one connection, and a :class:`Fetcher` follows redirects, repeats
what a stale connection swallowed, and keeps the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeVar, cast

import msgspec
from hyperlink import EncodedURL
from treq.client import HTTPClient
from treq.cookies import IndexableCookieJar
from twisted.internet.abstract import isIPAddress
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.error import (
    ConnectError,
    DNSLookupError,
)
from twisted.internet.interfaces import (
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from twisted.web.client import (
    URI,
    Agent,
    BrowserLikePolicyForHTTPS,
    HostnameCachingHTTPSPolicy,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import (
    UNKNOWN_LENGTH,
    IAgent,
    IAgentEndpointFactory,
    IBodyProducer,
    IPolicyForHTTPS,
    IResponse,
)
from zope.interface import implementer

from pushd.errors import SourceError
from pushd.sources.address import parsed, within
from pushd.sources.body import Body
from pushd.sources.connection import Connection, Connections, Pool, explained
from pushd.trust import trust_root

MAX_REDIRECTS = 5

_TIRED_OF_WAITING = 408
"""
On a kept connection this is about the time before our request, which it crossed
on its way: RFC 9110, section 15.5.9, lets us repeat that on another.
"""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_WINDOWS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
"""zlib's wbits for each content coding (RFC 9110, section 8.4.1)."""

_parsed = lru_cache(maxsize=10_000)(parsed)
"""The addresses that are polled, again and again. A redirect's are the upstream's to choose."""

_NOWHERE = EncodedURL()
"""What treq is asked for; the agent knows better. treq reads anew what is longer."""

T = TypeVar("T")


class Answer(msgspec.Struct, frozen=True):
    """
    What the upstream said, whatever the status.

    :ivar headers: without those of the hop, and without Content-Encoding.
    :ivar body: decompressed.
    """

    status: int
    headers: Headers
    body: bytes

    def header(self, name: str) -> str:
        """
        The values of a header, joined (RFC 9110, section 5.3); "" if there is none.

        An upstream may send any bytes. As strings, those that are no UTF-8 would be an
        error of ours.
        """
        values = self.headers.getRawHeaders(name.encode(), [])
        return b", ".join(values).decode(errors="replace")


class _NoCookies(IndexableCookieJar):
    """treq keeps cookies, and one topic's must not go out with another's: a jar that takes none."""

    def add_cookie_header(self, request: object) -> None:
        """See :class:`CookieJar`."""

    def extract_cookies(self, response: object, request: object) -> None:
        """See :class:`CookieJar`."""


_NO_COOKIES = _NoCookies()


class Fetcher:
    """
    Fetches, over connections that are kept for the next time.

    :param reactor: opens the connections and keeps the time.
    :param ca_file: PEM certificates to trust instead of the system's.
    :raises ConfigError: `ca_file` is not a file of certificates.
    """

    def __init__(
        self, reactor: IReactorTime, *, ca_file: str | None = None, user_agent: str = "pushd"
    ) -> None:
        self._reactor = reactor
        self._user_agent = user_agent
        trusted = None if ca_file is None else trust_root(ca_file)
        # One TLS context a host: to make one takes 4 ms, it reads the system's certificates.
        self._policy = HostnameCachingHTTPSPolicy(BrowserLikePolicyForHTTPS(trusted))
        self._pool = Pool(reactor)

    def trust_as(self, other: Fetcher) -> None:
        """Trust what `other` does, from the next connection on."""
        self._policy = other._policy

    def fetch(
        self, url: str, headers: Mapping[str, str], *, timeout: float, max_bytes: int
    ) -> Deferred[Answer]:
        """
        GET `url`. Cancelling the result closes the connection at once.

        :param url: goes out as written: what is percent-encoded is neither
            decoded nor encoded again. (Twisted drops a "?" or ";" with nothing
            behind it.) User, password and fragment are not sent.
        :param headers: of two names that differ in case only, the later counts.
            Accept-Encoding is ours.
        :param timeout: seconds for all of it, from the look-up of the name to
            the last byte of the body, redirects included.
        :param max_bytes: for the body, decompressed.

        The result fails with :class:`~pushd.errors.SourceError` for all that
        the upstream or the network does, with CancelledError if cancelled, and
        with ValueError if the name of a header is not one.
        """

        def too_late(_: object, seconds: float) -> Answer:
            raise SourceError(f"The source did not answer within {seconds:g} s.")

        work = Deferred.fromCoroutine(self._follow(url, headers, timeout, max_bytes))
        return _cancellable(work).addTimeout(timeout, self._reactor, onTimeoutCancel=too_late)

    def close(self) -> Deferred[None]:
        """Close the connections that are kept. Whoever fetches has cancelled that before."""
        return self._pool.close()

    async def _follow(
        self, url: str, given: Mapping[str, str], timeout: float, max_bytes: int
    ) -> Answer:
        """Go where the upstream sends us, within its origin: the headers are for nobody else."""
        headers = Headers({"User-Agent": [self._user_agent]})
        for name, value in given.items():
            headers.setRawHeaders(name, [value])
        # treq asks for gzip; a second line would ask for what we cannot read.
        headers.removeHeader("Accept-Encoding")
        try:
            origin, rest = _parsed(url)
        except ValueError as error:
            raise SourceError("The source's address is not valid.") from error
        for _ in range(1 + MAX_REDIRECTS):
            answer = await self._get(origin + rest, headers, timeout, max_bytes)
            locations = answer.headers.getRawHeaders(b"Location")
            if answer.status not in _REDIRECTS or not locations:
                return answer
            rest = within(origin, rest, locations[0])
        raise SourceError(f"The source redirects more than {MAX_REDIRECTS} times.")

    async def _get(self, url: str, headers: Headers, timeout: float, max_bytes: int) -> Answer:
        """One request; again if it met a kept connection that the upstream had closed."""
        while True:
            exchange = _Exchange(self._reactor, self._policy, self._pool, url, timeout)
            try:
                answer = await exchange.get(headers, max_bytes)
            except ResponseNeverReceived as error:
                # The pool's own retry would use a connection that we could not abort.
                # A fresh connection ends this: there is nothing stale about it.
                if exchange.fresh or _was_cancelled(error):
                    raise explained(error, exchange.connection) from error
            except (ConnectError, DNSLookupError, ResponseFailed) as error:
                raise explained(error, exchange.connection) from error
            else:
                if answer.status != _TIRED_OF_WAITING or exchange.fresh:
                    return answer
                exchange.abort()


@implementer(IAgent, IAgentEndpointFactory, IStreamClientEndpoint)
class _Exchange:
    """
    One request and its response.

    It is the agent that treq asks and the endpoint that the pool connects, and
    so the one who knows the connection: treq and Twisted cannot abort one whose
    response has begun.

    :ivar connection: the one in use; None while there is none.
    :ivar fresh: whether it was made for this exchange.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        policy: IPolicyForHTTPS,
        pool: Pool,
        url: str,
        timeout: float,
    ) -> None:
        self._reactor = reactor
        self._policy = policy
        self._pool = pool
        self._url = url.encode("ascii")
        self._timeout = timeout
        self._coding = b""
        self._uri: URI
        self.connection: Connection | None = None
        self.fresh = False

    async def get(self, headers: Headers, max_bytes: int) -> Answer:
        """The response with its body, or a connection that is closed."""
        client = HTTPClient(self, _NO_COOKIES)
        try:
            response = await client.get(
                # Not sent, see request().
                _NOWHERE,
                headers=headers,
                allow_redirects=False,
                unbuffered=True,
            )
            body = Body(
                self._window(response),
                max_bytes,
                None if response.length is UNKNOWN_LENGTH else response.length,
            )
            await response.collect(body.add)
        except BaseException:
            self.abort()
            raise
        # A body without a length ends with the connection, and Twisted takes any end for
        # that one. A reset is not an end (RFC 9112, section 8).
        if self.connection is not None and self.connection.broken:
            raise SourceError("The connection to the source broke in the middle of its answer.")
        # Hidden once already, but treq makes an empty one of none.
        response.headers.removeHeader(b"Content-Encoding")
        return Answer(response.code, response.headers, body.whole())

    def abort(self) -> None:
        """Close the connection, if there is one."""
        if self.connection is not None:
            self.connection.abortConnection()

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """
        See :class:`IAgent`. `uri` went through treq, which encodes some
        characters anew and refuses IPv6 addresses, so ours is asked instead.
        """
        agent = Agent.usingEndpointFactory(self._reactor, self, self._pool)
        sent: Deferred[IResponse] = agent.request(method, self._url, headers, bodyProducer)
        return sent.addCallback(self._head_received)

    def _head_received(self, response: IResponse) -> IResponse:
        """Hide the coding from treq, whose decoder has no limit."""
        assert self.connection is not None
        self.connection.head_received()
        codings = response.headers.getRawHeaders(b"Content-Encoding", [])
        self._coding = b",".join(codings).strip().lower()
        response.headers.removeHeader(b"Content-Encoding")
        return response

    def _window(self, response: IResponse) -> int | None:
        """The body's wbits for zlib; None if it is not compressed, or not there."""
        if response.length == 0 or self._coding in (b"", b"identity"):
            return None
        if self._coding not in _WINDOWS:
            raise SourceError("The answer is compressed in a way that was not asked for.")
        return _WINDOWS[self._coding]

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """See :class:`IAgentEndpointFactory`."""
        self._uri = uri
        return self

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """See :class:`IStreamClientEndpoint`. Asked only when no connection was kept."""
        self.fresh = True
        connected: Deferred[Any] = self._endpoint().connect(Connections(protocolFactory))
        return connected.addCallback(lambda connection: connection.wrappedProtocol)

    def _endpoint(self) -> IStreamClientEndpoint:
        """Where the connection leads."""
        host: bytes = self._uri.host
        name = host.decode("ascii")
        # HostnameEndpoint wants IDNA names, which have no underscore; and it asks
        # a thread for the address even of what is one, which takes longer than all the rest.
        plain = b"_" in host or isIPAddress(name)
        # Deadlines are fetch()'s. Twisted's own, 30 s, would cut a longer one short.
        kind = TCP4ClientEndpoint if plain else HostnameEndpoint
        endpoint: IStreamClientEndpoint = kind(self._reactor, name, self._uri.port, self._timeout)
        if self._uri.scheme != b"https":
            return endpoint
        creator = self._policy.creatorForNetloc(host, self._uri.port)
        return wrapClientTLS(creator, endpoint, self._reactor)

    def took(self, protocol: Any) -> Any:
        """The pool found or made a connection, `protocol` (HTTP11ClientProtocol) on it."""
        connection: Connection = protocol.transport
        connection.request_begins()
        self.connection = connection
        return protocol


def _cancellable(work: Deferred[T]) -> Deferred[T]:
    """
    `work`, but failing with CancelledError when cancelled, whatever Twisted
    makes of that: it depends on how far the connection is.
    """
    cancelled = False

    def cancel(_: Deferred[T]) -> None:
        nonlocal cancelled
        cancelled = True
        work.cancel()

    def finished(result: T | Failure) -> None:
        if not cancelled:
            outcome.callback(cast("T", result))

    outcome: Deferred[T] = Deferred(cancel)
    work.addBoth(finished)
    return outcome


def _was_cancelled(error: ResponseFailed) -> bool:
    return any(reason.check(CancelledError) for reason in error.reasons)

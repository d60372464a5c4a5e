"""
The demo's built-in upstream: a small HTTP API of stocks.

:class:`Market` is the thinking: ten fictional stocks whose prices move and
which come and go. It knows no Twisted; time and chance are given to it.
:class:`MarketResource` serves it, :class:`Upstream` is the site on loopback
which pushd polls, over real HTTP, when it runs without a configuration.
"""

from __future__ import annotations

import hashlib
import random
import socket
from collections import deque
from typing import Any, NamedTuple

import msgspec
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IListeningPort, IReactorTime
from twisted.web.http import Request
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import Site
from werkzeug.http import parse_etags

from pushd.config import Config, History, Source

STEP = 0.5
"""Seconds between two moves of the market."""

CATCH_UP = 240
"""How many steps are made up for at most; while nobody looks, the market rests."""


class Company(NamedTuple):
    """
    Who may be on the market.

    :ivar price: about what a share costs.
    :ivar activity: the chance that a share is traded in a step.
    :ivar volatility: the standard deviation of a trade's move, as a part of the price.
    """

    symbol: str
    name: str
    sector: str
    price: float
    activity: float
    volatility: float


COMPANIES = (
    Company("ALDR", "Alder Paper", "Materials", 84.20, 0.06, 0.0009),
    Company("BRKW", "Brookwell Foods", "Consumer", 46.75, 0.08, 0.0008),
    Company("CDNC", "Cadence Robotics", "Industrials", 212.40, 0.16, 0.0015),
    Company("DUNE", "Dunelight Solar", "Energy", 31.85, 0.13, 0.0021),
    Company("EMBR", "Emberline Power", "Utilities", 58.10, 0.05, 0.0007),
    Company("FJRD", "Fjord Shipping", "Transport", 127.60, 0.08, 0.0011),
    Company("GLYF", "Glyph Software", "Technology", 318.90, 0.21, 0.0013),
    Company("HRBP", "Harbor & Pine", "Real estate", 73.35, 0.04, 0.0007),
    Company("INKW", "Inkwell Media", "Media", 22.48, 0.09, 0.0018),
    Company("JNVA", "Junova Health", "Health", 141.05, 0.10, 0.0012),
    Company("KSTR", "Kestrel Air", "Transport", 39.95, 0.11, 0.0016),
    Company("LMRA", "Lumira Optics", "Technology", 164.25, 0.12, 0.0014),
    Company("NVRB", "Novara Bank", "Finance", 51.15, 0.09, 0.0009),
    Company("ORCG", "Orchard Genomics", "Health", 96.70, 0.13, 0.0024),
    Company("QRTZ", "Quartz Silicon", "Technology", 441.30, 0.23, 0.0017),
    Company("TDLW", "Tidal Works", "Energy", 17.92, 0.08, 0.0019),
)

LISTED = 10
"""How many stocks there are, but for a moment."""

_LEAVING_OR_ENTERING = 0.04
"""The chance in a step that a full market changes: about every 12 seconds."""

_EVENING_OUT = 0.2
"""The chance in a step that a market with one stock too many or too few becomes full again."""

_REVERSION = 0.004
"""How much of its distance from the opening price a trade takes back: no price runs away."""


class Quote(msgspec.Struct, frozen=True):
    """
    What the API tells about a stock.

    :ivar change: of the price since the opening, in percent.
    :ivar volume: shares traded since the opening.
    """

    symbol: str
    name: str
    sector: str
    price: float
    change: float
    volume: int


class Stock:
    """A company's share while it is on the market. Prices are whole cents."""

    def __init__(self, company: Company, chance: random.Random) -> None:
        self.company = company
        self.open = round(company.price * chance.gauss(1, 0.01), 2)
        self.price = round(self.open * chance.gauss(1, 0.008), 2)
        self.volume = chance.randrange(20_000, 900_000, 100)

    def trade(self, chance: random.Random) -> None:
        """Change hands, for a little more or less."""
        step = chance.gauss(0, self.company.volatility) * self.price
        back = _REVERSION * (self.open - self.price)
        self.price = max(0.01, round(self.price + step + back, 2))
        self.volume += chance.randrange(100, 4_000, 100)

    def quote(self) -> Quote:
        """What is told about it now."""
        change = round((self.price / self.open - 1) * 100, 2)
        return Quote(
            self.company.symbol,
            self.company.name,
            self.company.sector,
            self.price,
            change or 0.0,  # -0.0 would be printed with its sign
            self.volume,
        )


class Market:
    """
    Nine to eleven stocks, mostly ten.

    :param chance: decides everything: the same one tells the same story.
    :param now: the time at which the market opens, in seconds.
    """

    def __init__(self, chance: random.Random, now: float) -> None:
        self._chance = chance
        self._moved = now
        shuffled = chance.sample(COMPANIES, len(COMPANIES))
        self._listed = {company.symbol: Stock(company, chance) for company in shuffled[:LISTED]}
        self._waiting = deque(shuffled[LISTED:])

    def advance(self, now: float) -> None:
        """Let happen what has happened until `now`."""
        steps = int((now - self._moved) / STEP)
        self._moved += steps * STEP
        for _ in range(min(steps, CATCH_UP)):
            self._step()

    def quotes(self) -> list[Quote]:
        """All stocks, by symbol."""
        return [self._listed[symbol].quote() for symbol in sorted(self._listed)]

    def _step(self) -> None:
        for stock in self._listed.values():
            if self._chance.random() < stock.company.activity:
                stock.trade(self._chance)
        surplus = len(self._listed) - LISTED
        if self._chance.random() < (_EVENING_OUT if surplus else _LEAVING_OR_ENTERING):
            if surplus > 0 or (surplus == 0 and self._chance.random() < 0.5):  # noqa: PLR2004
                self._leave()
            else:
                self._enter()

    def _leave(self) -> None:
        symbol = self._chance.choice(sorted(self._listed))
        # It queues at the end: whoever has just left does not come back at once.
        self._waiting.append(self._listed.pop(symbol).company)

    def _enter(self) -> None:
        company = self._waiting.popleft()
        self._listed[company.symbol] = Stock(company, self._chance)


class MarketResource(Resource):
    """
    ``GET`` answers ``{"stocks": [...]}``. While nothing has moved, whoever
    says what it has (``If-None-Match``) is answered 304.
    """

    isLeaf = True

    def __init__(self, market: Market, clock: IReactorTime) -> None:
        super().__init__()
        self._market = market
        self._clock = clock

    def render_GET(self, request: IRequest) -> bytes:
        """The market now."""
        self._market.advance(self._clock.seconds())
        body = msgspec.json.encode({"stocks": self._market.quotes()})
        etag = hashlib.blake2b(body, digest_size=8).hexdigest()
        request.setHeader("ETag", f'"{etag}"')
        request.setHeader("Cache-Control", "no-cache")
        if parse_etags(request.getHeader("If-None-Match")).contains_weak(etag):
            request.setResponseCode(304)
            return b""
        request.setHeader("Content-Type", "application/json")
        request.setHeader("Content-Length", str(len(body)))
        return body


class _QuietSite(Site):
    """A site without access log: one poll a second would drown the daemon's own."""

    noisy = False

    def log(self, request: Request) -> None:
        """Called when a request has been answered."""


class Upstream:
    """
    The demo's API on a port of its own on loopback.

    The port is taken at once, so that :meth:`config` can name it.

    :param reactor: runs it.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self._number = self._socket.getsockname()[1]
        self._port: IListeningPort | None = None

    def config(self) -> Config:
        """A configuration with one source, ``stocks``: this API."""
        url = f"http://127.0.0.1:{self._number}/stocks"
        stocks = Source(url=url, topic="stocks", every=1.0, select="stocks[]", emit="patch")
        return Config(history=History(backend="memory"), sources={"stocks": stocks})

    def start(self) -> None:
        """Begin to answer."""
        market = Market(random.Random(), self._reactor.seconds())
        site = _QuietSite(MarketResource(market, self._reactor))
        # The port is Twisted's from here on, through a descriptor of its own.
        with self._socket as taken:
            self._port = self._reactor.adoptStreamPort(taken.fileno(), taken.family, site)

    async def stop(self) -> None:
        """Give the port back."""
        self._socket.close()
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)

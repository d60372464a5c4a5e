"""The demo's upstream, and the page's files as far as they can be judged without a browser."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonpatch
import msgspec
import pytest
import treq
from twisted.internet import reactor
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web.client import Agent
from twisted.web.server import Site

from pushd.demo import CATCH_UP, COMPANIES, STEP, Market, MarketResource, Upstream

STATIC = Path(__file__).parent.parent / "pushd" / "static"


def opened(seed: int = 1) -> Market:
    return Market(random.Random(seed), 0.0)


def told(market: Market) -> list[dict[str, Any]]:
    return msgspec.to_builtins(market.quotes())


def seconds(market: Market, count: int) -> Iterator[list[dict[str, Any]]]:
    """What the market tells in each of so many seconds."""
    for second in range(1, count + 1):
        market.advance(float(second))
        yield told(market)


# The market.


def test_a_market_opens_with_ten_different_stocks_in_the_order_of_their_symbols() -> None:
    symbols = [stock["symbol"] for stock in told(opened())]
    assert len(set(symbols)) == 10
    assert symbols == sorted(symbols)


def test_a_stock_tells_its_symbol_name_sector_price_change_and_volume() -> None:
    for stock in told(opened()):
        assert list(stock) == ["symbol", "name", "sector", "price", "change", "volume"]
        assert stock["price"] == round(stock["price"], 2) > 0
        assert stock["change"] == round(stock["change"], 2)
        assert isinstance(stock["volume"], int)


def test_there_are_between_nine_and_eleven_stocks_and_mostly_ten() -> None:
    sizes = Counter(len(stocks) for stocks in seconds(opened(), 5_000))
    assert set(sizes) == {9, 10, 11}
    assert sizes[10] > 3_500


def test_stocks_come_and_go_until_every_company_has_had_its_turn() -> None:
    seen = {stock["symbol"] for stocks in seconds(opened(), 600) for stock in stocks}
    assert seen == {company.symbol for company in COMPANIES}


def test_somebody_comes_or_goes_a_few_times_a_minute() -> None:
    lists = [tuple(stock["symbol"] for stock in stocks) for stocks in seconds(opened(), 3_000)]
    changes = sum(before != after for before, after in pairwise(lists))
    assert 3 <= changes / 50 <= 12


def test_who_has_just_left_does_not_come_back_at_once() -> None:
    lists = [{stock["symbol"] for stock in stocks} for stocks in seconds(opened(), 2_000)]
    for before, after, later in zip(lists, lists[1:], lists[2:], strict=False):
        assert not (before - after) & later


def test_in_most_seconds_some_prices_move_and_most_stand_still() -> None:
    market = opened()
    before = {stock["symbol"]: stock["price"] for stock in told(market)}
    moved = []
    for stocks in seconds(market, 1_000):
        after = {stock["symbol"]: stock["price"] for stock in stocks}
        moved.append(sum(after[symbol] != before.get(symbol) for symbol in after))
        before = after
    assert 1 < sum(moved) / len(moved) < 4
    assert sum(1 <= count <= 6 for count in moved) > 850


def test_prices_move_by_small_steps_and_none_runs_away() -> None:
    usual = {company.symbol: company.price for company in COMPANIES}
    last: dict[str, float] = {}
    for stocks in seconds(opened(), 20_000):
        for stock in stocks:
            symbol, price = stock["symbol"], stock["price"]
            assert 0.7 < price / usual[symbol] < 1.4
            assert abs(price / last.get(symbol, price) - 1) < 0.02
        last = {stock["symbol"]: stock["price"] for stock in stocks}


def test_volumes_only_grow_while_a_stock_is_listed() -> None:
    last: dict[str, int] = {}
    for stocks in seconds(opened(), 2_000):
        for stock in stocks:
            assert stock["volume"] >= last.get(stock["symbol"], 0)
        last = {stock["symbol"]: stock["volume"] for stock in stocks}


def test_a_change_of_nothing_has_no_sign() -> None:
    changes = [str(stock["change"]) for stocks in seconds(opened(), 5_000) for stock in stocks]
    assert "0.0" in changes
    assert "-0.0" not in changes


def test_a_second_s_changes_weigh_less_than_half_of_the_document() -> None:
    market = opened()
    before, patches, documents = told(market), 0, 0
    for after in seconds(market, 500):
        patches += len(msgspec.json.encode(jsonpatch.make_patch(before, after).patch))
        documents += len(msgspec.json.encode(after))
        before = after
    assert patches < documents / 2


def test_the_same_seed_tells_the_same_story_however_often_it_is_asked() -> None:
    often, seldom = opened(7), opened(7)
    for now in range(100):
        often.advance(now / 3)
    seldom.advance(33.0)
    assert told(often) == told(seldom) != told(opened(7))


def test_other_seeds_tell_other_stories() -> None:
    assert told(opened(1)) != told(opened(2))


def test_between_two_steps_nothing_moves() -> None:
    market = opened()
    market.advance(10.0)
    before = told(market)
    market.advance(10.0 + STEP * 0.99)
    assert told(market) == before


def test_a_market_nobody_looked_at_for_days_does_not_make_up_for_all_of_them() -> None:
    rested, busy = opened(), opened()
    rested.advance(1e6)
    busy.advance(CATCH_UP * STEP)
    assert told(rested) == told(busy)
    rested.advance(1e6 + STEP)
    busy.advance(CATCH_UP * STEP + STEP)
    assert told(rested) == told(busy)


# What serves it.


class Client:
    """Somebody who asks a market over HTTP, without a socket, by a clock of the test's."""

    def __init__(self) -> None:
        self.clock = Clock()
        self._site = Site(MarketResource(opened(), self.clock), reactor=self.clock)
        self._site.startFactory()

    def ask(self, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        channel = self._site.buildProtocol(None)
        transport = StringTransport()
        channel.makeConnection(transport)
        lines = [f"{method} /stocks HTTP/1.1", "Host: localhost", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        channel.dataReceived("\r\n".join([*lines, "", ""]).encode())
        head, _, body = transport.value().partition(b"\r\n\r\n")
        status, *fields = head.decode().split("\r\n")
        named = dict(field.lower().split(": ", 1) for field in fields)
        return int(status.split()[1]), named, body


def test_the_api_answers_the_stocks_as_json_with_an_etag() -> None:
    code, headers, body = Client().ask()
    assert code == 200
    assert headers["content-type"] == "application/json"
    assert headers["cache-control"] == "no-cache"
    assert re.fullmatch(r'"[0-9a-f]+"', headers["etag"])
    assert json.loads(body) == {"stocks": told(opened())}


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "*"])
def test_who_has_the_current_state_is_answered_304_without_a_body(form: str) -> None:
    client = Client()
    etag = client.ask()[1]["etag"]
    client.clock.advance(STEP / 2)
    code, headers, body = client.ask(If_None_Match=form.format(etag))
    assert (code, body) == (304, b"")
    assert headers["etag"] == etag


def test_who_has_an_older_state_is_answered_the_new_one() -> None:
    client = Client()
    etag = client.ask()[1]["etag"]
    client.clock.advance(10.0)
    code, headers, body = client.ask(If_None_Match=etag)
    assert code == 200
    assert headers["etag"] != etag
    assert len(body) == int(headers["content-length"])


def test_the_clock_moves_the_market() -> None:
    client = Client()
    bodies = set()
    for _ in range(30):
        client.clock.advance(1.0)
        bodies.add(client.ask()[2])
    assert len(bodies) > 25


def test_head_answers_the_headers_alone() -> None:
    client = Client()
    assert client.ask("HEAD")[2] == b""
    assert client.ask("HEAD")[1]["content-length"] == client.ask()[1]["content-length"]


async def test_the_upstream_answers_at_the_url_its_configuration_names_until_it_is_stopped() -> (
    None
):
    upstream = Upstream(reactor)
    source = upstream.config().sources["stocks"]
    assert (source.topic, source.select, source.emit, source.every) == (
        "stocks",
        "stocks[]",
        "patch",
        1.0,
    )
    upstream.start()
    try:
        client = treq.client.HTTPClient(Agent(reactor))
        response = await client.get(source.url, headers={"Connection": "close"})
        assert len((await response.json())["stocks"]) == 10
    finally:
        await upstream.stop()
    with pytest.raises(Exception, match="refused"):
        await client.get(source.url)


async def test_an_upstream_that_never_began_gives_its_port_back_too() -> None:
    upstream = Upstream(reactor)
    await upstream.stop()


# The page, as far as it can be judged without a browser.


def parts(name: str, pattern: str) -> list[str]:
    return re.findall(pattern, (STATIC / name).read_text("utf-8"))


def test_the_page_and_its_scripts_refer_only_to_files_that_are_there() -> None:
    named = parts("index.html", r'(?:src|href)="([^"]*)"')
    assert named
    assert all(name.startswith("/static/") for name in named)
    for script in STATIC.glob("*.js"):
        named += ["/static" + name[1:] for name in parts(script.name, r'from "([^"]*)"')]
    for name in named:
        assert (STATIC / name.removeprefix("/static/")).is_file(), name


def test_the_page_needs_no_more_than_a_strict_content_security_policy_allows() -> None:
    assert not parts("index.html", r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)")
    for path in STATIC.iterdir():
        assert not parts(path.name, r"\beval\(|innerHTML|@import|url\(|javascript:"), path


def test_nothing_is_loaded_from_anywhere_else() -> None:
    for path in STATIC.iterdir():
        others = [url for url in parts(path.name, r"https?://[^\s\"'`]*") if "w3.org" not in url]
        assert others == [], path


def test_every_element_that_a_script_asks_for_is_on_the_page() -> None:
    there = set(parts("index.html", r'\sid="([^"]*)"'))
    asked = set(parts("demo.js", r'(?:byId|tell)\(\s*"([^"]*)"'))
    assert len(asked) > 15
    assert asked <= there

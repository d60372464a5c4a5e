"""Whether it works: told to machines, in bounded answers, and nobody's secrets among it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from house import House
from served import Served
from twisted.web.test.requesthelper import DummyRequest
from upstream import Request, Upstream, answer, until

from pushd.config import Config
from pushd.hub import Hub
from pushd.metrics import Metrics
from pushd.sources.catalogue import Catalogue
from pushd.web.monitoring import LONGEST_REASON, Monitoring


def good(_: Request) -> Any:
    yield answer(b"[1]", "200 OK", "Content-Type: application/json")


def bad(request: Request) -> Any:
    """Says something else to everybody."""
    name = request.target.rpartition("/")[2]
    yield answer(b"x", "200 OK", f"Content-Type: text/{name}")


def configured(upstream: Upstream) -> str:
    return f"""
    [sources.one]
    url = "{upstream.url("/one")}"
    every = 0.05
    [sources.many]
    topic = "many/{{x}}"
    url = "{upstream.url("/{x}")}"
    forward_headers = ["Authorization"]
    every = 0.05
    """


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_it_is_asked_by_get_and_head_and_never_cached(path: str) -> None:
    async with Served() as served:
        got = await served.ask(path)
        head = await served.ask(path, "HEAD")
        assert (got.status, head.status) == (200, 200)
        assert got.headers["cache-control"] == head.headers["cache-control"] == "no-store"
        assert int(got.headers["content-length"]) == len(got.raw_body)
        assert head.raw_body == b""
        assert (await served.ask(path, "POST")).status == 405


async def test_it_is_alive_while_it_answers() -> None:
    async with Served() as served:
        health = await served.ask("/healthz")
        assert (health.body, health.headers["content-type"]) == (
            b"ok\n",
            "text/plain; charset=utf-8",
        )


async def test_it_is_ready_and_says_how_its_sources_are_doing() -> None:
    async with Upstream(good) as upstream, Served(configured(upstream)) as served:
        stream = await served.stream("/topics/one")
        await stream.until(lambda: stream.page.documents)
        assert (await served.ask("/topics/many/a", accept="application/json")).status == 200
        ready = await served.ask("/readyz")
        assert ready.headers["content-type"] == "application/json"
        nothing = {"stale": 0, "error": 0, "reasons": []}
        assert ready.json == {
            "ready": True,
            "history": "open",
            "draining": False,
            "streams": 1,
            "sources": {
                "one": {"topics": 1, "watched": 1, "ok": 1, **nothing},
                "many/{x}": {"topics": 1, "watched": 0, "ok": 1, **nothing},
            },
        }


async def test_a_source_that_fails_does_not_make_it_unready_and_the_answer_is_bounded() -> None:
    async with Upstream(bad) as upstream, Served(configured(upstream)) as served:
        names = [f"topic{n}" for n in range(40)]
        query = "&".join(f"topic=many/{name}" for name in names)
        stream = await served.stream(f"/events?{query}")
        stream.page.envelope = True
        await stream.until(lambda: len(stream.page.statuses) == len(names))
        ready = await served.ask("/readyz")
        assert (ready.status, ready.json["ready"]) == (200, True)
        many = ready.json["sources"]["many/{x}"]
        assert (many["topics"], many["watched"], many["error"]) == (40, 40, 40)
        assert many["reasons"] == [
            f"The answer is text/topic{n}, not JSON." for n in range(len(many["reasons"]))
        ]
        assert len(many["reasons"]) == 3
        metrics = (await served.ask("/metrics")).body.decode()
        assert 'pushd_topics{source="many/{x}",state="error"} 40.0' in metrics
        assert "topic1" not in metrics


async def test_what_ails_a_private_topic_is_not_told_to_others() -> None:
    async with Upstream(bad) as upstream, Served(configured(upstream)) as served:
        stream = await served.stream("/topics/many/mine?header=Authorization:x")
        await stream.until(lambda: stream.page.statuses)
        ready = await served.ask("/readyz")
        assert ready.json["sources"]["many/{x}"]["error"] == 1
        assert b"mine" not in ready.body


async def test_what_an_upstream_says_is_cut_short() -> None:
    async with Upstream(bad) as upstream, Served(configured(upstream)) as served:
        await served.ask(f"/topics/many/{250 * 'x'}", accept="application/json")
        (reason,) = (await served.ask("/readyz")).json["sources"]["many/{x}"]["reasons"]
        assert len(reason) == LONGEST_REASON


async def test_metrics_follow_streams_polls_and_deliveries() -> None:
    async with Upstream(good) as upstream, Served(configured(upstream)) as served:

        async def metrics() -> str:
            answered = await served.ask("/metrics")
            assert answered.headers["content-type"].startswith("text/plain; version=")
            return answered.body.decode()

        assert 'pushd_polls_total{outcome="changed",source="one"} 0.0' in await metrics()
        stream = await served.stream("/topics/one")
        await stream.until(lambda: stream.page.documents)
        await until(lambda: len(upstream.requests) > 2)
        told = await metrics()
        assert 'pushd_streams{transport="sse"} 1.0' in told
        assert 'pushd_streams_opened_total{transport="sse"} 1.0' in told
        assert 'pushd_polls_total{outcome="changed",source="one"} 1.0' in told
        assert 'pushd_polls_total{outcome="same",source="one"} 0.0' not in told
        assert 'pushd_topics{source="one",state="ok"} 1.0' in told
        assert "pushd_events_total 1.0" in told
        assert "pushd_delivery_seconds_count 1.0" in told
        stream.abort()
        await until(lambda: len(served.daemon.feeds) == 0)
        assert 'pushd_streams{transport="sse"} 0.0' in await metrics()


class Asked:
    """Monitoring without a daemon."""

    def __init__(self, hub: Any, feeds: Any, draining: bool) -> None:
        catalogue = Catalogue(Config(), hub, lambda *_: None)  # type: ignore[arg-type,return-value]
        monitoring = Monitoring(hub, feeds, catalogue, Metrics(), lambda: draining)
        self.request: Any = DummyRequest([b"readyz"])
        self.told = json.loads(monitoring.readiness(self.request))


def test_who_sends_clients_away_is_not_ready_for_others() -> None:
    house = House()
    asked = Asked(house.hub, house.feeds, draining=True)
    assert asked.request.responseCode == 503
    assert (asked.told["ready"], asked.told["draining"]) == (False, True)


def test_without_its_history_it_is_not_ready() -> None:
    house = House()
    asked = Asked(
        Hub(house.history, house.clock, house.now, house.metrics), house.feeds, draining=False
    )
    assert asked.request.responseCode == 503
    assert (asked.told["ready"], asked.told["history"]) == (False, "closed")


def test_a_history_that_cannot_record_is_told_and_goes_on_serving() -> None:
    house = House()
    house.hub.unavailable("The disk is full.")
    asked = Asked(house.hub, house.feeds, draining=False)
    assert (asked.told["ready"], asked.told["history"]) == (True, "The disk is full.")

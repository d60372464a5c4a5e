"""How a source is doing: ok, error, stale, and when each is told."""

from __future__ import annotations

from typing import Any

import pytest
from house import House
from twisted.logger import formatEvent

from pushd.sources.health import Health
from pushd.throttle import MOST, SECONDS, Throttle
from pushd.topic import DocumentTopic


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
def topic(house: House) -> DocumentTopic:
    return house.document("d")


@pytest.fixture
def health(house: House, topic: DocumentTopic) -> Health:
    return Health(topic, house.hub, house.clock, patience=5.0)


def test_a_source_that_never_answered_is_not_stale(
    house: House, topic: DocumentTopic, health: Health
) -> None:
    health.watched()
    house.clock.advance(1000)
    assert topic.status.state == "ok"


def test_a_source_is_stale_when_its_last_good_answer_is_too_old(
    house: House, topic: DocumentTopic, health: Health
) -> None:
    health.watched()
    health.answered(fresh=10)
    house.clock.advance(14)
    assert topic.status.state == "ok"
    house.clock.advance(1)
    assert (topic.status.state, topic.status.reason) == ("stale", "No good answer for 5 s or more.")
    health.answered(fresh=0)
    assert topic.status.state == "ok"


def test_an_error_is_not_made_milder_by_its_age(
    house: House, topic: DocumentTopic, health: Health
) -> None:
    health.watched()
    health.answered(fresh=0)
    health.failed("Why.")
    house.clock.advance(100)
    assert (topic.status.state, topic.status.reason) == ("error", "Why.")


def test_the_log_says_when_it_breaks_and_when_it_is_well_again(
    health: Health, capture: list[dict[str, Any]]
) -> None:
    health.failed("Why.")
    health.failed("Why.")
    health.answered(fresh=0)
    said = [
        formatEvent(event) for event in capture if event.get("log_namespace", "").endswith("Health")
    ]
    assert said == ["source of 'd': error. Why.", "source of 'd': ok"]


def test_nobody_is_told_while_nobody_listens(
    house: House, topic: DocumentTopic, health: Health
) -> None:
    health.watched()
    health.answered(fresh=0)
    health.unwatched()
    house.clock.advance(100)
    assert topic.status.state == "ok"
    assert house.clock.getDelayedCalls() == []
    health.watched()
    house.clock.advance(0.5)
    assert topic.status.state == "ok"
    house.clock.advance(0.5)
    assert topic.status.state == "stale"


def test_what_another_node_asked_until_now_is_not_stale_yet(
    house: House, topic: DocumentTopic, health: Health
) -> None:
    health.answered(fresh=0)
    house.clock.advance(1000)
    health.heard("ok", None)
    health.watched()
    house.clock.advance(4.9)
    assert topic.status.state == "ok"
    house.clock.advance(0.2)
    assert topic.status.state == "stale"


def test_what_another_node_says_is_told_here(
    house: House, topic: DocumentTopic, health: Health
) -> None:
    health.heard("error", "Why.")
    assert (topic.status.state, topic.status.reason) == ("error", "Why.")
    health.heard("ok", None)
    assert topic.status.state == "ok"


def test_of_many_topics_of_a_template_readers_are_told_and_the_log_a_few(
    house: House, capture: list[dict[str, Any]]
) -> None:
    throttle = Throttle(house.clock)

    def may_say(state: str) -> bool:
        return throttle.allows(f"source of 'quotes/{{symbol}}': {state}")

    topics = [house.document(f"quotes/{number}") for number in range(MOST + 7)]
    for topic in topics:
        Health(topic, house.hub, house.clock, 5.0, may_say).failed("It answered with 404.")
    assert {topic.status.state for topic in topics} == {"error"}
    assert len(capture) == MOST
    house.clock.advance(SECONDS)
    assert formatEvent(capture[-1]) == "7 more within 10 s: source of 'quotes/{symbol}': error"

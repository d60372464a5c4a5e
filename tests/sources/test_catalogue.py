"""What stands behind a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import unquote, urlsplit

import pytest
from house import House, Silent, now
from hypothesis import given
from hypothesis import strategies as st

from pushd import config
from pushd.config import Source
from pushd.errors import BusyError, ClientError
from pushd.interfaces import ISource
from pushd.sources.catalogue import Catalogue, expand
from pushd.sources.directory import Pattern
from pushd.topic import DocumentTopic, MessageTopic, Topic

TEXT = """
[sources.stocks]
url = "https://api.example/stocks"
forward_headers = ["Authorization", "X-Tenant"]
headers = { Authorization = "Bearer ours", X-Client = "pushd" }
[sources.quotes]
topic = "quotes/{symbol}"
url = "https://api.example/q/{symbol}?s={symbol}"
max_topics = 3
"""
PUBLISH = '[publish]\ntokens = ["secret"]\n'


class Shelf:
    """A catalogue, and the pollers that it had built."""

    def __init__(self, text: str = TEXT) -> None:
        self.house = House()
        self.built: list[tuple[str, str, dict[str, str]]] = []
        self.fillers: list[tuple[Silent, ISource | None]] = []
        self.catalogue = Catalogue(config.parse(text, {}), self.house.hub, self._build)

    def _build(
        self,
        topic: DocumentTopic,
        source: Source,
        url: str,
        headers: Mapping[str, str],
        forgotten: Callable[[], None],
        before: ISource | None,
    ) -> Silent:
        self.built.append((topic.key, url, dict(headers)))
        silent = Silent()
        silent.forgotten = forgotten  # type: ignore[method-assign]
        self.fillers.append((silent, before))
        return silent

    def topic(self, name: str, **headers: str) -> Topic:
        given = {header.replace("_", "-"): value for header, value in headers.items()}
        [topic] = now(self.catalogue.topics([name], given))
        assert isinstance(topic, Topic)
        return topic

    def refuses(self, name: str) -> ClientError:
        with pytest.raises(ClientError) as raised:
            self.topic(name)
        return raised.value


def test_a_source_is_a_topic() -> None:
    shelf = Shelf()
    topic = shelf.topic("stocks")
    assert isinstance(topic, DocumentTopic)
    assert shelf.topic("stocks") is topic
    assert shelf.built == [
        (
            "stocks",
            "https://api.example/stocks",
            {"Authorization": "Bearer ours", "X-Client": "pushd"},
        )
    ]


def test_a_template_is_a_topic_for_each_value() -> None:
    shelf = Shelf()
    assert shelf.topic("quotes/A") is not shelf.topic("quotes/B & Ü")
    assert [url for _, url, _ in shelf.built] == [
        "https://api.example/q/A?s=A",
        "https://api.example/q/B%20%26%20%C3%9C?s=B%20%26%20%C3%9C",
    ]


@given(st.text(min_size=1))
def test_a_value_cannot_leave_its_place(value: str) -> None:
    template = "https://api.example/q/{v}/end?s={v}&t=1"
    url = expand(template, {"v": value.encode("utf-8", "ignore").decode()})
    if url is None:
        assert value in (".", "..")
        return
    split = urlsplit(url)
    assert (split.scheme, split.netloc, split.fragment) == ("https", "api.example", "")
    assert split.path.count("/") == 3 and split.path.endswith("/end")
    assert split.query.count("&") == 1 and split.query.count("=") == 2
    assert url.isascii() and url.isprintable() and " " not in url
    assert unquote(split.path.split("/")[2]) == value.encode("utf-8", "ignore").decode()


@pytest.mark.parametrize(
    ("template", "values"),
    [
        ("https://a/{v}", {"v": ".."}),
        ("https://a/{v}", {"v": "."}),
        ("https://a/{v}{w}", {"v": ".", "w": "."}),
        ("https://a/.{v}", {"v": "."}),
        ("https://a/%2e{v}/b", {"v": "."}),
    ],
)
def test_a_value_cannot_walk_up_the_path(template: str, values: dict[str, str]) -> None:
    assert expand(template, values) is None


def test_a_pattern_takes_no_slash_and_nothing_empty() -> None:
    pattern = Pattern("a.b/{x}-{y}/c")
    assert pattern.match("a.b/1-2/c") == {"x": "1", "y": "2"}
    for name in ("aXb/1-2/c", "a.b/1-/c", "a.b/1/2-3/c", "a.b/1-2/c/", "a.b/1-2/c\n"):
        assert pattern.match(name) is None


@pytest.mark.parametrize(
    "name", ["quotes/..", "quotes/.", "quotes/", "quotes/a/b", "quotes/a\r\nb"]
)
def test_names_that_do_not_fit_are_unknown(name: str) -> None:
    assert Shelf().refuses(name).status == 404


def test_names_have_the_length_that_the_configuration_allows() -> None:
    shelf = Shelf("[server]\nmax_topic_name = 300\n" + PUBLISH + TEXT)
    longest = "quotes/" + "x" * 293
    assert shelf.topic(longest).name == longest
    assert shelf.catalogue.message_topic("n" * 300)
    error = shelf.refuses(longest + "x")
    assert error.status == 404
    assert "at most 300 characters" in error.detail and "xx" not in error.detail
    with pytest.raises(ClientError) as raised:
        shelf.catalogue.message_topic("n" * 301)
    assert raised.value.status == 400
    assert "at most 300 characters" in raised.value.detail


def test_a_source_wants_the_headers_that_it_forwards() -> None:
    shelf = Shelf(PUBLISH + TEXT)
    assert shelf.catalogue.wanted(["stocks"]) == {"authorization", "x-tenant"}
    assert shelf.catalogue.wanted(["quotes/A", "stocks"]) == {"authorization", "x-tenant"}
    assert shelf.catalogue.wanted(["quotes/A", "news", "a//b"]) == set()


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    error = Shelf().refuses("stoks")
    assert (error.status, error.parameter, error.extra) == (404, "topic", {"nearest": ["stocks"]})
    assert Shelf().refuses("quotes").extra == {"nearest": ["quotes/{symbol}"]}
    assert Shelf().refuses("zzz").extra == {"nearest": []}


def test_each_set_of_forwarded_values_has_a_topic_of_its_own() -> None:
    shelf = Shelf()
    topics = {
        shelf.topic("stocks"),
        shelf.topic("stocks", cookie="not forwarded"),
        shelf.topic("stocks", authorization="Bearer a"),
        shelf.topic("stocks", authorization="Bearer b"),
        shelf.topic("stocks", authorization="Bearer a", x_tenant="t"),
    }
    assert len(topics) == 4
    assert {topic.name for topic in topics} == {"stocks"}
    assert shelf.topic("stocks", authorization="Bearer a") in topics
    assert shelf.built[1][2] == {"Authorization": "Bearer a", "X-Client": "pushd"}
    assert all("Bearer" not in key for key, _, _ in shelf.built)


def test_a_private_topic_cannot_be_reached_by_its_key() -> None:
    shelf = Shelf()
    key = shelf.topic("stocks", authorization="Bearer a").key
    assert shelf.refuses(key).status == 404


def test_a_template_has_only_so_many_topics_and_those_that_linger_make_room() -> None:
    shelf = Shelf()
    watched = [shelf.topic(f"quotes/{n}") for n in range(3)]
    for topic in watched:
        shelf.house.hub.watch(topic)
    error = shelf.refuses("quotes/more")
    assert isinstance(error, BusyError)
    assert (error.status, error.headers) == (503, {"Retry-After": "10"})
    assert error.why == "max_topics"
    assert shelf.topic("quotes/1") is watched[1]
    shelf.house.hub.unwatch(watched[1])
    shelf.topic("quotes/more")
    assert "quotes/1" not in shelf.house.hub.topics


def test_more_topics_at_once_than_a_source_may_have_are_never_to_be_had() -> None:
    shelf = Shelf()
    names = [f"quotes/{n}" for n in range(4)]
    with pytest.raises(ClientError) as raised:
        now(shelf.catalogue.topics(names, {}))
    assert (raised.value.status, raised.value.parameter) == (400, "topic")
    topics = now(shelf.catalogue.topics(names[:3], {}))
    assert [topic.key for topic in topics] == names[:3]
    for topic in topics:
        shelf.house.hub.watch(topic)


def test_only_topics_of_templates_and_private_ones_are_forgotten() -> None:
    shelf = Shelf()
    for name in ("stocks", "quotes/A"):
        shelf.topic(name)
    shelf.topic("stocks", authorization="Bearer a")
    shelf.house.clock.advance(61)
    assert set(shelf.house.hub.topics) == {"stocks"}


def test_a_forgotten_topic_makes_room() -> None:
    shelf = Shelf()
    for n in range(3):
        shelf.topic(f"quotes/{n}")
    shelf.house.clock.advance(60)
    for n in range(3, 6):
        shelf.house.hub.watch(shelf.topic(f"quotes/{n}"))


def test_without_tokens_there_are_no_message_topics() -> None:
    shelf = Shelf()
    shelf.house.say("news", 1)
    assert shelf.refuses("news").status == 404


def test_with_tokens_a_message_topic_begins_with_its_first_message() -> None:
    shelf = Shelf(PUBLISH + TEXT)
    assert shelf.refuses("news").status == 404
    assert shelf.catalogue.message_topic("news") == "news"
    shelf.house.say("news", 1)
    assert isinstance(shelf.topic("news"), MessageTopic)
    shelf.house.clock.advance(100)
    assert isinstance(shelf.topic("news"), MessageTopic)


def test_declared_message_topics_are_there_from_the_beginning_and_no_others() -> None:
    shelf = Shelf(PUBLISH + 'topics = ["news", "rooms/{room}"]\n' + TEXT)
    for name in ("news", "rooms/1"):
        assert isinstance(shelf.topic(name), MessageTopic)
        assert shelf.catalogue.message_topic(name) == name
    shelf.house.say("other", 1)
    assert shelf.refuses("other").status == 404
    with pytest.raises(ClientError) as raised:
        shelf.catalogue.message_topic("new")
    assert (raised.value.status, raised.value.extra) == (404, {"nearest": ["news"]})


@pytest.mark.parametrize(("name", "status"), [("stocks", 409), ("quotes/X", 409), ("a//b", 400)])
def test_not_everything_can_be_published_to(name: str, status: int) -> None:
    with pytest.raises(ClientError) as raised:
        Shelf(PUBLISH + TEXT).catalogue.message_topic(name)
    assert raised.value.status == status


def test_sources_that_are_always_polled_are_known_at_the_start() -> None:
    shelf = Shelf(TEXT + '[sources.a]\nurl = "https://api.example/"\nwhen = "always"\n')
    assert [topic.key for topic, _ in now(shelf.catalogue.always())] == ["a"]

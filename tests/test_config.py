"""A configuration is right as a whole, or the mistake is named: file, key, what was expected."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pushd import config
from pushd.config import Config, Source
from pushd.errors import ConfigError

EXAMPLE = Path(__file__).parents[1] / "conf" / "pushd.toml"
SOURCE = '[sources.s]\nurl = "https://api.example/"\n'


def test_the_example_loads_and_shows_the_defaults() -> None:
    loaded = config.load(str(EXAMPLE), {})
    assert (loaded.server, loaded.history, loaded.publish) == (
        Config().server,
        Config().history,
        Config().publish,
    )
    shown = {"url", "topic", "emit", "key", "select", "headers", "stale_after"}
    default, stocks = Source(url=""), loaded.sources["stocks"]
    for field in set(Source.__struct_fields__) - shown:
        assert getattr(stocks, field) == getattr(default, field), field
    assert stocks.patience == msgspec.structs.replace(stocks, stale_after=None).patience


def test_the_example_names_every_option() -> None:
    text = EXAMPLE.read_text()
    sections = {"server": Config().server, "history": Config().history, "publish": Config().publish}
    for section in (*sections.values(), Source(url="")):
        for field in section.__struct_fields__:
            assert f"{field} = " in text, field


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nheartbaet = 3", "server: unknown key 'heartbaet'; did you mean 'heartbeat'?"),
        ("[sorces.a]", "unknown section [sorces]; did you mean 'sources'?"),
        ('listen = "tcp:80"', "'listen' stands in no section; it is server.listen"),
        ("every = 1", "'every' stands in no section; there is history, publish, server, sources"),
        (
            '[history]\nurl = "redis://a"',
            """history.url: only backend = "redis" has one, not 'sqlite'""",
        ),
        (SOURCE + 'every = "1"', "sources.s.every: expected float, got str"),
        (SOURCE + "every = 0", "sources.s.every: expected float >= 0.05"),
        (SOURCE + "every = nan", "sources.s.every: expected float >= 0.05"),
        (SOURCE + "evry = 1", "sources.s: unknown key 'evry'; did you mean 'every'?"),
        ("[sources.s]", "sources.s: the key 'url' is missing"),
        ("[sources]\ns = 1", "sources.s: expected a table: [sources.s]"),
        ("sources = 3", "sources: expected tables, one a source: [sources.NAME]"),
        ("[server", "not TOML"),
        ('[server]\ncors_origins = ["https://a.b/"]', "server.cors_origins: 'https://a.b/' is no"),
        (
            '[history]\nbackend = "floppy"',
            "expected 'sqlite' or 'redis' or 'memory', got 'floppy'",
        ),
        ('[publish]\ntokens = ["${NOPE}"]', "publish.tokens[0]: the environment variable NOPE"),
        ('[sources.s]\nurl = "ftp://a/"', "sources.s.url: expected http://HOST"),
        ('[sources.s]\nurl = "https://"', "sources.s.url: expected http://HOST"),
        ('[sources.s]\nurl = "https://a:b/"', "sources.s.url: "),
        ('[sources.s]\nurl = "https://u:p@a/"', "headers.Authorization"),
        ('[sources.s]\nurl = "https://a/#b"', "sources.s.url: a fragment"),
        ('[sources.s]\nurl = "https://a/ b"', "percent-encoded"),
        ('[sources.s]\ntopic = "{h}"\nurl = "https://{h}/"', "path and the query only"),
        ('[sources.s]\ntopic = "{h}"\nurl = "https://a/"', "needs the placeholders of topic"),
        ('[sources.s]\ntopic = "a"\nurl = "https://a/{h}"', "needs the placeholders of topic"),
        ('[sources.s]\ntopic = "{h}/{h}"\nurl = "https://a/{h}"', "each of its own"),
        ('[sources.s]\ntopic = "{}"\nurl = "https://a/{}"', "each of its own"),
        (
            '[sources.s]\ntopic = "a//b"\nurl = "https://a/"',
            "sources.s.topic: a topic's name has no",
        ),
        (SOURCE + '[sources.t]\ntopic = "s"\nurl = "https://a/"', "'s' is sources.s's topic"),
        (
            SOURCE + 'emit = "x"',
            "sources.s.emit: expected 'patch' or 'snapshot' or 'items', got 'x'",
        ),
        (SOURCE + 'emit = "items"', "sources.s.key: "),
        (SOURCE + 'format = "text"', "sources.s.format: "),
        (SOURCE + 'headers = { "a b" = "c" }', "'a b' is not the name of a header"),
        (SOURCE + 'headers = { a = "b\\r\\nc: d" }', "sources.s.headers.a: a line break"),
        (SOURCE + 'forward_headers = ["Host"]', "sources.s.forward_headers: 'Host'"),
        (SOURCE + 'when = "always"\nforward_headers = ["A"]', "sources.s.when: "),
    ],
)
def test_a_mistake_is_told_with_the_path_of_its_key(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config.parse(text, {})
    assert message in str(raised.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"x = "])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "pushd.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=str(path)):
        config.load(str(path))


def test_environment_variables_are_put_in_everywhere() -> None:
    text = SOURCE + 'headers = { A = "x${T}y$${T}" }\n[publish]\ntokens = ["${T}"]'
    loaded = config.parse(text, {"T": "secret"})
    assert loaded.sources["s"].headers == {"A": "xsecrety${T}"}
    assert loaded.publish.tokens == ("secret",)


def test_an_empty_token_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"publish.tokens\[0\]"):
        config.parse('[publish]\ntokens = ["${T}"]', {"T": ""})


def test_printing_a_configuration_shows_no_secret() -> None:
    text = '[sources.s]\nurl = "https://a/?key=secret"\nheaders = { A = "secret" }\n'
    loaded = config.parse(text + '[publish]\ntokens = ["secret"]', {})
    assert "secret" not in repr(loaded)


@pytest.mark.parametrize(
    "name",
    ["a", "a/b", "Ünïcode ☃", "a b", "quotes/AC%2FME", "x" * 256, "\U0001f468\u200d\U0001f469"],
)
def test_names_that_topics_can_have(name: str) -> None:
    assert config.topic_problem(name) is None


@pytest.mark.parametrize(
    "name",
    ["", "/", "/a", "a/", "a//b", ".", "a/..", "../a", "a\n", "a\0", "\x7f", "x" * 257, "\u2028"],
)
def test_names_that_topics_cannot_have(name: str) -> None:
    assert config.topic_problem(name) is not None


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('[sources.s]\nurl = "https://a/"\ntopic = "{}"', "sources.s.topic"),
        ('[publish]\ntopics = ["{}"]', "publish.topics"),
    ],
)
def test_names_are_as_long_as_the_configuration_lets_them_be(text: str, path: str) -> None:
    for length in (5, 300):
        limits = f"[server]\nmax_topic_name = {length}\n"
        config.parse(limits + text.format("x" * length), {})
        with pytest.raises(ConfigError, match=rf"^{path}: .*at most {length} characters"):
            config.parse(limits + text.format("x" * (length + 1)), {})

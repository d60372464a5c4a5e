"""What a configuration is refused for, once its parts have seen it."""

from __future__ import annotations

import pytest

from pushd.config import parse
from pushd.errors import ConfigError
from pushd.sources.check import check


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[sources.s]\nurl = "https://a/"\nselect = "a["', "sources.s.select: "),
        (
            '[sources.a]\nurl = "https://a/{x}"\ntopic = "q/{x}"\n'
            '[sources.b]\nurl = "https://a/"\ntopic = "q/c"',
            "sources.b.topic: 'q/c' is taken by sources.a.topic",
        ),
        (
            '[publish]\ntopics = ["q/{z}"]\n[sources.a]\nurl = "https://a/{x}"\ntopic = "q/{x}"',
            "publish.topics: 'q/{z}' is taken by sources.a.topic",
        ),
        ('[sources.s]\nurl = "https://a/"\nca_file = "/nope"', "sources.s.ca_file: /nope"),
        ('[publish]\ntopics = ["a//b"]', "publish.topics: 'a//b': "),
        ('[publish]\ntopics = ["{a}/{a}"]', "publish.topics: '{a}/{a}': "),
    ],
)
def test_what_is_not_right_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check(parse(text, {}))
    assert str(raised.value).startswith(message)

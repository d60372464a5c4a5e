"""Addresses are compared as origins and sent as they were written."""

from __future__ import annotations

import pytest

from pushd.sources.address import parsed


def test_default_ports_and_case_make_no_other_origin() -> None:
    same = {parsed(url)[0] for url in ("http://A.b", "HTTP://a.B:80/x", "http://a.b:/")}
    assert same == {"http://a.b"}
    assert parsed("https://a.b:443")[0] == "https://a.b"
    assert parsed("https://a.b:80")[0] == "https://a.b:80"


@pytest.mark.parametrize("rest", ["/%2E%2E/a", "/a%0d%0A", "/a%2Fb?c=%20", "/?", "/a;b?#"[:-1]])
def test_the_rest_is_as_it_was_written(rest: str) -> None:
    assert parsed(f"http://u:p@a.b{rest}#fragment") == ("http://a.b", rest)


@pytest.mark.parametrize(
    "url", ["ftp://a/", "http://", "a", "http://a b/", "http://a/\n", "http://a:x/"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # of several parsers
        parsed(url)

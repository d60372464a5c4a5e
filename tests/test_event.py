"""Positions have a text form that clients hand back."""

from __future__ import annotations

import pytest

from pushd.event import Position, mark


@pytest.mark.parametrize(
    ("position", "text"),
    [
        (Position("k3v9x2", 0), "k3v9x2-0"),
        (Position("k3v9x2", 17), "k3v9x2-17"),
        (Position("0", 17, whole=True), "0-17w"),
        (Position("0", 17, mark=".0af3b2"), "0-17.0af3b2"),
        (Position("0", 17, whole=True, mark=mark(["a"])), f"0-17w{mark('a')}"),
    ],
)
def test_a_position_survives_the_way_to_the_client_and_back(position: Position, text: str) -> None:
    assert str(position) == text
    assert Position.parse(text) == position


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "a",
        "a-",
        "-1",
        "a-01",
        "a-+1",
        "a-1x",
        "A-1",
        "a-1\n",
        "a-\u0661",
        "a-1 ",
        "a-" + "9" * 19,
    ],
)
def test_what_pushd_never_said_is_no_position(text: str) -> None:
    assert Position.parse(text) is None


def test_a_mark_tells_sets_of_documents_apart() -> None:
    assert mark([]) == ""
    assert mark(["a", "b"]) == mark(["b", "a"])
    assert len({mark(["a"]), mark(["b"]), mark(["a", "b"]), mark(["a\0private"])}) == 4

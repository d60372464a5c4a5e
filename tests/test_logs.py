"""The JSON log: one object a line, whatever an event holds."""

from __future__ import annotations

import json
import re
from enum import IntEnum
from io import StringIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import ILogObserver, Logger, LogLevel, LogPublisher
from twisted.python import log as old
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from pushd.logs import JsonLines, json_lines


def written(event: dict[Any, Any]) -> dict[str, Any]:
    """The one line that an event makes, read by a strict reader."""
    file = StringIO()
    JsonLines(file)(event)
    (line,) = file.getvalue().splitlines()
    assert line.isascii()
    assert file.getvalue() == line + "\n"

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    read = json.loads(line, parse_constant=refuse)
    assert isinstance(read, dict)
    assert re.fullmatch(r"\d{4,}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", read["time"])
    assert isinstance(read["level"], str) and isinstance(read["message"], str)
    # Halves of characters are what strict readers refuse.
    json.dumps(read, ensure_ascii=False).encode()
    return read


def logged(say: Any) -> dict[str, Any]:
    events: list[dict[str, Any]] = []
    say(Logger("pushd.test", observer=LogPublisher(events.append)))
    (event,) = events
    return written(event)


def test_it_is_an_observer_for_twistd(capsys: pytest.CaptureFixture[str]) -> None:
    observer = json_lines()
    verifyObject(ILogObserver, observer)
    observer({"log_format": "x"})
    assert json.loads(capsys.readouterr().out)["message"] == "x"


def test_a_line_has_time_level_logger_message_and_the_fields() -> None:
    line = logged(lambda log: log.warn("{a} and {b}", a=1, b="two", c=[1.5, None, True]))
    del line["time"]
    assert line == {
        "level": "warn",
        "logger": "pushd.test",
        "message": "1 and two",
        "a": 1,
        "b": "two",
        "c": [1.5, None, True],
    }


def test_the_time_is_the_events() -> None:
    assert written({"log_time": 0.0625})["time"] == "1970-01-01T00:00:00.062Z"


def test_objects_bytes_and_twisteds_own_fields_are_left_out() -> None:
    line = logged(
        lambda log: log.info("x", o=object(), b=b"b", d={"a": 1}, l=[[1]], m=[object()], t=(1, 2))
    )
    assert set(line) == {"time", "level", "logger", "message", "t"}
    assert line["t"] == [1, 2]


def test_a_failure_is_a_text_with_its_traceback() -> None:
    def fail(log: Logger) -> None:
        try:
            raise ZeroDivisionError("by zero")
        except ZeroDivisionError:
            log.failure("it {what}", what="broke")

    line = logged(fail)
    assert line["level"] == "critical"
    assert line["message"] == "it broke"
    assert line["failure"].startswith("Traceback (most recent call last):")
    assert line["failure"].endswith("builtins.ZeroDivisionError: by zero")


def test_fields_do_not_pass_for_what_every_line_has() -> None:
    line = written(
        {
            "log_format": "true",
            "log_level": LogLevel.info,
            "log_namespace": "n",
            "level": "critical",
            "message": "false",
            "logger": "x",
            "failure": "x",
        }
    )
    del line["time"]
    assert line == {"level": "info", "logger": "n", "message": "true"}


def test_twisteds_old_log_is_read_too() -> None:
    file = StringIO()
    publisher = old.LogPublisher()
    publisher.addObserver(JsonLines(file))  # type: ignore[arg-type]
    publisher.msg("one\ntwo", system="s", extra=7)
    line = json.loads(file.getvalue())
    assert (line["message"], line["extra"]) == ("one\ntwo", 7)
    assert not {"isError", "system", "format"} & set(line)


class Colour(IntEnum):
    RED = 1


class Hostile:
    """Fails at whatever is asked of it."""

    def _refuse(self, *_: object) -> Any:
        raise RuntimeError("no")

    __repr__ = __str__ = __format__ = __eq__ = __bool__ = __iter__ = __len__ = _refuse
    __hash__ = object.__hash__

    @property
    def __class__(self) -> Any:
        raise RuntimeError("no")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no")


class HostileText(str):
    """A string that is none when it is asked."""

    def encode(self, *_: object, **__: object) -> Any:
        raise RuntimeError("no")

    __str__ = __repr__ = startswith = encode  # type: ignore[assignment]


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.text(st.characters(categories=["Cs", "Cc", "Zl"]))
    | st.binary()
    | st.sampled_from([Colour.RED, object])
    | st.builds(pow, st.just(10), st.just(5000))
    | st.builds(Hostile)
    | st.builds(HostileText, st.just("x"))
    | st.builds(Failure, st.builds(ValueError, st.text())),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
TWISTEDS = "time level format namespace failure system source flattened logger"
NAMES = (
    st.text()
    | st.sampled_from([f"log_{name}" for name in TWISTEDS.split()])
    | st.sampled_from(["time", "message", "isError", "a"])
    | st.builds(HostileText, st.just("h"))
)


@given(st.dictionaries(NAMES | st.integers(), ANYTHING))
def test_it_never_fails_and_every_line_parses(event: dict[Any, Any]) -> None:
    written(event)


@given(st.dictionaries(NAMES, ANYTHING), st.text())
def test_it_never_fails_whatever_the_format_asks_for(event: dict[Any, Any], format: str) -> None:
    written({**event, "log_format": f"{format} {{a}} {{message!r}}"})


@given(
    st.dictionaries(
        st.from_regex(r"[a-k]{1,3}", fullmatch=True),
        st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    )
)
def test_plain_values_arrive_as_they_are(fields: dict[str, Any]) -> None:
    line = written({"log_format": "x", **fields})
    for name, value in fields.items():
        if isinstance(value, float) and value in (float("inf"), float("-inf")):
            assert line[name] == str(value)
        else:
            assert line[name] == value
            assert type(line[name]) is type(value)


@pytest.mark.parametrize("half", [chr(0xD800), chr(0xDFFF)])
def test_halves_of_characters_are_replaced_wherever_they_are(half: str) -> None:
    failed = Failure(ValueError(half))
    line = written({"log_format": f"x{half}", f"n{half}": half, "l": [half], "log_failure": failed})
    assert (line["message"], line["n?"], line["l"]) == ("x?", "?", ["?"])
    assert line["failure"].endswith("ValueError: ?")


def test_only_text_is_a_level_or_a_logger() -> None:
    line = written({"log_namespace": {"": "\ud800"}, "log_level": 7})
    assert (line["level"], line["logger"]) == ("info", None)


def test_what_cannot_be_written_leaves_a_line_that_says_so() -> None:
    line = written({"log_format": "x", "n": 10**5000})
    assert line["level"] == "error"
    assert line["message"] == "an event could not be written: ValueError"

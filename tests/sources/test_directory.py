"""Whose a name is, now and after many configurations."""

from __future__ import annotations

from pushd import config
from pushd.sources.directory import REMEMBERED, Directory


def directory(*templates: str, topics: str = "[]", before: Directory | None = None) -> Directory:
    text = f'[publish]\ntokens = ["t"]\ntopics = {topics}\n'
    for n, template in enumerate(templates):
        rest = template.replace("quotes", "q")
        text += f'[sources.s{n}]\ntopic = "{template}"\nurl = "https://a/{rest}"\n'
    settings = config.parse(text, {})
    return Directory(settings) if before is None else before.after(settings)


def test_the_first_that_fits_has_the_name() -> None:
    one = directory("quotes/A", "quotes/{s}", topics='["quotes/{a}/{b}"]')
    for name, template in (("quotes/A", "quotes/A"), ("quotes/B", "quotes/{s}")):
        owner = one.owner(name)
        assert owner is not None and owner[0].topic == template
    assert one.owner("quotes/A/B") is None and one.declared("quotes/A/B")


def test_what_was_is_remembered_until_it_is_again() -> None:
    first = directory("a", "quotes/{s}", topics='["m"]')
    second = directory("b", before=first)
    third = directory("a", before=second)
    assert [second.past(name) for name in ("a", "quotes/A", "m", "b")] == [True, True, True, False]
    assert [third.past(name) for name in ("a", "quotes/A", "m", "b")] == [False, True, True, True]


def test_only_so_much_is_remembered_and_the_latest_of_it() -> None:
    last = directory("first")
    for n in range(3):
        last = directory(*(f"t{n}/{k}" for k in range(REMEMBERED // 2)), before=last)
    last = directory("now", before=last)
    assert [last.past(name) for name in ("first", "t0/1", "t1/1", "t2/1")] == [
        False, False, True, True
    ]  # fmt: skip
    assert len(last._gone) == REMEMBERED

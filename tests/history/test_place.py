"""Where a history's file is, and in which start of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from pushd.history import place


@pytest.mark.parametrize(
    ("path", "directory", "chosen"),
    [
        ("", None, "pushd.db"),
        ("", "", "pushd.db"),
        ("", "/var/lib/pushd", "/var/lib/pushd/pushd.db"),
        ("", "/var/lib/pushd:/var/lib/other", "/var/lib/pushd/pushd.db"),
        ("/srv/x.db", "/var/lib/pushd", "/srv/x.db"),
    ],
)
def test_the_service_manager_says_where_if_the_configuration_does_not(
    path: str, directory: str | None, chosen: str
) -> None:
    environment = {} if directory is None else {"STATE_DIRECTORY": directory}
    assert place.chosen(path, environment) == chosen


def test_one_start_of_the_machine_is_told_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = place.boot({})
    assert len(here) == 32 and here == place.boot({"PUSHD_BOOT_ID": "other"})
    monkeypatch.setattr(place, "_BOOT_ID", tmp_path / "hidden")
    assert place.boot({"PUSHD_BOOT_ID": "given"}) == "given"
    assert place.boot({}) == ""

"""What cannot be right in the sources of a configuration, as only those who use it can tell."""

from __future__ import annotations

from jmespath.exceptions import JMESPathError

from pushd.config import Config, Source, example
from pushd.errors import ConfigError
from pushd.sources.digest import compiled
from pushd.sources.directory import Pattern
from pushd.trust import trust_root


def check(config: Config) -> None:
    """:raises ConfigError: the message names the path of the key."""
    for name, source in config.sources.items():
        _check_select(source, f"sources.{name}.select")
        _check_ca_file(source, f"sources.{name}.ca_file")
    _check_overlaps(config)


def _check_select(source: Source, path: str) -> None:
    try:
        if source.select is not None:
            compiled(source.select)
    except JMESPathError as error:
        raise ConfigError(f"{path}: {error}") from None


def _check_ca_file(source: Source, path: str) -> None:
    try:
        if source.ca_file is not None:
            trust_root(source.ca_file)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _check_overlaps(config: Config) -> None:
    """A name belongs to the first that it fits; what is behind that would never be reached."""
    before: list[tuple[Pattern, str]] = []
    topics = [(f"sources.{name}.topic", source.topic) for name, source in config.sources.items()]
    topics += [("publish.topics", template) for template in config.publish.topics]
    for path, template in topics:
        for pattern, owner in before:
            if pattern.match(example(template)) is not None:
                raise ConfigError(f"{path}: {template!r} is taken by {owner}, which comes first")
        before.append((Pattern(template), path))

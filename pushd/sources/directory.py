"""
The directory: whose a name is, as one configuration has it.

A name fits a source's template, or one of the message topics' that are
declared, or what once was one of these. A directory never changes; a new
configuration makes another. Which topics there are just now is none of its
business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from pushd.config import Config, Source

REMEMBERED = 1000
"""How many templates that were removed are remembered."""


class Pattern:
    """
    A template of topic names, ``quotes/{symbol}``: each placeholder stands for
    one or more characters within a segment.
    """

    def __init__(self, template: str) -> None:
        self.template = template
        pieces = re.split(r"\{([^{}]*)\}", template)
        self._regex = re.compile(
            "".join(
                f"(?P<{piece}>[^/]+)" if n % 2 else re.escape(piece)
                for n, piece in enumerate(pieces)
            )
        )

    def match(self, name: str) -> dict[str, str] | None:
        """The placeholders' values in `name`; None if it does not fit."""
        match = self._regex.fullmatch(name)
        return None if match is None else match.groupdict()


class Changes(msgspec.Struct, frozen=True):
    """What a new configuration changed: the topics, or templates, of sources."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]

    @classmethod
    def between(cls, before: Mapping[str, Source], after: Mapping[str, Source]) -> Changes:
        """What tells two sets of sources apart."""
        return cls(
            added=tuple(template for template in after if template not in before),
            removed=tuple(template for template in before if template not in after),
            changed=tuple(
                template
                for template, source in after.items()
                if template in before and source != before[template]
            ),
        )


class Directory:
    """
    :param past: templates that are no longer, the latest last, each with the
        headers that its source wanted to have.
    :ivar sources: by template, in the order in which names are looked for.
    :ivar longest: how many characters a name may have.
    :ivar names: the names and templates that the configuration tells.
    :ivar forwardable: the headers that some source wants, or wanted, to have,
        in lower case.
    """

    def __init__(self, config: Config, past: Mapping[str, frozenset[str]] | None = None) -> None:
        self.sources = {source.topic: source for source in config.sources.values()}
        self.publish = config.publish
        self.longest = config.server.max_topic_name
        self.names = [*self.sources, *config.publish.topics]
        self._gone = past or {}
        self.forwardable = frozenset().union(
            *map(_headers, self.sources.values()), *self._gone.values()
        )
        self._patterns = [(Pattern(template), source) for template, source in self.sources.items()]
        self._messages = [Pattern(template) for template in config.publish.topics]
        self._past = [Pattern(template) for template in self._gone]

    def after(self, config: Config) -> Directory:
        """The one that follows, which remembers what was in this one."""
        names = {*config.publish.topics, *(source.topic for source in config.sources.values())}
        past = {
            **self._gone,
            **dict.fromkeys(self.publish.topics, frozenset()),
            **{template: _headers(source) for template, source in self.sources.items()},
        }
        gone = [(template, headers) for template, headers in past.items() if template not in names]
        return Directory(config, dict(gone[-REMEMBERED:]))

    def owner(self, name: str) -> tuple[Source, dict[str, str]] | None:
        """The source that fills the topic called so, and its placeholders' values."""
        for pattern, source in self._patterns:
            values = pattern.match(name)
            if values is not None:
                return source, values
        return None

    def declared(self, name: str) -> bool:
        """Whether this is one of the message topics that the configuration tells."""
        return any(pattern.match(name) is not None for pattern in self._messages)

    @property
    def undeclared(self) -> bool:
        """Whether there may be message topics that the configuration does not tell."""
        return not self._messages and bool(self.publish.tokens)

    def past(self, name: str) -> bool:
        """Whether a topic could be called so once."""
        return self._past_template(name) is not None

    def wanted(self, name: str) -> frozenset[str]:
        """
        The headers that the source of the topic called `name` wants, in lower
        case: one that was removed too, as who names them is to hear of that.
        """
        owner = self.owner(name)
        if owner is not None:
            return _headers(owner[0])
        template = None if self.declared(name) else self._past_template(name)
        return frozenset() if template is None else self._gone[template]

    def _past_template(self, name: str) -> str | None:
        return next((past.template for past in self._past if past.match(name) is not None), None)


def _headers(source: Source) -> frozenset[str]:
    return frozenset(name.lower() for name in source.forward_headers)

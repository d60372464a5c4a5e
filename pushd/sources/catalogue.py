"""
The catalogue: which topics there are, and what stands behind a name.

A name is a source's topic, fits a source's template, or is a message topic.
Here a topic's name becomes a URL and forwarded headers become a private topic;
what is polled and how is the poller's.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote, unquote, urlsplit

import msgspec
from jmespath.exceptions import JMESPathError

from pushd.config import Config, Source, example, topic_problem
from pushd.errors import ClientError, ConfigError
from pushd.interfaces import IHub, ISource
from pushd.sources.digest import compiled
from pushd.topic import DocumentTopic, Topic, private_key

_Build = Callable[[DocumentTopic, Source, str, Mapping[str, str], Callable[[], None]], ISource]
"""Makes what fills a topic: topic, source, URL, headers, what to call when it is forgotten."""


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


def expand(url: str, values: Mapping[str, str]) -> str | None:
    """
    A template with `values` in their places, percent-encoded whole (RFC 3986,
    section 2.1); None if a value would leave its place: a segment of dots
    walks up the path however it is encoded (section 5.2.4).
    """
    for name, value in values.items():
        url = url.replace("{" + name + "}", quote(value, safe=""))
    segments = unquote(urlsplit(url).path).split("/")
    return None if any(segment in (".", "..") for segment in segments) else url


class Catalogue:
    """
    :param build: makes the poller of a topic.
    """

    def __init__(self, config: Config, hub: IHub, build: _Build) -> None:
        self._hub = hub
        self._build = build
        self._sources = [(Pattern(source.topic), source) for source in config.sources.values()]
        self._publish = config.publish
        self._messages = [Pattern(template) for template in config.publish.topics]
        self._kept: dict[str, Source] = {}

    @property
    def names(self) -> list[str]:
        """The names and templates that the configuration tells."""
        return [pattern.template for pattern, _ in self._sources] + list(self._publish.topics)

    @property
    def forwardable(self) -> frozenset[str]:
        """The headers that some source wants to have, in lower case."""
        return frozenset(
            name.lower() for _, source in self._sources for name in source.forward_headers
        )

    async def topic(self, name: str, given: Mapping[str, str]) -> Topic:
        """
        The topic called `name`.

        :param given: the client's header values, by name in lower case.
        :raises ClientError: 404, there is none; 503, there are too many.
        """
        problem = topic_problem(name)
        if problem is None:
            for pattern, source in self._sources:
                values = pattern.match(name)
                if values is not None:
                    return await self._document_topic(name, source, values, given)
            if await self._is_message_topic(name):
                return await self._hub.message_topic(name)
        raise _unknown(f"There is no topic {name!r}", problem, name, self.names)

    async def topics(self, names: Sequence[str], given: Mapping[str, str]) -> list[Topic]:
        """
        The topics called `names`, all of them there at the same time: while one
        is opened, another may be forgotten, to make room or because its time is up.

        :raises ClientError: as :meth:`topic`.
        """
        for _ in range(3):
            topics = [await self.topic(name, given) for name in names]
            if all(self._hub.topics.get(topic.key) is topic for topic in topics):
                return topics
        raise _too_many()

    def message_topic(self, name: str) -> str:
        """
        The key under which a message to `name` is recorded.

        :raises ClientError: 400, nothing can be called so; 404, it is not
            among the topics that may be published to; 409, a source fills it.
        """
        problem = topic_problem(name)
        if problem is not None:
            raise ClientError(400, f"{problem[0].upper()}{problem[1:]}.", parameter="topic")
        if any(pattern.match(name) is not None for pattern, _ in self._sources):
            raise ClientError(409, f"The topic {name!r} is filled by a source.", parameter="topic")
        if self._messages and not self._declared(name):
            detail = f"The topic {name!r} is not among those that may be published to"
            raise _unknown(detail, None, name, self._publish.topics)
        return name

    async def always(self) -> list[tuple[Topic, Source]]:
        """The topics of the sources that are polled whether anybody watches or not."""
        return [
            (await self._document_topic(source.topic, source, {}, {}), source)
            for _, source in self._sources
            if source.when == "always"
        ]

    def _declared(self, name: str) -> bool:
        return any(pattern.match(name) is not None for pattern in self._messages)

    async def _is_message_topic(self, name: str) -> bool:
        if self._messages or not self._publish.tokens:
            return self._declared(name)
        return await self._hub.recorded(name)

    async def _document_topic(
        self, name: str, source: Source, values: Mapping[str, str], given: Mapping[str, str]
    ) -> Topic:
        forwarded = {
            header: given[header.lower()]
            for header in source.forward_headers
            if header.lower() in given
        }
        key = private_key(name, _digest(forwarded)) if forwarded else name
        url = expand(source.url, values)
        if url is None:
            raise ClientError(404, f"There is no topic {name!r}.", parameter="topic")
        if key not in self._kept:
            self._make_room(source)

        def fill(topic: DocumentTopic) -> ISource:
            headers = {**source.headers, **forwarded}
            filled = self._build(topic, source, url, headers, lambda: self._forgotten(key))
            self._kept[key] = source
            return filled

        linger = None if key == source.topic else source.linger
        return await self._hub.document_topic(key, fill, linger)

    def _forgotten(self, key: str) -> None:
        del self._kept[key]

    def _make_room(self, source: Source) -> None:
        """Let a topic of `source` go that only lingers, if there are as many as may be."""
        keys = [key for key, owner in self._kept.items() if owner is source]
        if len(keys) < source.max_topics:
            return
        if not any(self._hub.release(key) for key in keys):
            raise _too_many()


def _too_many() -> ClientError:
    detail = "As many topics like this as may be are watched already (max_topics)."
    return ClientError(503, detail, headers={"Retry-After": "10"})


def _unknown(detail: str, problem: str | None, name: str, names: Sequence[str]) -> ClientError:
    """What to say of a name that nothing has, with the names that it may have meant."""
    nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    detail += f": {problem}." if problem else "."
    if nearest:
        detail += f" Did you mean {' or '.join(map(repr, nearest))}?"
    return ClientError(404, detail, parameter="topic", extra={"nearest": nearest})


def check_expressions(config: Config) -> None:
    """
    What only the parts that use it can check.

    :raises ConfigError: the message names the path of the key.
    """
    for name, source in config.sources.items():
        if source.select is not None:
            try:
                compiled(source.select)
            except JMESPathError as error:
                raise ConfigError(f"sources.{name}.select: {error}") from None
    _check_overlaps(config)


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


def _digest(forwarded: Mapping[str, str]) -> str:
    """Stands for a set of header values where they must not be seen."""
    return hashlib.sha256(msgspec.json.encode(forwarded, order="sorted")).hexdigest()[:32]

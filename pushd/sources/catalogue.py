"""
The catalogue: which topics there are, and what stands behind a name.

A name is a source's topic, fits a source's template, or is a message topic.
Whose a name is, the directory says. Here a topic's name becomes a URL and
forwarded headers become a private topic; what is polled and how is the poller's.
"""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from heapq import nlargest
from os.path import commonprefix
from typing import TypeVar
from urllib.parse import quote, unquote, urlsplit

import msgspec

from pushd.config import Config, Source, topic_problem
from pushd.errors import BusyError, ClientError
from pushd.interfaces import IHub, ISource
from pushd.sources.directory import Changes, Directory
from pushd.topic import DocumentTopic, Topic, private_key

T = TypeVar("T")

REMEMBERED = 4096
"""How many names of message topics are remembered, so as not to look them up again."""

_Build = Callable[
    [DocumentTopic, Source, str, Mapping[str, str], Callable[[], None], ISource | None], ISource
]
"""
Makes what fills a topic: topic, source, URL, headers, what to call when it is
forgotten, and what filled it before.
"""


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


MOST_COMPARED = 30
"""With how many names one that is unknown is compared."""


class _Kept(msgspec.Struct, frozen=True):
    """
    What a topic that is filled by a source was made from.

    :ivar values: the placeholders', from its name.
    :ivar forwarded: the headers that it is private to.
    """

    source: Source
    values: Mapping[str, str]
    forwarded: Mapping[str, str]

    def __repr__(self) -> str:
        """Without the headers: tokens live there."""
        return f"_Kept({self.source!r}, {self.values!r})"


class _ReplacedError(Exception):
    """What is being opened was looked up in a configuration that no longer counts."""


class Catalogue:
    """
    :param build: makes the poller of a topic.
    """

    def __init__(self, config: Config, hub: IHub, build: _Build) -> None:
        self._hub = hub
        self._build = build
        self._directory = Directory(config)
        self._kept: dict[str, _Kept] = {}
        self._number: Counter[str] = Counter()
        self._messages: set[str] = set()

    @property
    def names(self) -> list[str]:
        """The names and templates that the configuration tells."""
        return self._directory.names

    @property
    def forwardable(self) -> frozenset[str]:
        """The headers that some source wants, or wanted, to have, in lower case."""
        return self._directory.forwardable

    def wanted(self, names: Sequence[str]) -> frozenset[str]:
        """The headers that the sources of the topics called `names` want, in lower case."""
        return frozenset[str]().union(*map(self._directory.wanted, names))

    def at_hand(self, name: str) -> Topic | None:
        """
        What :meth:`topics` gives to somebody who sends no headers, if it is there
        already and nothing has to be asked or made for it; else None.
        """
        topic = self._hub.topics.get(name)
        if topic is None or topic.ended or len(name) > self._directory.longest:
            return None
        known = name in self._kept if isinstance(topic, DocumentTopic) else name in self._messages
        # A private topic's key is nobody's to ask for.
        return topic if known and topic.name == name else None

    async def topics(
        self, names: Sequence[str], given: Mapping[str, str], *, returning: bool = False
    ) -> list[Topic]:
        """
        The topics called `names`, all of them there at the same time: while one
        is opened, another may be forgotten, to make room or because its time is up.
        Those that have ended are among them: who reads them together with others
        is told when they come back.

        :param given: the client's header values, by name in lower case.
        :param returning: whether the client has read here before. A name that nobody
            declares and that is not known any more, as after a restart with history
            in memory, was a message topic then.
        :raises ClientError: 404, there is no such topic; 503, there are too many; 400, a
            source may not have so many at a time.
        """

        async def all_of(directory: Directory) -> list[Topic]:
            _check_number(directory, names)
            return [await self._topic(directory, name, given, returning) for name in names]

        for _ in range(3):
            topics = await self._lasting(all_of)
            if all(topic.ended or self._hub.topics.get(topic.key) is topic for topic in topics):
                dropped = self._hub.dropped
                return [dropped.get(t.key, t) if t.ended else t for t in topics]
        raise _too_many()

    async def always(self) -> list[tuple[Topic, Source]]:
        """The topics of the sources that are polled whether anybody watches or not."""

        async def all_of(directory: Directory) -> list[tuple[Topic, Source]]:
            return [
                (await self._document_topic(directory, source.topic, source, {}, {}), source)
                for source in directory.sources.values()
                if source.when == "always"
            ]

        return await self._lasting(all_of)

    def kept(self) -> dict[str, list[Topic]]:
        """The topics that there are just now of each source, by its template."""
        kept: dict[str, list[Topic]] = {template: [] for template in self._directory.sources}
        for key, made in self._kept.items():
            topic = self._hub.topics.get(key)
            if topic is not None and made.source.topic in kept:
                kept[made.source.topic].append(topic)
        return kept

    def message_topic(self, name: str) -> str:
        """
        The key under which a message to `name` is recorded.

        :raises ClientError: 400, nothing can be called so; 404, it is not
            among the topics that may be published to; 409, a source fills it.
        """
        directory = self._directory
        problem = topic_problem(name, directory.longest)
        if problem is not None:
            raise ClientError(400, f"{problem[0].upper()}{problem[1:]}.", parameter="topic")
        if directory.owner(name) is not None:
            raise ClientError(409, f"The topic {name!r} is filled by a source.", parameter="topic")
        if directory.publish.topics and not directory.declared(name):
            detail = f"The topic {name!r} is not among those that may be published to"
            raise _unknown(detail, name, directory.publish.topics)
        return name

    # Topics, as they are asked for.

    async def _lasting(self, find: Callable[[Directory], Awaitable[T]]) -> T:
        """What `find` finds, unless the configuration is replaced meanwhile: then once more."""
        while True:
            directory = self._directory
            with suppress(_ReplacedError):
                found = await find(directory)
                if directory is self._directory:
                    return found

    async def _topic(
        self, directory: Directory, name: str, given: Mapping[str, str], returning: bool = False
    ) -> Topic:
        problem = topic_problem(name, directory.longest)
        if problem is not None:
            # The name is not repeated: it may be of any length.
            raise ClientError(404, f"There is no such topic: {problem}.", parameter="topic")
        owner = directory.owner(name)
        if owner is not None:
            return await self._document_topic(directory, name, *owner, given)
        if directory.declared(name) or (directory.undeclared and await self._hub.recorded(name)):
            if directory is not self._directory:
                raise _ReplacedError
            message_topic = await self._hub.message_topic(name)
            self._remember(directory, name)
            return message_topic
        if directory.past(name):
            return _ended(name)
        if directory.undeclared and returning:
            return await self._hub.message_topic(name)
        raise _unknown(f"There is no topic {name!r}", name, directory.names)

    def _remember(self, directory: Directory, name: str) -> None:
        """This may be read, as long as no other configuration says otherwise."""
        if directory is self._directory:
            if len(self._messages) >= REMEMBERED:
                self._messages.clear()
            self._messages.add(name)

    async def _document_topic(
        self,
        directory: Directory,
        name: str,
        source: Source,
        values: Mapping[str, str],
        given: Mapping[str, str],
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
            if directory is not self._directory:
                raise _ReplacedError
            return self._built(topic, _Kept(source, values, forwarded), url, None)

        return await self._hub.document_topic(key, fill, _linger(key, source))

    def _built(
        self, topic: DocumentTopic, made: _Kept, url: str, before: ISource | None
    ) -> ISource:
        headers = {**made.source.headers, **made.forwarded}
        key = topic.key
        filled = self._build(topic, made.source, url, headers, lambda: self._forgotten(key), before)
        if key not in self._kept:
            self._number[made.source.topic] += 1
        self._kept[key] = made
        return filled

    def _forgotten(self, key: str) -> None:
        self._number[self._kept.pop(key).source.topic] -= 1

    def _make_room(self, source: Source) -> None:
        """Let a topic of `source` go that only lingers, if there are as many as may be."""
        if self._number[source.topic] < source.max_topics:
            return
        keys = [key for key, made in self._kept.items() if made.source.topic == source.topic]
        if not any(self._hub.release(key) for key in keys):
            raise _too_many()

    # Another configuration.

    def replace(self, config: Config) -> Changes:
        """
        Go over to another configuration, which has passed all checks.

        A source is known again by its template. What did not change does not
        notice. A topic whose source changed keeps all that it has. One that
        is removed ends, and one that is another's now is taken up anew there.
        """
        before = self._directory
        after = self._directory = before.after(config)
        self._messages.clear()
        for topic in tuple(self._hub.topics.values()):
            self._reassign(topic)
        for topic in tuple(self._hub.dropped.values()):
            # Its readers come back, to what has its name now.
            if after.owner(topic.name) is not None or after.declared(topic.name):
                self._hub.cut(topic)
        return Changes.between(before.sources, after.sources)

    def _reassign(self, topic: Topic) -> None:
        """Give a topic to whom its name belongs now."""
        if self._hub.topics.get(topic.key) is not topic:
            return
        directory = self._directory
        owner = directory.owner(topic.name)
        made = self._kept.get(topic.key)
        if owner is not None and made is not None and owner[0].topic == made.source.topic:
            if owner[0] != made.source:
                assert isinstance(topic, DocumentTopic)
                self._change(topic, made, owner[0])
        elif owner is not None or directory.declared(topic.name):
            if owner is not None or made is not None:
                self._hub.drop(topic)
        elif made is not None or not directory.undeclared:
            self._end(topic)

    def _end(self, topic: Topic) -> None:
        """Its name is nobody's now."""
        self._hub.end(topic)
        self._hub.drop(topic)

    def _change(self, topic: DocumentTopic, made: _Kept, source: Source) -> None:
        """A topic's source is polled otherwise from now on."""
        wanted = {name.lower() for name in source.forward_headers}
        if topic.ended or not {name.lower() for name in made.forwarded} <= wanted:
            # What had ended may go on; what is private to a header that no longer counts may not.
            self._hub.drop(topic)
            return
        if not wanted <= {name.lower() for name in made.source.forward_headers}:
            # Some readers may have sent what was not asked for before: let them come back.
            self._hub.cut(topic)
        url = expand(source.url, made.values)
        if url is None:
            self._end(topic)
            return
        made = _Kept(source, made.values, made.forwarded)
        self._hub.refill(
            topic,
            lambda before: self._built(topic, made, url, before),
            _linger(topic.key, source),
        )


def _linger(key: str, source: Source) -> float | None:
    """Topics of a template, and private ones, are forgotten when nobody reads them."""
    return None if key == source.topic else source.linger


def _ended(name: str) -> Topic:
    """What stands for a topic that was removed."""
    topic = DocumentTopic(name, 0)
    topic.ended = True
    return topic


def _check_number(directory: Directory, names: Sequence[str]) -> None:
    """Raises ClientError for more topics of one source than there can be: to wait is in vain."""
    if len(names) == 1:
        return
    owners = [owner[0] for name in names if (owner := directory.owner(name)) is not None]
    for template, number in Counter(source.topic for source in owners).items():
        if number > directory.sources[template].max_topics:
            most = directory.sources[template].max_topics
            detail = f"There are at most {most} topics like {template!r} at a time (max_topics)."
            raise ClientError(400, detail, parameter="topic")


def _too_many() -> BusyError:
    return BusyError(
        "max_topics", "As many topics like this as may be are watched already (max_topics)."
    )


def _unknown(detail: str, name: str, names: Sequence[str]) -> ClientError:
    """What to say of a name that nothing has, with the names that it may have meant."""
    # To compare a thousand names letter by letter would take 60 ms.
    alike = nlargest(
        MOST_COMPARED,
        names,
        key=lambda known: len(commonprefix((known, name))),  # noqa: RUF071  # of letters, yes
    )
    nearest = difflib.get_close_matches(name, alike, n=3, cutoff=0.5)
    detail += "."
    if nearest:
        detail += f" Did you mean {' or '.join(map(repr, nearest))}?"
    return ClientError(404, detail, parameter="topic", extra={"nearest": nearest})


def _digest(forwarded: Mapping[str, str]) -> str:
    """Stands for a set of header values where they must not be seen."""
    lower = {name.lower(): value for name, value in forwarded.items()}
    return hashlib.sha256(msgspec.json.encode(lower, order="sorted")).hexdigest()[:32]

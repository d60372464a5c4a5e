"""
The configuration: one TOML file, checked whole before anything starts.

What may be written, what it means when left out, and how a mistake is told:
the file, the path of the key, what was expected. Nothing here opens a socket
or knows what an option does.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from pushd.errors import ConfigError

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Some = Annotated[float, Meta(ge=0, le=86_400)]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Name = Annotated[str, Meta(min_length=1)]

_VARIABLE = re.compile(r"\$(\$)?\{([^}]*)\}")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/A-Z\s]+")
"""What browsers send as Origin (RFC 6454, section 6.2)."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A header's name (RFC 9110, section 5.6.2)."""

_OURS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "host",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "keep-alive",
        "range",
        "te",
        "transfer-encoding",
        "upgrade",
    }
)
"""
Headers of one hop, or of the conversation between pushd and its source
(RFC 9110, sections 7.6.1, 13.1 and 14.2): not a client's to set.
"""

LONGEST_NAME = 256
"""How many characters the name of a topic may have, if server.max_topic_name does not say."""

T = TypeVar("T")


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every part of the file has in common: no unknown keys."""


class Server(Section, frozen=True):
    """How clients reach pushd. Times are seconds."""

    listen: Name = "tcp:8080:interface=127.0.0.1"
    reuse_port: bool = False
    cors_origins: tuple[Name, ...] = ()
    heartbeat: Seconds = 15.0
    retry: Seconds = 3.0
    retry_spread: Some = 2.0
    retry_when_busy: Seconds = 30.0
    chunked: bool = True
    compress: Literal["browsers", "all", "never"] = "browsers"
    drain: Some = 10.0
    client_timeout: Seconds = 60.0
    peer_timeout: Annotated[float, Meta(ge=1, le=86_400)] = 30.0
    header_timeout: Seconds = 20.0
    body_timeout: Seconds = 60.0
    send_buffer: Annotated[int, Meta(ge=4096, le=1_000_000_000)] = 262_144
    max_clients: Count = 10_000
    max_clients_per_peer: Count = 1000
    trusted_proxies: tuple[Name, ...] = ("127.0.0.0/8", "::1")
    max_topics_per_client: Count = 100
    max_topic_name: Annotated[int, Meta(ge=1, le=4096)] = LONGEST_NAME
    max_url: Annotated[int, Meta(ge=64, le=1_048_576)] = 8192
    max_header: Annotated[int, Meta(ge=1024, le=1_048_576)] = 16_384


class History(Section, frozen=True):
    """What is remembered of each topic, and for how long. Times are seconds, sizes bytes."""

    backend: Literal["sqlite", "redis", "memory"] = "sqlite"
    path: str = ""
    fsync: bool = False
    keep_events: Count = 1000
    keep_seconds: Annotated[float, Meta(gt=0)] = 3600.0
    keep_bytes: Count = 67_108_864
    url: str | None = None
    prefix: Annotated[str, Meta(pattern=r"^[0-9A-Za-z._-]{1,64}$")] = "pushd"
    timeout: Seconds = 5.0
    lease: Annotated[float, Meta(ge=0.5, le=60)] = 3.0
    ca_file: str | None = None

    def __repr__(self) -> str:
        """Without the URL, where a password may be."""
        return f"History(backend={self.backend!r})"


class Publish(Section, frozen=True):
    """Who may publish, to which topics, and how much at a time (bytes)."""

    tokens: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    topics: tuple[Name, ...] = ()
    max_body: Count = 1_048_576
    max_rate: Annotated[float, Meta(gt=0)] = 1000.0

    def __repr__(self) -> str:
        """Without the tokens: what is printed ends up in a log."""
        return f"Publish(tokens=<{len(self.tokens)}>, topics={self.topics!r})"


class Source(Section, frozen=True):
    """Where a document topic comes from. Times are seconds, sizes bytes."""

    url: Name
    type: Literal["poll"] = "poll"
    topic: str = ""
    every: Annotated[float, Meta(ge=0.05, le=86_400)] = 1.0
    emit: Literal["patch", "snapshot", "items"] = "patch"
    key: str | None = None
    select: str | None = None
    format: Literal["auto", "json", "text"] = "auto"
    when: Literal["watched", "always"] = "watched"
    headers: dict[str, str] = {}
    forward_headers: tuple[str, ...] = ()
    timeout: Seconds = 10.0
    max_bytes: Count = 10_485_760
    stale_after: Seconds | None = None
    max_backoff: Seconds = 60.0
    max_topics: Count = 1000
    linger: Some = 60.0
    ca_file: str | None = None

    @property
    def patience(self) -> float:
        """Seconds without a good answer after which the document is stale."""
        return self.stale_after or max(30.0, 3 * self.every)

    def __repr__(self) -> str:
        """Without URL and headers: tokens live there."""
        return f"Source(topic={self.topic!r}, type={self.type!r})"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A whole file, every value in its range; ``sources`` by name."""

    server: Server = Server()
    history: History = History()
    publish: Publish = Publish()
    sources: dict[str, Source] = {}


def load(path: str, environment: Mapping[str, str] = os.environ) -> Config:
    """
    The configuration in the file `path`.

    :raises ConfigError: it cannot be read, is not TOML, or a value is wrong;
        the message names the file and the path of the key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (at byte {error.start})") from error
    try:
        return parse(text, environment)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse(text: str, environment: Mapping[str, str] = os.environ) -> Config:
    """The configuration that a TOML text is. Errors as in :func:`load`."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not TOML: {error}") from error
    tree = _expand(tree, "", environment)
    for name in tree:
        if name not in Config.__struct_fields__:
            raise ConfigError(_no_section(name, tree[name]))
    server = _section(tree.get("server", {}), Server, "server")
    for origin in server.cors_origins:
        if not _ORIGIN.fullmatch(origin):
            raise ConfigError(
                f"server.cors_origins: {origin!r} is no origin: "
                'scheme://host or scheme://host:port, in lower case and without a path; or "*"'
            )
    for network in server.trusted_proxies:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            raise ConfigError(
                f"server.trusted_proxies: {network!r} is neither an IP address nor a network: "
                '"192.0.2.7", "192.0.2.0/24", "2001:db8::/32"'
            ) from None
    publish = _section(tree.get("publish", {}), Publish, "publish")
    for template in publish.topics:
        problem = _template_problem(template, server.max_topic_name)
        if problem:
            raise ConfigError(f"publish.topics: {template!r}: {problem}")
    return Config(
        server=server,
        history=_history(tree.get("history", {})),
        publish=publish,
        sources=_sources(tree.get("sources", {}), server.max_topic_name),
    )


def _no_section(name: str, value: Any) -> str:
    """What is wrong with a name that stands where sections do."""
    if isinstance(value, dict):
        return f"unknown section [{name}]{_nearest(name, Config.__struct_fields__)}"
    for section, kind in (("server", Server), ("history", History), ("publish", Publish)):
        if name in kind.__struct_fields__:
            return f"{name!r} stands in no section; it is {section}.{name}"
    return f"{name!r} stands in no section; there is {', '.join(sorted(Config.__struct_fields__))}"


def placeholders(template: str) -> list[str]:
    """The names in braces of a template, in order: ``["symbol"]``."""
    return _PLACEHOLDER.findall(template)


def example(template: str) -> str:
    """A name that fits a template: ``quotes/x`` for ``quotes/{symbol}``."""
    return _PLACEHOLDER.sub("x", template)


def _template_problem(template: str, longest: int) -> str | None:
    """Why `template` cannot be one of topics' names; None if it can."""
    names = placeholders(template)
    if len(set(names)) != len(names) or not all(name.isidentifier() for name in names):
        return "placeholders need names, each of its own: {symbol}"
    return topic_problem(example(template), longest)


def _expand(value: Any, path: str, environment: Mapping[str, str]) -> Any:
    """`value` with each ``${NAME}`` in its strings replaced; ``$${`` stands for ``${``."""
    if isinstance(value, dict):
        return {
            key: _expand(item, f"{path}.{key}" if path else key, environment)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_expand(item, f"{path}[{n}]", environment) for n, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        escaped, name = match.groups()
        if escaped:
            return match[0][1:]
        if name not in environment:
            raise ConfigError(f"{path}: the environment variable {name} is not set")
        return environment[name]

    return _VARIABLE.sub(variable, value)


def _section(tree: Any, kind: type[T], path: str) -> T:
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(_told(str(error), kind, path)) from None


def _told(message: str, kind: type, path: str) -> str:
    """Msgspec's message, with the path of the key in front of it."""
    what, _, where = message.partition(" - at `$")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", what)
    if unknown:
        names = [field.name for field in msgspec.structs.fields(kind)]
        return f"{path}: unknown key {unknown[1]!r}{_nearest(unknown[1], names)}"
    if what.startswith("Invalid enum value"):
        name = where.rstrip("`").rpartition(".")[2]
        choice = " or ".join(repr(one) for one in get_args(get_type_hints(kind)[name]))
        return f"{path}.{name}: expected {choice}, got {what.rpartition(' ')[2]}"
    missing = re.fullmatch(r"Object missing required field `(.*)`", what)
    if missing:
        return f"{path}: the key {missing[1]!r} is missing"
    return f"{path}{where.rstrip('`')}: {what[0].lower()}{what[1:].replace('`', '')}"


def _nearest(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there is {', '.join(sorted(names))}"


def _history(tree: Any) -> History:
    """Who says which Redis means that it is to be used: nothing would be shared in silence."""
    history = _section(tree, History, "history")
    if history.url is not None and history.backend != "redis":
        raise ConfigError(f'history.url: only backend = "redis" has one, not {history.backend!r}')
    return history


def _sources(tree: Any, longest: int) -> dict[str, Source]:
    if not isinstance(tree, dict):
        raise ConfigError("sources: expected tables, one a source: [sources.NAME]")
    sources: dict[str, Source] = {}
    owners: dict[str, str] = {}
    for name, table in tree.items():
        path = f"sources.{name}"
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: expected a table: [{path}]")
        source = _section({"topic": name, **table}, Source, path)
        _check_source(source, path, longest)
        if source.topic in owners:
            raise ConfigError(f"{path}.topic: {source.topic!r} is {owners[source.topic]}'s topic")
        owners[source.topic] = path
        sources[name] = source
    return sources


def _check_source(source: Source, path: str, longest: int) -> None:
    """What a type cannot say."""
    problem = _template_problem(source.topic, longest)
    if problem:
        raise ConfigError(f"{path}.topic: {problem}")
    _check_url(source, path)
    _check_headers(source, path)
    if source.emit == "items" and not source.key:
        raise ConfigError(f'{path}.key: emit = "items" needs the field that tells items apart')
    if source.format == "text" and (source.emit != "snapshot" or source.select):
        raise ConfigError(f'{path}.format: text needs emit = "snapshot", and no select')
    if source.when == "always" and (placeholders(source.topic) or source.forward_headers):
        raise ConfigError(
            f'{path}.when: "always" needs one topic that is known beforehand: '
            "no {placeholder}, no forward_headers"
        )


def _check_headers(source: Source, path: str) -> None:
    for name in (*source.headers, *source.forward_headers):
        if not _TOKEN.fullmatch(name):
            raise ConfigError(f"{path}: {name!r} is not the name of a header")
    for name in source.forward_headers:
        if name.lower() in _OURS:
            raise ConfigError(f"{path}.forward_headers: {name!r} is pushd's own towards a source")
    for name, value in source.headers.items():
        if not value.isprintable():
            raise ConfigError(f"{path}.headers.{name}: a line break or control character")


def _check_url(source: Source, path: str) -> None:
    """Placeholders stay where a value cannot change whom we talk to."""
    try:
        url = urlsplit(source.url)
        _ = url.port
    except ValueError as error:
        raise ConfigError(f"{path}.url: {error}") from None
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError(f"{path}.url: expected http://HOST/... or https://HOST/...")
    if "@" in url.netloc:
        raise ConfigError(f"{path}.url: a user and password go into headers.Authorization instead")
    if url.fragment:
        raise ConfigError(f"{path}.url: a fragment (#...) is never sent to a server")
    if "{" in url.netloc:
        raise ConfigError(f"{path}.url: a {{placeholder}} may stand in the path and the query only")
    if not source.url.isascii() or not source.url.isprintable() or " " in source.url:
        raise ConfigError(f"{path}.url: other than printable ASCII has to be percent-encoded")
    names = placeholders(source.topic)
    if set(names) != set(placeholders(source.url)):
        raise ConfigError(
            f"{path}.url: needs the placeholders of topic, all and only those: {names}"
        )


def topic_problem(name: str, longest: int = LONGEST_NAME) -> str | None:
    """
    Why `name` cannot name a topic; None if it can.

    Segments that URL libraries fold away (``a//b``, ``..``) would make two
    names of one topic.
    """
    if not name:
        return "a topic needs a name"
    if len(name) > longest:
        return f"a topic's name has at most {longest} characters (max_topic_name)"
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
        return "a topic's name has no control characters or line breaks"
    if any(segment in ("", ".", "..") for segment in name.split("/")):
        return 'a topic\'s name has no empty, "." or ".." segment'
    return None

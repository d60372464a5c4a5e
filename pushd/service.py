"""
The daemon: the one place where parts are built and put together.

:class:`Options` is the command line, :func:`makeService` what ``twistd`` runs.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall, IListeningPort
from twisted.logger import Logger
from twisted.python import usage
from twisted.python.failure import Failure
from twisted.web.server import Site

from pushd import __version__, config, demo
from pushd.auth import Tokens
from pushd.config import Config, Source
from pushd.errors import ConfigError
from pushd.feed import Feeds
from pushd.history.memory import MemoryHistory
from pushd.hub import Hub
from pushd.interfaces import ISource
from pushd.sources.catalogue import Catalogue, check_expressions
from pushd.sources.connection import trust_root
from pushd.sources.fetch import Fetcher
from pushd.sources.poll import Poller, Surroundings
from pushd.sources.worker import Worker
from pushd.topic import DocumentTopic
from pushd.web.cors import Cors
from pushd.web.pages import Pages
from pushd.web.publishing import Publishing
from pushd.web.reading import Reading
from pushd.web.root import Root
from pushd.web.site import make_site


class Options(usage.Options):
    """``twistd pushd``: what may be said on the command line."""

    synopsis = "[options]"
    longdesc = (
        "Polls HTTP sources and streams their changes as Server-Sent Events. "
        "Without -c it runs a demo on http://127.0.0.1:8080/."
    )
    optParameters: ClassVar = [
        ["config", "c", None, "The configuration, a TOML file."],
        ["listen", "l", None, "Where to listen, instead of server.listen: a Twisted endpoint."],
    ]
    optFlags: ClassVar = [["check", None, "Check the configuration, say what is wrong, and exit."]]
    config: Config | None = None

    def opt_version(self) -> None:
        """Show the version and exit."""
        print(f"pushd {__version__}")
        sys.exit(0)

    def postOptions(self) -> None:
        """Read the configuration, so that a mistake in it is all that is said."""
        path = self["config"]
        if self["check"] and path is None:
            raise usage.UsageError("--check needs a file: -c FILE")
        try:
            if path is not None:
                self.config = config.load(path)
                _check(self.config, path)
            if self["listen"] is not None:
                _check_endpoint(self["listen"], "--listen")
        except ConfigError as error:
            raise SystemExit(f"pushd: {error}") from None
        if self["check"]:
            assert self.config is not None
            print(f"{path}: ok, {len(self.config.sources)} source(s)")
            sys.exit(0)


def makeService(options: Options) -> Service:
    """What the options ask for: a daemon with its configuration, or the demo."""
    reactor = _reactor()
    if options.config is not None:
        return Daemon(reactor, options.config, options["listen"])
    upstream = demo.Upstream(reactor)
    return Daemon(reactor, upstream.config(), options["listen"], upstream)


class CannotStartError(SystemExit, Exception):
    """
    Ends the process with an exit code and without a traceback.

    An Exception too: that is what makes twistd tell the command that started a
    daemon, which would otherwise wait for ever.
    """


class Daemon(Service):
    """
    :param reactor: runs it.
    :param settings: its configuration.
    :param listen: where to listen instead.
    :param upstream: the demo's, which begins and ends with the daemon.
    """

    name = "pushd"
    log = Logger()

    def __init__(
        self,
        reactor: Any,
        settings: Config,
        listen: str | None = None,
        upstream: demo.Upstream | None = None,
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._listen = listen or settings.server.listen
        self._upstream = upstream
        self._worker = Worker(reactor)
        # Before anything is given away: an unreadable ca_file ends the start.
        self._fetchers = {
            ca_file: Fetcher(reactor, ca_file=ca_file)
            for ca_file in {source.ca_file for source in settings.sources.values()}
        }
        self._port: IListeningPort | None = None
        self._waiting: list[IDelayedCall] = []
        history = MemoryHistory(settings.history, time.time)
        self.hub = Hub(history, reactor, time.time)
        self.feeds = Feeds(self.hub, reactor, settings.server.heartbeat)
        self._around = Surroundings(self.hub, self._worker, reactor, time.time, random.random)
        self.catalogue = Catalogue(settings, self.hub, self._poller)

    def privilegedStartService(self) -> None:
        """Listen, while ports below 1024 are still allowed."""
        failures: list[Failure] = []
        self._opened = Deferred.fromCoroutine(self._open()).addErrback(failures.append)
        if failures:
            # TCP ports tell at once: twistd ends with this exit code.
            self._say_why(failures[0])
            raise CannotStartError(1)
        self._opened.addCallback(lambda _: self._opened_late(failures))

    def _opened_late(self, failures: list[Failure]) -> None:
        """Whatever opens takes its time; if it fails then, it ends the daemon all the same."""
        if failures:
            self._say_why(failures[0])
            self._reactor.stop()
        elif self.running:
            self._begin()

    async def _open(self) -> None:
        if self._upstream is not None:
            self._upstream.start()
        await self.hub.open()
        endpoint = serverFromString(self._reactor, _with_backlog(self._listen))
        self._port = await endpoint.listen(self._site())
        address = self._port.getHost()
        self.log.info("pushd {version} listens on {address}", version=__version__, address=address)

    def _say_why(self, failure: Failure) -> None:
        error = failure.value
        if not isinstance(error, CannotListenError | OSError | OverflowError):
            self.log.failure("pushd cannot start", failure)
            return
        self.log.critical(
            "cannot listen on {listen}: {reason}. To listen somewhere else: "
            "twistd -n pushd --listen tcp:PORT:interface=127.0.0.1",
            listen=self._listen,
            reason=getattr(error, "socketError", error),
        )

    def startService(self) -> None:
        """Begin with the sources that are always polled, as soon as all is open."""
        super().startService()
        if self._port is not None:
            self._begin()

    def _begin(self) -> None:
        Deferred.fromCoroutine(self._watch_always()).addErrback(
            lambda failure: self.log.failure("sources cannot be opened", failure)
        )

    async def _watch_always(self) -> None:
        for topic, source in await self.catalogue.always():
            # Nobody waits for these: they need not all begin at once.
            wait = source.every * random.random()
            self._waiting.append(self._reactor.callLater(wait, self.hub.watch, topic))

    def stopService(self) -> Deferred[None]:
        """Stop listening, end all streams, stop polling, finish recording."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)
        for call in self._waiting:
            if call.active():
                call.cancel()
        self.feeds.close()
        await self.hub.close()
        self._worker.close()
        await gatherResults([fetcher.close() for fetcher in self._fetchers.values()])
        if self._upstream is not None:
            await self._upstream.stop()

    def _site(self) -> Site:
        settings = self._settings
        server, publish = settings.server, settings.publish
        catalogue = self.catalogue
        root = Root(
            Reading(self.hub, self.feeds, catalogue, server, random.random),
            Publishing(self.hub, catalogue, Tokens(publish.tokens), publish.max_body),
            Pages("index.html" if self._upstream else None),
            Cors(server.cors_origins, catalogue.forwardable),
        )
        return make_site(root.resource(), publish.max_body)

    def _poller(
        self,
        topic: DocumentTopic,
        source: Source,
        url: str,
        headers: Mapping[str, str],
        forgotten: Callable[[], None],
    ) -> ISource:
        fetcher = self._fetchers[source.ca_file]
        return Poller(topic, source, url, headers, self._around, fetcher, forgotten)


def _reactor() -> Any:
    from twisted.internet import reactor  # noqa: PLC0415  # the import chooses the reactor

    return reactor


def _check(settings: Config, path: str) -> None:
    """What only the parts that use it can check. Raises ConfigError."""
    try:
        check_expressions(settings)
        _check_endpoint(settings.server.listen, "server.listen")
        for name, source in settings.sources.items():
            _check_ca_file(source.ca_file, f"sources.{name}.ca_file")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _with_backlog(description: str) -> str:
    """
    An endpoint that lets thousands connect at once. Twisted's 50 make the
    kernel drop the rest, who try again after a second, and then after three.
    """
    if description.startswith(("tcp:", "ssl:", "unix:")) and "backlog=" not in description:
        return f"{description}:backlog=4096"
    return description


def _check_endpoint(description: str, path: str) -> None:
    try:
        serverFromString(_reactor(), _with_backlog(description))
    except Exception as error:
        raise ConfigError(f"{path}: {description!r} is no endpoint: {error}") from None


def _check_ca_file(ca_file: str | None, path: str) -> None:
    try:
        if ca_file is not None:
            trust_root(ca_file)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None

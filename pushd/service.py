"""
The daemon: the one place where parts are built and put together.

:class:`Options` is the command line, :func:`makeService` what ``twistd`` runs.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from msgspec.structs import replace
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.error import CannotListenError
from twisted.logger import Logger
from twisted.python import usage
from twisted.python.failure import Failure

from pushd import __version__, backend, config, demo, descriptors, endpoint, signals
from pushd.auth import Tokens
from pushd.config import Config, Source
from pushd.ending import Ending
from pushd.errors import ConfigError, StartError
from pushd.feed import Feeds
from pushd.garbage import Garbage
from pushd.hub import Hub
from pushd.interfaces import ISource
from pushd.lag import Lag
from pushd.listening import Listener
from pushd.metrics import Metrics
from pushd.sources.always import Always
from pushd.sources.catalogue import Catalogue
from pushd.sources.check import check
from pushd.sources.fetchers import Fetchers
from pushd.sources.leased import Leased
from pushd.sources.poll import Poller, Surroundings
from pushd.sources.worker import Worker
from pushd.systemd import Notifier
from pushd.throttle import Throttle
from pushd.topic import DocumentTopic
from pushd.web.admission import Admission
from pushd.web.cors import Cors
from pushd.web.monitoring import Monitoring
from pushd.web.pages import Pages
from pushd.web.publishing import Publishing
from pushd.web.reading import Reading
from pushd.web.root import Root
from pushd.web.site import PushSite, make_site


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
                self.config = read(path)
            if self["listen"] is not None:
                reuse_port = self.config is not None and self.config.server.reuse_port
                endpoint.check(self["listen"], "--listen", reuse_port)
        except ConfigError as error:
            raise SystemExit(f"pushd: {error}") from None
        if self["check"]:
            assert self.config is not None
            print(f"{path}: ok, {len(self.config.sources)} source(s)")
            sys.exit(0)


def makeService(options: Options) -> Service:
    """What the options ask for: a daemon with its configuration, or the demo."""
    try:
        daemon = _daemon(options)
    except ConfigError as error:
        raise CannotStartError(f"pushd: {error}") from None
    signals.obey(_reactor(), daemon.end, daemon.reload)
    return daemon


def _daemon(options: Options) -> Daemon:
    """Raises ConfigError for what only shows when it is used."""
    reactor = _reactor()
    if options.config is not None:
        path = os.path.abspath(options["config"])
        return Daemon(reactor, options.config, options["listen"], path=path)
    upstream = demo.Upstream(reactor)
    return Daemon(reactor, upstream.config(), options["listen"], upstream=upstream)


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
    :param path: the file that the configuration is read from again; None if there is none.
    :param upstream: the demo's, which begins and ends with the daemon.
    """

    name = "pushd"
    log = Logger()

    def __init__(
        self,
        reactor: Any,
        settings: Config,
        listen: str | None = None,
        *,
        path: str | None = None,
        upstream: demo.Upstream | None = None,
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._listen = listen or settings.server.listen
        try:
            self._listener = Listener(reactor, self._listen, settings.server)
        except ConfigError as error:
            where = "server.listen" if listen is None else "--listen"
            raise ConfigError(f"{where}: {error}") from None
        self._path = path
        self._upstream = upstream
        self._reloading = DeferredLock()
        self._is_ending = False
        self._notifier = Notifier(reactor, os.environ)
        self._worker = Worker(reactor)
        self._fetchers = Fetchers(reactor, settings.sources.values())
        self._listening = False
        self.metrics = Metrics()
        history, self._leases = backend.build(reactor, settings.history, self.metrics)
        self.hub = Hub(history, reactor, time.time, self.metrics)
        self.feeds = Feeds(self.hub, reactor, settings.server.heartbeat, self.metrics)
        self._around = Surroundings(
            self.hub,
            self._worker,
            reactor,
            time.time,
            random.random,
            self.metrics,
            Throttle(reactor),
        )
        self.catalogue = Catalogue(settings, self.hub, self._poller)
        self._always = Always(self.hub, self.catalogue, reactor, random.random)
        self._lag = Lag(reactor, self.metrics)
        self._garbage = Garbage(reactor)
        self.admission = Admission(
            settings.server.max_clients,
            settings.server.max_clients_per_peer,
            settings.server.trusted_proxies,
        )
        self._site = self._make_site()
        self._ending = Ending(reactor, settings.server, self.feeds, self._site)

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
        if failures and failures[0].check(CancelledError):
            # It was ended while it waited for its history.
            return
        if failures:
            self._say_why(failures[0])
            self.end()
        elif self.running:
            self._begin()

    async def _open(self) -> None:
        if self._upstream is not None:
            self._upstream.start()
        descriptors.raise_limit()
        await self.hub.open()
        if self._leases is not None:
            self._leases.start()
        await self._listener.listen(self._site)
        self._listening = True
        self.admission.watch(self._listener.enough, self._listener.full)
        self.log.info(
            "pushd {version} listens on {address}",
            version=__version__,
            address=self._listener.address,
        )
        # Not before signals are obeyed: until the reactor runs, SIGHUP and SIGTERM kill.
        self._reactor.callWhenRunning(self._ready)

    def _ready(self) -> None:
        self._notifier.ready()
        self._notifier.follow(self._status)

    def _status(self) -> str:
        return f"{len(self.feeds):,} clients, {len(self._settings.sources)} sources"

    def _say_why(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, StartError):
            self.log.critical("pushd cannot start: {error}", error=str(error))
            return
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
        if self._listening:
            self._begin()

    def _begin(self) -> None:
        self._lag.start()
        self._garbage.start()
        self.hub.came_back = self._follow
        self._follow()

    def _follow(self) -> None:
        Deferred.fromCoroutine(self._always.follow()).addErrback(
            lambda failure: self.log.failure("sources cannot be opened", failure)
        )

    def reload(self) -> None:
        """Read the configuration again, and go over to it; a bad one changes nothing."""
        self._reloading.run(lambda: Deferred.fromCoroutine(self._reload())).addErrback(
            lambda failure: self.log.failure("reloading failed", failure)
        )

    async def _reload(self) -> None:
        if not self.running:
            return
        self._notifier.reloading()
        try:
            if self._path is None:
                raise ConfigError("there is no configuration file")
            settings = read(self._path)
            self._fetchers.reload(settings.sources.values())
            self._listener.reload()
        except ConfigError as error:
            self.log.error("not reloaded, pushd goes on as before: {error}", error=str(error))
        else:
            await self._take_over(settings)
        finally:
            self._notifier.reloaded()

    async def _take_over(self, settings: Config) -> None:
        used = self._settings
        # The topics are the catalogue's, like the sources; all else is as it was at the start.
        self._settings = replace(
            used,
            sources=settings.sources,
            publish=replace(used.publish, topics=settings.publish.topics),
        )
        changes = self.catalogue.replace(self._settings)
        await self._always.follow()
        await self._fetchers.keep(settings.sources.values())
        self.log.info(
            "reloaded: sources added {added}, removed {removed}, changed {changed}",
            added=changes.added,
            removed=changes.removed,
            changed=changes.changed,
        )
        for name in ("server", "history", "publish"):
            if getattr(self._settings, name) != getattr(settings, name):
                self.log.warn("changes of [{name}] wait until pushd is started again", name=name)

    def end(self) -> None:
        """End the process; said twice, without taking time for it."""
        if self._is_ending:
            self._ending.hurry()
        else:
            self._is_ending = True
            self._reactor.stop()

    def stopService(self) -> Deferred[None]:
        """Stop listening, send all clients away, stop polling, finish recording."""
        super().stopService()
        self._notifier.stopping(self._settings.server.drain)
        parts = (
            ("listening", self._stop_listening),
            ("sending clients away", self._ending.drain),
            ("polling for other nodes", self._give_leases_back),
            ("polling and recording", self.hub.close),
            ("the second process", self._worker.close),
            ("connections to sources", self._fetchers.close),
            ("the demo", self._stop_upstream),
            ("what the log has left out", self._around.throttle.tell),
            ("telling the service manager", self._notifier.close),
        )
        return Deferred.fromCoroutine(self._ending.run(parts))

    async def _stop_listening(self) -> None:
        self._always.stop()
        self._lag.stop()
        self._garbage.stop()
        await self._listener.stop()

    async def _give_leases_back(self) -> None:
        if self._leases is not None:
            await self._leases.close()

    async def _stop_upstream(self) -> None:
        if self._upstream is not None:
            await self._upstream.stop()

    def _make_site(self) -> PushSite:
        settings = self._settings
        server, publish = settings.server, settings.publish
        catalogue = self.catalogue
        tokens = Tokens(publish.tokens, publish.max_rate, time.monotonic)
        root = Root(
            Reading(
                self.hub,
                self.feeds,
                catalogue,
                server,
                self.admission,
                self.metrics,
                random.random,
            ),
            Publishing(self.hub, catalogue, tokens, publish.max_body),
            Monitoring(self.hub, self.feeds, catalogue, self.metrics, lambda: not self.running),
            Pages("index.html" if self._upstream else None),
            Cors(server.cors_origins, lambda: catalogue.forwardable),
        )
        return make_site(
            root.resource(),
            server,
            publish.max_body,
            self._reactor,
            self.admission,
            tokens.known,
        )

    def _poller(
        self,
        topic: DocumentTopic,
        source: Source,
        url: str,
        headers: Mapping[str, str],
        forgotten: Callable[[], None],
        before: ISource | None,
    ) -> ISource:
        fetcher = self._fetchers.of(source)
        if isinstance(before, Leased):
            before = before.poller
        poller = Poller(topic, source, url, headers, self._around, fetcher, forgotten, before)
        if self._leases is None:
            return poller
        return Leased(poller, self._leases, self.hub, self._reactor, source.timeout)


def _reactor() -> Any:
    from twisted.internet import reactor  # noqa: PLC0415  # the import chooses the reactor

    return reactor


def read(path: str) -> Config:
    """A configuration that has passed all checks, those of its parts too. Raises ConfigError."""
    settings = config.load(path)
    try:
        check(settings)
        server = settings.server
        endpoint.check(server.listen, "server.listen", server.reuse_port)
        if settings.history.backend == "redis":
            backend.connection(_reactor(), settings.history)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return settings

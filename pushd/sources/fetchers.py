"""
All fetchers of the daemon: one for each set of authorities that sources trust.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from twisted.internet.interfaces import IReactorTime

from pushd.config import Source
from pushd.sources.fetch import Fetcher


class Fetchers:
    """
    :param sources: those that will be polled.
    :raises ConfigError: a ``ca_file`` is no file of certificates.
    """

    def __init__(self, reactor: IReactorTime, sources: Iterable[Source]) -> None:
        self._reactor = reactor
        self._fetchers: dict[str | None, Fetcher] = {}
        self.reload(sources)

    def of(self, source: Source) -> Fetcher:
        """The one that polls `source`."""
        return self._fetchers[source.ca_file]

    def reload(self, sources: Iterable[Source]) -> None:
        """
        Read all certificates again, and those of new sources too.

        :raises ConfigError: one cannot be used. Those of before go on.
        """
        fresh = {
            ca_file: Fetcher(self._reactor, ca_file=ca_file)
            for ca_file in {source.ca_file for source in sources}
        }
        for ca_file, fetcher in fresh.items():
            known = self._fetchers.setdefault(ca_file, fetcher)
            known.trust_as(fetcher)

    async def keep(self, sources: Iterable[Source]) -> None:
        """Close those that none of `sources` needs."""
        await self._close(self._fetchers.keys() - {source.ca_file for source in sources})

    async def close(self) -> None:
        """Close all."""
        await self._close(tuple(self._fetchers))

    async def _close(self, ca_files: Collection[str | None]) -> None:
        for ca_file in ca_files:
            await self._fetchers.pop(ca_file).close()

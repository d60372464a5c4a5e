"""
The backend: which history the configuration asks for, put together.
"""

from __future__ import annotations

import os
import time
from typing import Any

from pushd.config import History
from pushd.errors import ConfigError
from pushd.history import place
from pushd.history.database import Database
from pushd.history.memory import MemoryHistory
from pushd.history.redis import RedisHistory
from pushd.history.sqlite import SQLiteHistory
from pushd.history.thread import Thread
from pushd.interfaces import IHistory
from pushd.leases import Leases
from pushd.metrics import Metrics
from pushd.redis.address import FORMS, Address
from pushd.redis.client import Redis


def build(reactor: Any, settings: History, metrics: Metrics) -> tuple[IHistory, Leases | None]:
    """
    The history, and if other nodes may share it, who polls for all of them.

    :raises ConfigError: it cannot be had.
    """
    if settings.backend == "memory":
        return MemoryHistory(settings, time.time), None
    if settings.backend == "redis":
        redis, tail = connection(reactor, settings), connection(reactor, settings)
        shared = RedisHistory(settings, redis, tail, reactor, time.time, fenced=True)
        return shared, Leases(redis, shared.node, settings.lease, reactor, metrics)
    return _in_file(reactor, settings), None


def _in_file(reactor: Any, settings: History) -> SQLiteHistory:
    where = place.Place(place.chosen(settings.path, os.environ))
    return SQLiteHistory(
        Database(where, settings, place.boot(os.environ)),
        settings,
        reactor,
        time.time,
        Thread(reactor, "history"),
        Thread(reactor, "history pages"),
    )


def connection(reactor: Any, settings: History) -> Redis:
    """A connection to the Redis of the history. Raises ConfigError."""
    if settings.url is None:
        raise ConfigError(f'history.url: backend = "redis" needs one: {FORMS}')
    try:
        address = Address.parse(settings.url)
    except ConfigError as error:
        raise ConfigError(f"history.url: {error}") from None
    try:
        endpoint = address.endpoint(reactor, settings.timeout, settings.ca_file)
    except ConfigError as error:
        raise ConfigError(f"history.ca_file: {error}") from None
    return Redis(reactor, address, endpoint, settings.prefix, settings.timeout)

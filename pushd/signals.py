"""
Signals: how an operator speaks to a daemon that runs.

Twisted's own way with SIGTERM ends the process by that signal once all is
stopped; a service manager, and a person, take an exit code of 0 for "it went well".
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any


def obey(reactor: Any, end: Callable[[], object], reload: Callable[[], object]) -> None:
    """
    Once the reactor runs, call `end` for SIGTERM and SIGINT, `reload` for SIGHUP;
    each in the reactor's own time.
    """
    wishes = {signal.SIGTERM: end, signal.SIGINT: end, signal.SIGHUP: reload}

    def heard(number: int, _: object) -> None:
        reactor.callFromThread(wishes[signal.Signals(number)])

    def install() -> None:
        for number in wishes:
            signal.signal(number, heard)

    # The reactor installs its own as it starts, just before this.
    reactor.callWhenRunning(install)

"""
What systemd is told: sd_notify(3), the service's side of ``Type=notify-reload``.

A service manager that wants to hear from a service gives it the name of a
socket, and a message is one datagram of ``NAME=value`` lines. Where there is no
such socket, nothing is sent. Which sockets are listened on under socket
activation is not told here: that is an endpoint's (``systemd:domain=INET6:name=...``).
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable, MutableMapping

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

STATUS_SECONDS = 5.0
"""How often it is looked whether the status has changed."""

RETRY_SECONDS = 0.1
"""When a message is sent again for which the service manager's socket had no room."""

SLACK_SECONDS = 10.0
"""What stopping may take beside the time that was named."""


class Notifier:
    """
    Tells the service manager how the daemon is doing.

    What cannot be sent is logged once and is never an error: a daemon that works
    goes on working. Messages keep their order; the ones that the socket has no room
    for wait.

    :param clock: paces the watchdog and the status.
    :param environment: says where to send to. It is taken out of there: processes
        that the daemon starts must not speak for it.
    :ivar watchdog: seconds without a word after which the service manager ends the
        daemon; None if it does not.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, environment: MutableMapping[str, str]) -> None:
        self._clock = clock
        self._address = _address(environment.pop("NOTIFY_SOCKET", ""))
        self.watchdog = _watchdog(
            environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        )
        self._socket: socket.socket | None = None
        if self._address:
            # Python's sockets are closed in processes that are started (PEP 446).
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        self._unsent: deque[str] = deque()
        self._retry: IDelayedCall | None = None
        self._loops: list[LoopingCall] = []
        self._watched = False
        self._status = ""
        self._failed = False

    def ready(self) -> None:
        """
        The daemon does its work: clients can connect. The watchdog begins: a
        reactor that hangs from now on is found out by its silence.
        """
        self._send("READY=1")
        if self.watchdog is not None and self._socket is not None and not self._watched:
            self._watched = True
            # Three times, so that one that comes late is no harm.
            self._repeat(self._alive, self.watchdog / 3)

    def reloading(self) -> None:
        """The configuration is read again. :meth:`reloaded` has to follow, however that ends."""
        # The time tells this reload from the one before.
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now}")

    def reloaded(self) -> None:
        """The new configuration is in use; or the old one still, if it was better."""
        self._send("READY=1")

    def stopping(self, seconds: float) -> None:
        """
        The daemon is about to end.

        :param seconds: how long that takes, at most. It is not to be killed
            before, whatever TimeoutStopSec= says.
        """
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int((seconds + SLACK_SECONDS) * 1e6)}")

    def follow(self, status: Callable[[], str]) -> None:
        """Send what `status` says, every few seconds if it has changed. It is one line."""
        if self._socket is not None:
            self._repeat(lambda: self.status(status()), STATUS_SECONDS)

    def status(self, text: str) -> None:
        """What ``systemctl status`` shows."""
        # A line break would begin another assignment.
        text = " ".join(text.split())
        if text != self._status and not self._unsent:
            self._status = text
            self._send(f"STATUS={text}")

    def close(self) -> None:
        """Say no more."""
        for loop in self._loops:
            if loop.running:
                loop.stop()
        self._loops.clear()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _alive(self) -> None:
        if not self._unsent:
            self._send("WATCHDOG=1")

    def _repeat(self, call: Callable[[], None], seconds: float) -> None:
        loop = LoopingCall(call)
        loop.clock = self._clock
        self._loops.append(loop)
        # A status that fails is not told any more; the watchdog's call does not fail.
        loop.start(seconds).addErrback(
            lambda failure: self.log.failure("the status cannot be told", failure)
        )

    def _send(self, message: str) -> None:
        if self._socket is not None:
            self._unsent.append(message)
            if self._retry is None:
                self._send_unsent()

    def _send_unsent(self) -> None:
        """In their order: READY=1 before the RELOADING=1 that it answers would mean nothing."""
        self._retry = None
        while self._unsent and self._socket is not None:
            try:
                self._socket.sendto(self._unsent[0].encode(errors="replace"), self._address)
            except BlockingIOError:
                self._retry = self._clock.callLater(RETRY_SECONDS, self._send_unsent)
                return
            except OSError as error:
                self._complain(error)
            self._unsent.popleft()

    def _complain(self, error: OSError) -> None:
        if not self._failed:
            self._failed = True
            self.log.warn("the service manager cannot be told: {error}", error=error)


def _address(name: str) -> str:
    """
    The address of NOTIFY_SOCKET: a path, or with "@" a name in the abstract
    namespace (unix(7)). Empty for others, which systemd uses in virtual machines.
    """
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else ""


def _watchdog(microseconds: str, pid: str) -> float | None:
    """See sd_watchdog_enabled(3). Seconds; None for a process that is not meant."""
    if not microseconds.isdecimal() or (pid and pid != str(os.getpid())):
        return None
    return int(microseconds) / 1e6 or None

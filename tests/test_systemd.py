"""What systemd is told, read from real sockets."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from service_manager import ServiceManager
from twisted.internet.endpoints import _SystemdParser
from twisted.internet.task import Clock
from twisted.logger import LogEvent, globalLogPublisher
from twisted.python.systemd import ListenFDs

from pushd import systemd
from pushd.systemd import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServiceManager]:
    path = str(tmp_path / "notify")
    manager = ServiceManager(path if request.param == "path" else f"@pushd-test-{os.getpid()}")
    yield manager
    manager.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def logged() -> Iterator[list[LogEvent]]:
    events: list[LogEvent] = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)


@pytest.fixture
def notifier(manager: ServiceManager, clock: Clock) -> Iterator[Notifier]:
    notifier = Notifier(clock, {"NOTIFY_SOCKET": manager.name})
    yield notifier
    notifier.close()
    assert not clock.getDelayedCalls()


def test_ready_is_told(manager: ServiceManager, notifier: Notifier) -> None:
    assert manager.told() == []
    notifier.ready()
    assert manager.told() == ["READY=1"]


def test_a_reload_is_told_with_its_time_and_its_end(
    manager: ServiceManager, notifier: Notifier
) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    (told,) = manager.told()
    times = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", told)
    assert times and before <= int(times[1]) <= after
    notifier.reloaded()
    assert manager.told() == ["READY=1"]


def test_stopping_asks_for_the_time_that_it_takes(
    manager: ServiceManager, notifier: Notifier
) -> None:
    notifier.stopping(90.5)
    assert manager.told() == ["STOPPING=1\nEXTEND_TIMEOUT_USEC=100500000"]


def test_the_status_is_told_when_it_changes_and_only_then(
    manager: ServiceManager, notifier: Notifier, clock: Clock
) -> None:
    text = "0 clients, 3 sources"
    notifier.follow(lambda: text)
    assert manager.told() == ["STATUS=0 clients, 3 sources"]
    clock.pump([systemd.STATUS_SECONDS] * 3)
    assert manager.told() == []
    text = "1,234 clients, 3 sources (1 failing)"
    clock.advance(systemd.STATUS_SECONDS)
    assert manager.told() == ["STATUS=1,234 clients, 3 sources (1 failing)"]


def test_a_status_is_one_line_whatever_is_in_it(
    manager: ServiceManager, notifier: Notifier
) -> None:
    notifier.status("all well\nSTOPPING=1\r\n\u2028ok \udc80")
    assert manager.told() == ["STATUS=all well STOPPING=1 ok ?"]


def test_a_status_that_fails_is_logged_and_harms_nothing_else(
    manager: ServiceManager, clock: Clock, logged: list[LogEvent]
) -> None:
    notifier = Notifier(clock, {"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "3000000"})
    notifier.ready()
    notifier.follow(lambda: str(1 // 0))
    clock.pump([1.0] * 5)
    assert manager.told() == ["READY=1"] + ["WATCHDOG=1"] * 6
    assert len(logged) == 1
    notifier.close()


def test_the_watchdog_hears_three_times_as_often_as_it_must_from_ready_to_the_end(
    manager: ServiceManager, clock: Clock
) -> None:
    notifier = Notifier(
        clock,
        {
            "NOTIFY_SOCKET": manager.name,
            "WATCHDOG_USEC": "30000000",
            "WATCHDOG_PID": str(os.getpid()),
        },
    )
    assert notifier.watchdog == 30
    notifier.follow(lambda: "x")
    clock.advance(100)
    manager.told()
    notifier.ready()
    notifier.reloading()
    notifier.reloaded()
    notifier.ready()
    manager.told()
    clock.pump([1.0] * 30)
    assert manager.told() == ["WATCHDOG=1"] * 3
    notifier.stopping(10)
    manager.told()
    clock.pump([1.0] * 10)
    assert manager.told() == ["WATCHDOG=1"], "draining may take longer than the watchdog waits"
    notifier.close()
    clock.pump([1.0] * 100)
    assert manager.told() == []
    assert not clock.getDelayedCalls()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WATCHDOG_PID": str(os.getpid())},
        {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getppid())},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": ""},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "-1"},
    ],
)
def test_no_watchdog_hears_what_it_did_not_ask_for(
    manager: ServiceManager, clock: Clock, environment: dict[str, str]
) -> None:
    notifier = Notifier(clock, {"NOTIFY_SOCKET": manager.name, **environment})
    notifier.ready()
    clock.pump([1.0] * 60)
    assert manager.told() == ["READY=1"]
    assert notifier.watchdog is None
    notifier.close()


@pytest.mark.parametrize(
    "environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock-stream:2:1234"}]
)
def test_without_a_service_manager_nothing_is_done(
    clock: Clock, environment: dict[str, str], logged: list[LogEvent]
) -> None:
    notifier = Notifier(clock, {**environment, "WATCHDOG_USEC": "30000000"})
    notifier.follow(lambda: "x")
    notifier.ready()
    notifier.reloading()
    notifier.reloaded()
    notifier.status("y")
    notifier.stopping(1)
    assert not clock.getDelayedCalls()
    notifier.close()
    assert not logged


@pytest.mark.parametrize("name", ["/nowhere/notify", "/" + "long" * 100, "@nobody-listens-here"])
def test_a_service_manager_that_is_gone_is_logged_once_and_harms_nothing(
    name: str, clock: Clock, logged: list[LogEvent]
) -> None:
    notifier = Notifier(clock, {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "3000000"})
    notifier.ready()
    clock.pump([1.0] * 10)
    notifier.stopping(1)
    notifier.close()
    assert len(logged) == 1
    assert "the service manager cannot be told: " in logged[0]["log_format"]


def test_what_the_socket_has_no_room_for_is_told_later_and_in_order(
    manager: ServiceManager, clock: Clock
) -> None:
    notifier = Notifier(clock, {"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "300000"})
    other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    other.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            other.sendto(b"noise", manager.address)
    notifier.ready()
    notifier.reloading()
    notifier.reloaded()
    notifier.status("well")
    clock.pump([systemd.RETRY_SECONDS] * 5)
    assert set(manager.told()) == {"noise"}
    clock.advance(systemd.RETRY_SECONDS)
    ready, reloading, reloaded, *rest = manager.told()
    assert (ready, reloading[:12], reloaded) == ("READY=1", "RELOADING=1\n", "READY=1")
    assert rest in ([], ["WATCHDOG=1"]), "what is said again anyway need not wait in line"
    notifier.status("well")
    assert "STATUS=well" in manager.told()
    notifier.stopping(1)
    notifier.close()
    other.close()
    assert not clock.getDelayedCalls()


def test_closing_while_something_waits_leaves_nothing_behind(
    manager: ServiceManager, clock: Clock
) -> None:
    notifier = Notifier(clock, {"NOTIFY_SOCKET": manager.name})
    for _ in range(1000):
        notifier.reloaded()
    assert len(clock.getDelayedCalls()) == 1
    notifier.close()
    notifier.ready()
    notifier.close()
    assert not clock.getDelayedCalls()


def test_processes_that_the_daemon_starts_cannot_speak_for_it(
    manager: ServiceManager, clock: Clock
) -> None:
    environment = {
        "NOTIFY_SOCKET": manager.name,
        "WATCHDOG_USEC": "1000000",
        "WATCHDOG_PID": "1",
        "PATH": "/bin",
    }
    command = [sys.executable, "-c", "import os; print(os.listdir('/proc/self/fd'))"]
    without = subprocess.run(command, capture_output=True, check=True, close_fds=False).stdout
    notifier = Notifier(clock, environment)
    notifier.ready()
    assert environment == {"PATH": "/bin"}
    told = subprocess.run(command, capture_output=True, check=True, close_fds=False).stdout
    assert told == without
    notifier.close()


# What is relied on in Twisted, which has socket activation but not its rules.


def test_twisted_takes_sockets_only_if_they_are_meant_for_this_process() -> None:
    meant = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http"}
    other = {**meant, "LISTEN_PID": str(os.getppid())}
    assert ListenFDs.fromEnvironment(other).inheritedNamedDescriptors() == {}
    assert ListenFDs.fromEnvironment(meant).inheritedNamedDescriptors() == {"http": 3}
    assert isinstance(_SystemdParser._sddaemon, ListenFDs), "read when endpoints are imported"

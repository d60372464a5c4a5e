"""systemd's part, for tests: hear what services say, and start them on a socket that stays."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

_ACTIVATE = """
import os, sys
given = int(sys.argv[1])
if given != 3:
    os.dup2(given, 3)
    os.close(given)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class ServiceManager:
    """
    The socket that services tell how they are doing, NOTIFY_SOCKET.

    :param name: a path, or with "@" a name in the abstract namespace.
    :ivar heard: all that was told, in order.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.address = "\0" + name[1:] if name.startswith("@") else name
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.setblocking(False)

    def close(self) -> None:
        self._socket.close()

    def told(self) -> list[str]:
        """What came since the last call."""
        messages = []
        with suppress(BlockingIOError):
            while True:
                messages.append(self._socket.recv(65536).decode())
        self.heard += messages
        return messages

    def wait_for(self, beginning: str, seconds: float = 15.0) -> str:
        """The next message that begins so; those before it are skipped."""
        deadline = time.monotonic() + seconds
        while True:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                message = self._socket.recv(65536).decode()
            except TimeoutError:
                raise AssertionError(f"no {beginning} in {seconds} s, but {self.heard}") from None
            finally:
                self._socket.setblocking(False)
            self.heard.append(message)
            if message.startswith(beginning):
                return message


def activate(
    listening: socket.socket, name: str, arguments: list[str], output: Path, **environment: str
) -> subprocess.Popen[bytes]:
    """A program that is given a socket as systemd does it (sd_listen_fds(3))."""
    with output.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-c", _ACTIVATE, str(listening.fileno()), *arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
            pass_fds=[listening.fileno()],
            env={**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": name, **environment},
            cwd=output.parent,
        )

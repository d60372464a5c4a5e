"""A line to a server that may be slow: what is under way stays so for a while."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Line:
    """``with Line(port) as line``: ``line.port`` leads there."""

    def __init__(self, leads_to: int) -> None:
        self._leads_to = leads_to
        self._flows = threading.Event()
        self._flows.set()

    def __enter__(self) -> Line:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        # Closing alone does not wake the thread that waits for it.
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def hold(self) -> None:
        """Nothing arrives, in either direction, until it is released."""
        self._flows.clear()

    def release(self) -> None:
        """All of it arrives."""
        self._flows.set()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._leads_to))
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                self._flows.wait()
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

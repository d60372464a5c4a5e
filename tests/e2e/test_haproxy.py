"""pushd behind the real HAProxy, with conf/haproxy.cfg."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from nodes import SeveralNodes
from processes import free_port, program, running
from proxied import Certificate, Promises, Proxy, adapted


def configuration(
    folder: Path, port: int, backend: int, certificate: Certificate, other: int | None = None
) -> Path:
    replaced = {
        "log /dev/log": "log stdout format raw",
        "127.0.0.1:8080": f"127.0.0.1:{backend}",
        "[::]:443": f"[::1]:{port}",
        "bind :443": f"bind 127.0.0.1:{port}",
        "/etc/haproxy/pushd.pem": str(certificate.path),
    }
    if other is not None:
        replaced["# server pushd2 127.0.0.1:8081"] = f"server pushd2 127.0.0.1:{other}"
    if os.getuid() != 0:
        # Only root may become somebody else, somewhere else.
        replaced |= {f"{name} ": f"# {name} " for name in ("user", "group", "chroot")}
    path = folder / "haproxy.cfg"
    path.write_text(adapted("haproxy.cfg", replaced))
    return path


@contextmanager
def haproxy(folder: Path, backend: int, other: int | None = None) -> Iterator[Proxy]:
    port, certificate = free_port(), Certificate(folder)
    path = configuration(folder, port, backend, certificate, other)
    command = [program("haproxy"), "-db", "-f", str(path)]
    with running(command, folder / "haproxy.log", port) as process:
        yield Proxy(process, port, certificate)


class TestHAProxy(Promises):
    connection = r"127\.0\.0\.1:(\d+) .*\"GET /topics/news HTTP"
    # HAProxy 2.6 knows that the stream is broken (SD in its log), but ends it in an orderly
    # way over HTTP/2. When this fails, it has learned better, and the README may say so.
    broken_off: ClassVar = {"http1.1": 18, "http2": 0}
    proxy = staticmethod(haproxy)

    def test_the_file_is_right(self, tmp_path: Path) -> None:
        path = configuration(tmp_path, 443, 8080, Certificate(tmp_path))
        command = [program("haproxy"), "-c", "-f", str(path)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert "WARNING" not in result.stderr and "ALERT" not in result.stderr


class TestHAProxyWithSeveralNodes(SeveralNodes):
    proxy = staticmethod(haproxy)

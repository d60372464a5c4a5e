"""pushd behind the real nginx, with conf/nginx.conf."""

from __future__ import annotations

import getpass
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
        "www-data": getpass.getuser(),
        "/run/": f"{folder}/",
        "/var/log/nginx/": f"{folder}/",
        "127.0.0.1:8080": f"127.0.0.1:{backend}",
        "[::]:443": f"[::1]:{port}",
        "listen 443": f"listen 127.0.0.1:{port}",
        "/etc/letsencrypt/live/pushd.example.com/fullchain.pem": str(certificate.path),
        "/etc/letsencrypt/live/pushd.example.com/privkey.pem": str(certificate.path),
    }
    if other is not None:
        replaced["# server 127.0.0.1:8081"] = f"server 127.0.0.1:{other}"
    text = adapted("nginx.conf", replaced)
    # Where large bodies wait is compiled in, and for root to write.
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    assert "\nhttp {\n" in text
    path = folder / "nginx.conf"
    path.write_text(text.replace("\nhttp {\n", f"\nhttp {{ {temporary}\n"))
    return path


@contextmanager
def nginx(folder: Path, backend: int, other: int | None = None) -> Iterator[Proxy]:
    port, certificate = free_port(), Certificate(folder)
    path = configuration(folder, port, backend, certificate, other)
    logs = folder / "access.log", folder / "error.log"
    for log in logs:
        log.unlink(missing_ok=True)
    command = [program("nginx"), "-p", str(folder), "-e", "stderr", "-c", str(path)]
    with running([*command, "-g", "daemon off;"], folder / "nginx.out", port) as process:
        yield Proxy(process, port, certificate, *logs)


class TestNginx(Promises):
    connection = r"GET /topics/news .* connection=(\d+)"
    broken_off: ClassVar = {"http1.1": 18, "http2": 92}
    proxy = staticmethod(nginx)

    def test_the_file_is_right(self, tmp_path: Path) -> None:
        path = configuration(tmp_path, 443, 8080, Certificate(tmp_path))
        command = [program("nginx"), "-t", "-p", str(tmp_path), "-e", "stderr", "-c", str(path)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert "test is successful" in result.stderr
        assert "[emerg]" not in result.stderr and "conflicting" not in result.stderr


class TestNginxWithSeveralNodes(SeveralNodes):
    proxy = staticmethod(nginx)

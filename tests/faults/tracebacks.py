"""What looks like a bug of ours in the log: tracebacks, and errors that nobody looked at."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.logger import formatEvent, globalLogPublisher


@contextmanager
def none_logged() -> Iterator[None]:
    """Fails with what was logged of this kind meanwhile."""
    failures: list[str] = []

    def observe(event: Any) -> None:
        if "log_failure" in event:
            failures.append(f"{formatEvent(event)}\n{event['log_failure'].getTraceback()}")

    globalLogPublisher.addObserver(observe)
    try:
        yield
        gc.collect()
    finally:
        globalLogPublisher.removeObserver(observe)
    assert not failures, f"{len(failures)} times, first:\n{failures[0]}"

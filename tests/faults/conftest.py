"""What all faults have in common: nothing may be in the log that looks like a bug of ours."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.logger import formatEvent, globalLogPublisher


@pytest.fixture(scope="module", autouse=True)
def little_garbage() -> Iterator[None]:
    """Makes looking for garbage after each test cheap."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def no_tracebacks() -> Iterator[None]:
    """No test leaves a traceback in the log, nor an error that nobody looked at."""
    failures: list[str] = []

    def observe(event: Any) -> None:
        if "log_failure" in event:
            failures.append(f"{formatEvent(event)}\n{event['log_failure'].getTraceback()}")

    globalLogPublisher.addObserver(observe)
    yield
    gc.collect()
    globalLogPublisher.removeObserver(observe)
    assert not failures, "\n".join(failures[:3])

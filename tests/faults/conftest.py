"""What all faults have in common: nothing may be in the log that looks like a bug of ours."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from faults.tracebacks import none_logged
from hypothesis import settings

settings.register_profile("soak", max_examples=100_000)


@pytest.fixture(scope="module", autouse=True)
def little_garbage() -> Iterator[None]:
    """Makes looking for garbage after each test cheap."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def no_tracebacks() -> Iterator[None]:
    with none_logged():
        yield

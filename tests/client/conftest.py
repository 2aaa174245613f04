"""Fixtures for tests of the client."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """Objects are freed only by their reference counts."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()

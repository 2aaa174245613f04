"""Fixtures for tests of connections."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """What goes must go by its count of references."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()

"""Fixtures for tests of the test kit."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from txgearman.testing import MemoryJobServer


@pytest.fixture
def server() -> MemoryJobServer:
    """On a clock of Twisted's own."""
    return MemoryJobServer(Clock())

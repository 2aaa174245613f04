"""Job servers in memory for the tests of the worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from txgearman.testing import MemoryJobServer


@pytest.fixture
def server() -> Iterator[MemoryJobServer]:
    """A job server that is closed after the test; then no timer may be left on its clock."""
    server = MemoryJobServer()
    yield server
    server.verify()
    server.close(verify=False)  # of jobs that never end
    assert server.clock.getDelayedCalls() == []


@pytest.fixture
def second(server: MemoryJobServer) -> MemoryJobServer:
    """Another job server, on the same clock."""
    return MemoryJobServer(server.clock)
